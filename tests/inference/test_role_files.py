"""A student of studies whose images are files by role is trained on a list, and scores another list of these roles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from monai_rd.cli.app import app
from monai_rd.export.manifest import manifest
from monai_rd.inference import Predictor, TrainedBundle, read_scores
from monai_rd.integrations.explanation import look
from tests.bundles.commands import copied, infer, train
from tests.inference.test_roles import by_hand
from tests.role_files import SEQUENCES, write_sequences, write_views
from tests.small import SMALL
from tests.trained import VOLUMES, trained_bundle
from tests.volume_teacher import write_volume_teacher

WRITE = {"mr": write_sequences, "xray": write_views}
WINDOWS = VOLUMES | {"spacing": [4.0, 4.0, 2.5], "field": [128.0, 128.0, 80.0]}  # two along z


def rule(*names: str) -> dict[str, Any]:
    return {"roles": dict.fromkeys(names)}


def listed(path: Path, studies: list[dict[str, str]]) -> Path:
    path.write_text(json.dumps({"test": [{"image": one} for one in studies]}))
    return path


@pytest.mark.parametrize(
    ("modality", "names", "lacks", "settings"),
    [
        ("mr", SEQUENCES, ("flair", "t1"), {}),
        pytest.param("mr", SEQUENCES, ("flair", "t1"), WINDOWS, marks=pytest.mark.slow),
        ("xray", ("pa", "lateral"), ("lateral",), {}),
    ],
)
def test_probabilities_are_the_mean_by_hand(
    modality: str,
    names: tuple[str, ...],
    lacks: tuple[str, ...],
    settings: dict[str, Any],
    tmp_path: Path,
    few_positions: None,
) -> None:
    bundle = trained_bundle(tmp_path, modality, series_roles=rule(*names), **settings)
    predictor = Predictor(TrainedBundle(bundle, device="cpu"))
    studies = [WRITE[modality](tmp_path / "in", number, present) for number, present in enumerate([names, lacks])]
    found = predictor(listed(tmp_path / "in" / "new.json", studies))
    for one, study in zip(found, studies, strict=True):
        assert one.roles == tuple(role for role in names if role in study)
        files = [str(tmp_path / "in" / study[role]) for role in one.roles]
        assert list(one.probabilities.values()) == pytest.approx(by_hand(predictor, files), abs=2e-6)
        assert [str(file) for file in one.files] == files
        assert (one.series, one.study) == ("", "")
        assert look(predictor, one).place.partition(",")[0] in one.roles
    assert {role: manifest(TrainedBundle(bundle))["input"]["roles"][role] for role in names} == dict.fromkeys(names)


def test_predict_scores_a_list_and_refuses_a_folder(tmp_path: Path) -> None:
    bundle = trained_bundle(tmp_path, "xray", series_roles=rule("pa", "lateral"))
    path = listed(tmp_path / "in" / "new.json", [write_views(tmp_path / "in", number) for number in range(2)])
    words = ["predict", str(bundle), "--to", str(tmp_path / "out"), "--from"]
    assert CliRunner().invoke(app, [*words, str(path)]).exit_code == 0
    assert [one.roles for one in read_scores(tmp_path / "out" / "scores.csv")] == [("pa", "lateral")] * 2
    refused = CliRunner().invoke(app, [*words, str(tmp_path / "in")])
    assert refused.exit_code != 0
    assert "give a list that names the files of each role" in str(refused.exception)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["xray", "volumes"])
def test_a_training_on_a_list(kind: str, tmp_path: Path) -> None:
    """Also of volumes, with a teacher whose features are stored; a part has no labels.

    The student keeps the roles of its list; it is evaluated and scores lists of them. Nothing tells the files' names.
    """
    modality = "xray" if kind == "xray" else "mr"
    data, made = tmp_path / "data", []
    count = 8 if kind == "volumes" else 24

    def written(number: int) -> dict[str, str]:
        names = WRITE[modality](data / "Secretname", number)
        return {role: f"Secretname/{name}" for role, name in names.items()}

    for number in range(count):
        present = list(written(number).items())
        images = dict(present[: 1 + number % 2] if number % 3 == 0 else present)
        made.append({"image": images, "label": number % 2, "patient": f"P-{number}"})
    content = {
        "training": made[: -count // 2],
        "validation": made[count // 2 : -count // 4],
        "test": made[-count // 4 :],
    }
    content["unlabeled"] = [{"image": written(100 + number)} for number in range(count // 4)]
    (data / "list.json").write_text(json.dumps(content))
    root = copied(modality, tmp_path)
    words = ["--data_list", str(data / "list.json"), "--batch_size", str(count // 4), "--report_page", "false"]
    if kind == "volumes":
        words += ["--student", "resnet10_3d", "--teacher", str(write_volume_teacher(tmp_path)), "--feature_views", "1"]
        words += ["--spacing", "4 4 4", "--field", "[128, 128, 128]", "--max_epochs", "1", "--epoch_steps", "1"]
    else:
        words += ["--student", SMALL, "--image_size", "32", *(["--slices", "3"] if modality == "mr" else [])]
    said = train(root, str(data), *words, quick=kind != "volumes")
    settings = json.loads((root / "models" / "settings.json").read_text())
    names = SEQUENCES if modality == "mr" else ("pa", "lateral")
    assert settings["series_roles"] == rule(*names)
    out = tmp_path / "scored"
    said += infer(root, str(data), out, "--data_list", str(data / "list.json"))
    assert len(read_scores(out / "scores.csv")) == count // 4
    assert json.loads((out / "scores_metrics.json").read_text())["metrics"]
    unlabelled = tmp_path / "unlabelled"
    said += infer(root, str(data), unlabelled, "--data_list", str(data / "list.json"), "--labelled", "false")
    assert len(read_scores(unlabelled / "scores.csv")) == count + count // 4
    files = [path for folder in (root, out, unlabelled) for path in folder.rglob("*") if path.is_file()]
    assert "Secretname" not in said
    assert not [path for path in files if b"Secretname" in path.read_bytes() or "Secretname" in path.name]

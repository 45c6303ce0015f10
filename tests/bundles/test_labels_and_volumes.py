"""The two roads that the default runs do not take: several labels an image, and networks of volumes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_rd.networks import Student
from tests.bundles.commands import config, copied, score, train
from tests.volume_teacher import write_volume_teacher

SEVERAL = {"NORMAL": "No Finding", "PNEUMONIA": "opacity|lobar", "COVID19": "opacity", "TURBERCULOSIS": "cavity"}


@pytest.mark.slow
def test_several_labels_an_image(
    cohort_of: Callable[[str], str], pool_of: Callable[[str], str], tmp_path: Path
) -> None:
    with open(Path(cohort_of("xray")) / "labels.csv", newline="") as file:
        rows = [{**row, "label": SEVERAL[row["label"]]} for row in csv.DictReader(file)]
    with open(tmp_path / "findings.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    root = copied("xray", tmp_path)
    words = ["--data_list", str(tmp_path / "findings.csv"), "--unlabelled", pool_of("xray"), "--cutmix", "true"]
    words += ["--criterion", "focal", "--class_weights", "balanced"]
    printed = train(root, cohort_of("xray"), *words)
    assert "unlabelled: 12 of 12 images" in printed
    result = json.loads((root / "eval" / "metrics.json").read_text())
    assert result["class_names"] == ["cavity", "lobar", "opacity"]
    assert "The student by class" in printed
    assert "val_ap" in printed
    test = [row["label"] for row in rows if row["split"] == "test"]
    positives = [sum(name in label for label in test) for name in result["class_names"]]
    assert [one["positives"] for one in result["test"]["student"]["classes"]] == positives
    assert set(result["test"]) == {"student", "reprogrammed teacher"}

    scored = score(root, cohort_of("xray"), tmp_path / "out")
    assert len(scored) == len(rows)
    sums = [sum(float(row[f"p_{name}"]) for name in result["class_names"]) for row in scored]
    assert max(abs(total - 1) for total in sums) > 0.05  # each class has a probability of its own
    for row in scored:
        named = [name for name in result["class_names"] if float(row[f"p_{name}"]) >= 0.5]
        assert row["class"] == "|".join(named)


def test_a_student_of_volumes_has_phantoms_and_a_teacher_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(output_dir: str, modality: str, volumes: bool) -> str:
        (tmp_path / "phantoms.json").write_text(json.dumps({"modality": modality, "volumes": volumes}))
        return str(tmp_path)

    monkeypatch.setattr("monai_rd.phantoms.phantom_cohort", drawn)
    train = config("ct", "train.json", student="densenet121_3d")
    words = ("dataset_dir", "teacher", "spacing", "teacher_spacing", "field", "region", "batch_size")
    values = {word: train.get_parsed_content(word) for word in words}
    assert json.loads((Path(values.pop("dataset_dir")) / "phantoms.json").read_text())["volumes"] is True
    assert values == {
        "teacher": "phantom_ct_3d",
        "spacing": [5, 5, 5],
        "teacher_spacing": [5, 5, 5],
        "field": [220, 160, 200],
        "region": "lung",
        "batch_size": 4,
    }
    own = config("ct", "train.json", student="densenet121_3d", dataset_dir=str(tmp_path / "own"))
    assert own.get_parsed_content("spacing") == [3, 3, 4]
    assert own.get_parsed_content("region") == "body"


@pytest.fixture(scope="module")
def volume_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_volume_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.mark.slow
def test_a_teacher_and_a_student_of_volumes(
    cohort_of: Callable[[str], str], pool_of: Callable[[str], str], volume_teacher: Path, tmp_path: Path
) -> None:
    root = copied("ct", tmp_path)
    words = ["--spacing", "10 10 4", "--field", "[320, 320, 128]", "--max_epochs", "1", "--epoch_steps", "1"]
    words += ["--teacher", str(volume_teacher), "--student", "efficientnet_b0_3d", "--batch_size", "4"]
    words += ["--unlabelled", pool_of("ct"), "--cutmix", "true", "--feature_views", "1", "--report_page", "false"]
    words += ["--class_weights", "sampling"]
    printed = train(root, cohort_of("ct"), *words, quick=False)
    assert "epoch   1/1" in printed
    assert "unlabelled: 12 of 12 images" in printed
    settings = json.loads((root / "models" / "settings.json").read_text())
    assert settings["windows"] == ["full"]
    assert (settings["spacing"], settings["field"]) == ([10, 10, 4], [320, 320, 128])
    assert (settings["teacher_spacing"], settings["view_spacing"], settings["image_size"]) == (
        [5, 5, 4],
        [5, 5, 4],
        None,
    )
    assert set(json.loads((root / "eval" / "metrics.json").read_text())["test"]) == {"student", "reprogrammed teacher"}
    state = torch.load(root / "models" / "model.pt", weights_only=True)
    Student("efficientnet_b0_3d", 2).load_state_dict(state)
    with open(Path(cohort_of("ct")) / "labels.csv", newline="") as file:
        first = next(row for row in csv.DictReader(file) if row["split"] == "test")
    (row,) = score(root, str(Path(cohort_of("ct")) / first["image"]), tmp_path / "out")
    with np.load(root / "eval" / "predictions.npz") as tested:  # the report of the training has seen the same image
        (seen,) = tested["probabilities"][tested["places"] == 0]
    assert float(row["p_opacity"]) == pytest.approx(float(seen[1]), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modality", "words", "told"),
    [
        ("xray", [], "a 3D student needs volumes with a --spacing and a --field in mm: take the bundle rd_ct or"),
        ("ct", ["--image_size", "64"], "--image_size: leave it out for a 3D student"),
        ("ct", ["--spacing", "1 1"], '--spacing: three lengths in mm (x, y, z), such as "1.5 1.5 3", is needed'),
        ("ct", ["--region", "liver"], "--region must be one of body, lung, brain, image, not 'liver'"),
    ],
)
def test_wrong_words_for_volumes(
    modality: str, words: list[str], told: str, cohort_of: Callable[[str], str], tmp_path: Path
) -> None:
    words = ["--student", "resnet10_3d", "--method", "ce", "--unlabelled", "None", *words]
    assert told in train(copied(modality, tmp_path), cohort_of(modality), *words, quick=False, code=1)


def test_a_teacher_of_volumes_and_a_student_of_slices_are_refused(
    cohort_of: Callable[[str], str], volume_teacher: Path, tmp_path: Path
) -> None:
    printed = train(copied("ct", tmp_path), cohort_of("ct"), "--teacher", str(volume_teacher), code=1)
    assert "the teacher 'small_volume' reads volumes, the student images or slices" in printed

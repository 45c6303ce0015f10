"""MONAI Deploy: the application's folder, and the same answers by it as by the bundle.

The application itself runs where the environment variable MONAI_DEPLOY_PYTHON names a Python that has
monai-deploy-app-sdk, see docs/guide/monai_deploy.md.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pydicom
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from monai_rd.cli.app import app
from monai_rd.files import sha256
from monai_rd.inference import Predictor, TorchScriptFile, TrainedBundle
from monai_rd.integrations.dicom_output import structured_report
from monai_rd.integrations.monai_deploy.application import selection_rules, write_application
from monai_rd.transforms.scope import image_levels
from tests.bundles.commands import copied, score
from tests.dicom_files import NAME, PATIENT_ID, make_series
from tests.servers import deploy
from tests.trained import VOLUMES, trained_bundle

CLASSES = ["cold", "warm", "hot"]


def bundle(to: Path, **settings: Any) -> Path:
    """A bundle as after a training with axial CT."""
    levels = {name: [0.0, 1.0] for name in image_levels(torch.rand(9))}
    scope = {"modality": ["CT"], "body_part": [], "orientation": ["axial"], "levels": levels}
    return trained_bundle(to, class_names=CLASSES, **{"scope": scope, **settings})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """The application of it, written by the console command."""
    made = tmp_path_factory.mktemp("deploy") / "new" / "app"
    done = CliRunner().invoke(app, ["deploy-app", str(made), str(root)])
    assert done.exit_code == 0, done.output
    return made


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as hospitals send it: two good series, three that are not, junk."""
    found = tmp_path_factory.mktemp("export") / PATIENT_ID

    def twice(k: int, ds: Dataset) -> None:
        if k == 3:
            ds.ImagePositionPatient = [-31.5, 12.25, 45.0]  # that of slice 2

    make_series(found / "oblong pixels", shape=(20, 26))
    make_series(found / "square pixels", shape=(18, 18), spacing=(0.7, 0.7), seed=1)
    make_series(found / "gap", skip=(2,), seed=2)
    make_series(found / "double", change=twice, seed=3)
    make_series(found / "mr", modality="MR", rescale=None, seed=4)
    (found / "junk.txt").write_text("no DICOM")
    (found / "junk.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"junk" * 9)
    return found


@pytest.fixture(scope="module")
def expected(root: Path, export: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What the bundle says of each series."""
    rows = score(root, str(export), tmp_path_factory.mktemp("scores"))
    return {row["series"]: row for row in rows}


def probabilities(row: dict[str, str]) -> list[float]:
    return [float(row[f"p_{name}"]) for name in CLASSES]


def test_the_folder_is_complete(folder: Path) -> None:
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    wanted = {"app.py", "__main__.py", "app.yaml", "requirements.txt", "selection.json", "models/student/model.ts"}
    assert files == wanted
    assert list(folder.parent.iterdir()) == [folder]
    texts = {name: (folder / name).read_text() for name in files if not name.endswith(".ts")}
    assert not [name for name, text in texts.items() if "@VERSION@" in text or "@TITLE@" in text]
    for name in ("app.py", "__main__.py"):
        compile(texts[name], name, "exec")
    about = yaml.safe_load(texts["app.yaml"].partition("---")[2])
    assert about["application"]["title"] == "Reprogramming Distillation, chest CT"
    assert json.loads(texts["selection.json"]) == selection_rules({"modality": ["CT"]})
    assert "monai-deploy-app-sdk==4.0.0" in texts["requirements.txt"]


def test_the_model_carries_what_its_users_need_and_nothing_of_its_maker(folder: Path, root: Path) -> None:
    with ZipFile(folder / "models" / "student" / "model.ts") as archive:
        metadata = json.loads(archive.read("model/extra/metadata.json"))
        inference = json.loads(archive.read("model/extra/inference.json"))
    formats = metadata["network_data_format"]
    assert formats["outputs"]["pred"]["channel_def"] == {"0": "cold", "1": "warm", "2": "hot"}
    assert formats["outputs"]["pred"]["num_channels"] == 3
    assert formats["inputs"]["image"]["spatial_shape"] == [32, 32]
    assert ConfigParser(inference).get_parsed_content("trained")["slices"] == 3
    assert NAME not in json.dumps(inference)
    assert str(root) not in json.dumps(inference)


def test_the_same_answers_as_by_the_bundle(folder: Path, export: Path, expected: dict[str, dict[str, str]]) -> None:
    predictor = Predictor(TorchScriptFile(folder / "models" / "student" / "model.ts"))
    classifier, studies = predictor.classifier, predictor.find(export)
    assert len(studies.items) == 3
    for item in studies.items:
        prepared, told = classifier.prepare(item), expected[item["series"]]
        assert prepared["problem"] == told["problem"] == ("WRONG_MODALITY" if item["modality"] == "MR" else "")
        if not prepared["problem"]:
            (found,) = classifier.infer([prepared])
            row = classifier.answer(prepared, found).row()
            assert found.study.tolist() == pytest.approx(probabilities(told), abs=1e-6)
            assert (row["class"], row["flags"]) == (told["class"], told["flags"])
            logits = found.slices.log().mean(dim=0)  # a study's logits are the mean of its slices'
            assert logits.softmax(0).tolist() == pytest.approx(found.study.tolist(), abs=1e-5)
    close = [probabilities(row) for row in expected.values() if not row["problem"]]
    assert max(abs(a - b) for a, b in zip(*close, strict=True)) > 1e-3  # they do depend on the image


def test_volumes_and_several_labels(tmp_path: Path) -> None:
    made = bundle(tmp_path, multi_label=True, scope=None, **VOLUMES)
    write_application(tmp_path / "app", str(made))
    classifier = Predictor(TorchScriptFile(tmp_path / "app" / "models" / "student" / "model.ts")).classifier
    item = {"id": "1", "flags": "", "files": (), "problem": "", "message": "", "image": torch.rand(1, 32, 32, 32)}
    (found,) = classifier.infer([item])
    assert (found.study.shape, found.slices) == ((3,), None)
    row = classifier.answer(item, found).row()
    assert row["class"] == "|".join(n for n, p in zip(classifier.class_names, found.study, strict=True) if p >= 0.5)
    assert row["slices"] == []
    assert float(found.study.sum()) != pytest.approx(1)
    assert json.loads((tmp_path / "app" / "selection.json").read_text()) == selection_rules(None)


def test_refusals(tmp_path: Path, root: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    with pytest.raises(FileExistsError, match="give a new folder"):
        write_application(tmp_path / "full", str(root))
    untrained = copied("ct", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train\.json first"):
        write_application(tmp_path / "app", str(untrained))
    with pytest.raises(FileNotFoundError, match=r"no bundle '.*full'"):
        write_application(tmp_path / "app", str(tmp_path / "full"))
    with pytest.raises(FileNotFoundError, match="no bundle 'rd_xy'"):
        write_application(tmp_path / "app", "rd_xy")
    torch.jit.script(torch.nn.ReLU()).save(str(tmp_path / "bare.ts"))
    with pytest.raises(ValueError, match="carries no"):
        TorchScriptFile(tmp_path / "bare.ts")
    assert not (tmp_path / "app").exists()


def test_the_application_runs(
    folder: Path, root: Path, export: Path, expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    done = deploy(folder, "-i", export, "-o", tmp_path, "-m", folder / "models", "-l", "DEBUG")
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-6000:]
    scores = (tmp_path / "scores.json").read_text()
    found = {row["series"]: row for row in json.loads(scores)["studies"]}
    assert found.keys() == expected.keys()
    for uid, row in found.items():
        told = expected[uid]
        if "problem" in row:
            # The selector takes no MR: it does not come as far as being refused.
            assert row["problem"] == told["problem"].replace("WRONG_MODALITY", "NOT_SELECTED")
        else:
            assert list(row["probabilities"].values()) == pytest.approx(probabilities(told), abs=1e-5)
            assert len(row["slices"]) == 3
    problems = sorted(row["problem"] for row in found.values() if "problem" in row)
    assert problems == ["DUPLICATE_SLICES", "MISSING_SLICES", "NOT_AN_IMAGE", "NOT_SELECTED"]
    reports = [pydicom.dcmread(path) for path in tmp_path.glob("*.dcm")]
    assert sorted(one.StudyInstanceUID for one in reports) == sorted(
        row["study"] for row in found.values() if "class" in row
    )
    assert {(one.Modality, one.VerificationFlag, str(one.PatientID)) for one in reports} == {
        ("SR", "UNVERIFIED", PATIENT_ID)
    }
    # It is the student that `monai-rd predict` asks: its hash, and its reports, which an archive has once.
    assert json.loads(scores)["model"]["sha256"] == sha256(root / "models" / "model.pt")
    student = Predictor(TrainedBundle(root, device="cpu"))
    answers = [one for one in student(export) if not one.problem]
    own = {structured_report(one, student.algorithm).SOPInstanceUID for one in answers}
    assert {one.SOPInstanceUID for one in reports} == own
    for secret in (NAME, PATIENT_ID, "19700101", str(export)):
        assert secret not in log
        assert secret not in scores
    assert not re.findall(r"\d+(?:\.\d+){5,}", log)  # a UID


def test_a_study_without_a_report_costs_no_other_its_own(folder: Path, tmp_path: Path) -> None:
    def change(_: int, ds: Dataset) -> None:
        ds["StudyInstanceUID"].VR = "LO"
        ds.StudyInstanceUID = "../../elsewhere"

    make_series(tmp_path / "in" / "a", change=change)
    make_series(tmp_path / "in" / "b", seed=1)
    make_series(tmp_path / "in" / "c", seed=2, change=change)
    done = deploy(folder, "-i", tmp_path / "in", "-o", tmp_path / "out", "-m", folder / "models")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 scored studies without a report" in done.stderr
    assert len(list((tmp_path / "out").glob("*.dcm"))) == 1
    assert not re.findall(r"\d+(?:\.\d+){5,}|elsewhere", done.stdout + done.stderr)


def test_an_operator_that_fails_names_nobody(folder: Path, tmp_path: Path) -> None:
    make_series(tmp_path / "in")
    (tmp_path / PATIENT_ID / "scores.csv").mkdir(parents=True)  # where a file is to be written
    done = deploy(folder, "-i", tmp_path / "in", "-o", tmp_path / PATIENT_ID, "-m", folder / "models")
    assert done.returncode != 0
    log = done.stdout + done.stderr
    assert "ClassifierOperator failed with a IsADirectoryError" in log
    assert PATIENT_ID not in log


def test_nothing_to_score_is_an_exit_code(folder: Path, tmp_path: Path) -> None:
    make_series(tmp_path / "in", skip=(2,))
    done = deploy(folder / "app.py", "-i", tmp_path / "in", "-o", tmp_path / "out", "-m", folder / "models")
    assert done.returncode == 1, done.stderr[-3000:]
    assert "no study was scored" in done.stderr
    assert [row["problem"] for row in json.loads((tmp_path / "out" / "scores.json").read_text())["studies"]] == [
        "MISSING_SLICES"
    ]


def test_the_stock_volume_of_square_pixels_gives_the_same(
    folder: Path, export: Path, expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    square = export / "square pixels"
    to = tmp_path / "stock.json"
    script = Path(__file__).with_name("stock_volume.py")
    done = deploy(script, folder / "models" / "student" / "model.ts", square, to)
    assert done.returncode == 0, done.stderr[-3000:]
    uid = str(pydicom.dcmread(next(square.iterdir()), stop_before_pixels=True).SeriesInstanceUID)
    assert json.loads(to.read_text()) == pytest.approx(probabilities(expected[uid]), abs=1e-5)

"""One model, one identity: what is said of a study has the same UIDs in whatever form the student runs."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset

pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")

from monai_rd.export import export_formats
from monai_rd.files import sha256
from monai_rd.inference import Prediction, Predictor, TorchScriptFile, TrainedBundle
from monai_rd.inference.trained import Algorithm
from monai_rd.integrations.dicom_output import secondary_capture, structured_report
from monai_rd.integrations.monai_deploy.application import write_application
from monai_rd.integrations.monai_label.application import write_label_app
from tests.dicom_files import make_series
from tests.trained import CLASS_NAMES, trained_bundle

SHAPE = (40, 44)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two series of a study, and one of another."""
    folder = tmp_path_factory.mktemp("export")

    def of_one_study(_: int, header: Dataset) -> None:
        header.StudyInstanceUID = "1.2.3"

    for number, change in enumerate((of_one_study, of_one_study, None)):
        make_series(folder / str(number), shape=SHAPE, seed=number, change=change)
    return folder


def uids(made: Dataset) -> list[str]:
    """Every UID in an object, in its place."""
    return [f"{one.tag} {one.value}" for one in made.iterall() if one.VR == "UI"]


def objects(algorithm: Algorithm, predictions: list[Prediction]) -> dict[str, list[list[str]]]:
    """The UIDs of report and picture of each series."""
    scored = [one for one in predictions if not one.problem]
    pixels = np.zeros((8, 8, 3), np.uint8)
    return {
        one.series: [uids(structured_report(one, algorithm)), uids(secondary_capture(one, algorithm, pixels))]
        for one in scored
    }


def by_predict(bundle: Path, export: Path, **words: Any) -> dict[str, list[list[str]]]:
    predictor = Predictor(TrainedBundle(bundle, device="cpu", **words))
    return objects(predictor.algorithm, predictor(export))


def by_torchscript(file: Path, export: Path) -> dict[str, list[list[str]]]:
    """As MONAI Deploy's operators do it."""
    predictor = Predictor(TorchScriptFile(file))
    known = predictor.classifier
    prepared = [known.prepare(item) for item in predictor.find(export).items]
    return objects(predictor.algorithm, [known.answer(one, *known.infer([one])) for one in prepared])


def by_deploy_app(bundle: Path, export: Path, place: Path) -> dict[str, list[list[str]]]:
    write_application(place / "app", str(bundle))
    return by_torchscript(place / "app" / "models" / "student" / "model.ts", export)


def by_export(bundle: Path, export: Path, place: Path) -> dict[str, list[list[str]]]:
    return by_torchscript(export_formats(TrainedBundle(bundle), ["torchscript"], place)["torchscript"], export)


def by_label_app(bundle: Path, export: Path, place: Path) -> dict[str, list[list[str]]]:
    (copy,) = write_label_app(place / "label", [bundle])
    return by_predict(copy, export)


@pytest.fixture(scope="module")
def expected(bundle: Path, export: Path) -> dict[str, list[list[str]]]:
    return by_predict(bundle, export)


@pytest.mark.parametrize("way", [by_deploy_app, by_export, by_label_app])
def test_every_way_gives_the_uids_of_predict(
    way: Any, expected: dict[str, list[list[str]]], bundle: Path, export: Path, tmp_path: Path
) -> None:
    assert len(expected) == 3
    reports = [made[0] for made in expected.values()]
    assert len({tuple(one) for one in reports}) == 3
    assert way(bundle, export, tmp_path) == expected
    (tmp_path / "again").mkdir()
    assert way(bundle, export, tmp_path / "again") == expected


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torchscript", "torch.export", "onnx"])
def test_one_model_makes_one_file(form: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if form == "onnx":
        pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
    files = []
    for hour in (1, 7):
        monkeypatch.setattr("time.time", lambda hour=hour: 1.7e9 + 3600 * hour)
        (tmp_path / str(hour)).mkdir()
        files.append(export_formats(TrainedBundle(bundle), [form], tmp_path / str(hour))[form])
    assert files[0].read_bytes() == files[1].read_bytes()


def test_chance_has_no_part_in_a_torchscript_file(bundle: Path, tmp_path: Path) -> None:
    """PyTorch writes a module's constants in the order of a set, which is another in every process."""
    file = export_formats(TrainedBundle(bundle), ["torchscript"], tmp_path)["torchscript"]
    runs = 0
    with zipfile.ZipFile(file) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        for name in (one for one in archive.namelist() if one.endswith(".py")):
            for run in re.findall(r"(?m)(?:^ +\w+ : Final\[.*\n)+", archive.read(name).decode()):
                lines = run.splitlines()
                assert lines == sorted(lines)
                runs += len(lines) > 1
    assert runs


def of_other_weights(root: Path) -> dict[str, Any]:
    state = torch.load(root / "models" / "model.pt", weights_only=True)
    torch.save({**state, "temperature": state["temperature"] * 2}, root / "models" / "model.pt")
    return {}


def of_other_classes(root: Path) -> dict[str, Any]:
    return changed_settings(root, class_names=CLASS_NAMES[::-1])


def of_another_window(root: Path) -> dict[str, Any]:
    return changed_settings(root, windows=["mediastinum"])


def changed_settings(root: Path, **changed: Any) -> dict[str, Any]:
    settings = root / "models" / "settings.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | changed))
    return {}


def of_an_override(root: Path) -> dict[str, Any]:
    return {"image_size": 48}


@pytest.mark.slow
@pytest.mark.parametrize("other", [of_other_weights, of_other_classes, of_another_window, of_an_override])
def test_another_student_gives_other_uids(
    other: Any, expected: dict[str, list[list[str]]], bundle: Path, export: Path, tmp_path: Path
) -> None:
    root = tmp_path / bundle.name
    shutil.copytree(bundle, root)
    words = other(root)
    found = by_predict(root, export, **words)
    for series, (report, picture) in expected.items():
        own = {one for one in (*found[series][0], *found[series][1]) if one in (*report, *picture)}
        assert {one for one in own if "(0008,0018)" in one or "(0020,000e)" in one} == set()  # SOP instance, series
    assert TrainedBundle(root, **words).algorithm.identity != TrainedBundle(bundle).algorithm.identity


def test_what_does_not_change_an_answer_changes_no_uid(
    expected: dict[str, list[list[str]]], bundle: Path, export: Path, tmp_path: Path
) -> None:
    """A teacher's name in the settings, other copies of the same images, another folder."""
    root = tmp_path / bundle.name
    shutil.copytree(bundle, root)
    changed_settings(root, teacher="another")
    assert by_predict(root, export) == expected
    predictor = Predictor(TrainedBundle(bundle, device="cpu"))
    copies = [replace(one, files=one.files * 2) for one in predictor(export)]
    assert objects(predictor.algorithm, copies) == expected


def test_a_file_that_does_not_name_its_model_is_refused(bundle: Path, tmp_path: Path) -> None:
    file = export_formats(TrainedBundle(bundle), ["torchscript"], tmp_path)["torchscript"]
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(tmp_path / "old.ts", "w") as made:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("manifest.json"):
                manifest = json.loads(content)
                del manifest["model"]["settings_sha256"]
                content = json.dumps(manifest).encode()
            made.writestr(name.replace("model/", "old/", 1), content)
    with pytest.raises(ValueError, match="write it anew with monai-rd deploy-app"):
        TorchScriptFile(tmp_path / "old.ts")


def test_monai_labels_answer_names_the_model(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app's own code over what it takes of MONAI Label; also after the file was replaced."""

    class InferTask:
        def __init__(self, kind: str, labels: dict[str, int], dimension: int, about: str, config: dict) -> None:
            self.labels, self.config = labels, lambda: config

    class HTTPException(Exception):
        pass

    kinds, app = type("InferType", (), {"CLASSIFICATION": "classification"}), type("MONAILabelApp", (), {})
    taken: dict[str, dict[str, Any]] = {
        "fastapi": {"HTTPException": HTTPException},
        "monailabel.interfaces.app": {"MONAILabelApp": app},
        "monailabel.interfaces.tasks.infer_v2": {"InferTask": InferTask, "InferType": kinds},
        "monailabel.utils.others.generic": {"device_list": lambda: ["cpu"], "name_to_device": lambda names: names[0]},
    }
    for name, content in taken.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    (copy,) = write_label_app(tmp_path / "app", [bundle])
    task = runpy.run_path(str(tmp_path / "app" / "main.py"))["ClassifierTask"](str(copy))
    study = tmp_path / "study.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 5), np.float32) - 700, np.eye(4)), study)
    scores = []
    for change in (lambda root: None, of_other_weights):
        change(copy)
        file, answer = task({"image": str(study)})
        assert file is None
        assert answer["model"] == {"sha256": sha256(copy / "models" / "model.pt")}
        assert answer["label_names"] == {name: number for number, name in enumerate(CLASS_NAMES)}
        assert [one["label"] for one in answer["prediction"]] == CLASS_NAMES
        scores.append([one["score"] for one in answer["prediction"]])
    assert scores[0] != scores[1]  # by another temperature
    (tmp_path / "bad.nii.gz").write_bytes(b"no volume")
    for bad, code in (("bad.nii.gz", "UNREADABLE_IMAGE"), ("gone.nii.gz", "NO_IMAGE")):
        with pytest.raises(HTTPException) as refused:
            task({"image": str(tmp_path / bad)})
        status, detail = refused.value.args
        assert (status, detail["problem"]) == (422, code)

"""Answers of a `Predictor` about folders."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from monai.bundle import ConfigParser
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet

from monai_rd.bundle import bundle_root
from monai_rd.datasets import DataListError
from monai_rd.finite import NotFiniteError
from monai_rd.inference import Predictor, StudyClassifier, TrainedBundle
from tests.dicom_files import NAME, make_series
from tests.pickled import Marks
from tests.small import SMALL

Bundle = Callable[..., Path]
SHAPE = (40, 44)


def test_it_is_inference_json_that_answers(predictor: Predictor, tmp_path: Path) -> None:
    """The same rows as by MONAI's command, which writes them."""
    make_series(tmp_path / "in" / "a", shape=SHAPE)
    make_series(tmp_path / "in" / "b", shape=SHAPE, skip=(2,), seed=1)
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 5), np.float32) - 700, np.eye(4)), tmp_path / "in" / "c.nii.gz")
    predictions = predictor(tmp_path / "in")
    predictor.write(predictions, tmp_path / "ours" / "scores.csv")
    content = ConfigParser.load_config_file(f"{bundle_root('rd_ct')}/configs/inference.json")
    places = {
        "bundle_root": str(predictor.student.root),
        "output_dir": str(tmp_path / "out"),
        "dataset_dir": str(tmp_path / "in"),
    }
    ConfigParser({**content, **places, "device": "cpu"}).get_parsed_content("evaluator").run()
    ours, theirs = (json.loads((tmp_path / name / "scores.json").read_text()) for name in ("ours", "out"))
    assert ours == theirs
    assert (tmp_path / "ours" / "scores.csv").read_bytes() == (tmp_path / "out" / "scores.csv").read_bytes()
    assert [one.problem for one in predictions] == ["MISSING_SLICES", "", ""]
    assert {one.model for one in predictions} == {predictor.algorithm.sha256}
    assert [len(one.files) for one in predictions] == [0, 1, 6]
    assert str(tmp_path) not in repr(predictions)
    assert predictor(tmp_path / "in") == predictions  # loaded once, asked twice


def test_a_dicomdir(predictor: Predictor, tmp_path: Path) -> None:
    uid, _ = make_series(tmp_path / "in", shape=SHAPE)
    media = FileSet()
    for file in sorted((tmp_path / "in").iterdir()):
        media.add(file)
    media.write(tmp_path / "media")
    (tmp_path / "media" / "beside.dcm").write_bytes(b"not named by the directory")
    assert [one.id for one in predictor(tmp_path / "media" / "DICOMDIR")] == [uid]


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # pydicom, of what the test writes
def test_series_whose_uid_is_none_or_missing(bundle_of: Bundle, tmp_path: Path) -> None:
    """A code is scored under its own name, a word under its hash; without any the policy decides."""

    def named(uid: str | None) -> Callable[[int, Dataset], None]:
        def change(_: int, ds: Dataset) -> None:
            if uid is None:
                del ds.SeriesInstanceUID
            else:
                ds.SeriesInstanceUID = uid

        return change

    for number, uid in enumerate(("ID_eba422961c", NAME, None)):
        make_series(tmp_path / "in" / str(number), shape=SHAPE, change=named(uid), seed=number)
    root = str(bundle_of())
    found = {one.id: one.problem for one in Predictor(TrainedBundle("rd_ct", bundle_root=root))(tmp_path / "in")}
    assert found.pop("ID_eba422961c") == ""
    kinds = {one.partition("-")[0]: problem for one, problem in found.items()}
    assert kinds == {"sha256": "", "files": "NO_SERIES_UID"}
    assert NAME not in str(found)
    policy = {"default": "skip", "NO_SERIES_UID": "warn"}
    read = Predictor(TrainedBundle("rd_ct", bundle_root=root, policy=policy))(tmp_path / "in")
    assert {one.id for one in read if not one.problem} == {"ID_eba422961c", *found}


def test_a_diverged_network_says_nothing(bundle_of: Bundle, tmp_path: Path) -> None:
    root = bundle_of()
    state = torch.load(root / "models" / "model.pt", weights_only=True)
    state["classifier.weight"].fill_(3e38)  # the logits overflow
    torch.save(state, root / "models" / "model.pt")
    make_series(tmp_path / "in", shape=SHAPE)
    (one,) = Predictor(TrainedBundle("rd_ct", bundle_root=str(root)))(tmp_path / "in")
    assert (one.problem, one.classes, dict(one.probabilities)) == ("NOT_FINITE", (), {})
    state["classifier.bias"][0] = float("nan")
    torch.save(state, root / "models" / "model.pt")
    with pytest.raises(NotFiniteError, match=r"model\.pt: .* the first is classifier\.bias: .* train again"):
        TrainedBundle("rd_ct", bundle_root=str(root))


def test_a_study_that_breaks_the_program_stops_no_other(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        make_series(tmp_path / "in" / str(number), shape=SHAPE, slices=6 + number, seed=number)
    infer = StudyClassifier.infer

    def broken(self: StudyClassifier, items: Any) -> Any:
        if any(len(item["files"]) == 7 for item in items):
            raise KeyError(f"/{NAME}/file")
        return infer(self, items)

    monkeypatch.setattr(StudyClassifier, "infer", broken)
    found = predictor(tmp_path / "in")
    assert sorted(one.problem for one in found) == ["", "", "UNEXPECTED"]
    (message,) = (one.message for one in found if one.problem)
    assert "KeyError" in message
    assert NAME not in message + caplog.text


def test_the_policy_of_the_bundle_holds(bundle_of: Bundle, tmp_path: Path) -> None:
    strict = Predictor(
        TrainedBundle("rd_ct", bundle_root=str(bundle_of()), policy={"UNREADABLE_IMAGE": "error", "default": "skip"})
    )
    make_series(tmp_path / "gap", shape=SHAPE, skip=(2,))
    assert [one.problem for one in strict(tmp_path / "gap")] == ["MISSING_SLICES"]
    (tmp_path / "junk.dcm").write_bytes(b"junk")
    with pytest.raises(ValueError, match="UNREADABLE_IMAGE"):
        strict(tmp_path)
    headers = Predictor(TrainedBundle("rd_ct", bundle_root=str(strict.student.root), policy={}))
    with pytest.raises(DataListError, match="MISSING_SLICES"):
        headers(tmp_path / "gap")


def test_the_folder_of_a_bundle(bundle_of: Bundle, tmp_path: Path) -> None:
    root = bundle_of(class_names=["a", "b", "c"], slices=3)
    shutil.copytree(Path(bundle_root("rd_ct")) / "configs", root / "configs")
    predictor = Predictor(TrainedBundle(root))
    make_series(tmp_path / "in", shape=SHAPE)
    (one,) = predictor(tmp_path / "in")
    assert list(one.probabilities) == ["a", "b", "c"]
    assert len(one.slices) == 3
    assert predictor.algorithm.parameters[0] == f"student={SMALL}"


def test_what_is_no_trained_bundle(bundle_of: Bundle, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no trained model"):
        TrainedBundle("rd_ct", bundle_root=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no bundle 'rd_foot'"):
        TrainedBundle("rd_foot")
    root = bundle_of()
    torch.save({"other": torch.zeros(2)}, root / "models" / "model.pt")
    with pytest.raises(ValueError, match=f"not the weights of the student '{SMALL}'"):
        TrainedBundle("rd_ct", bundle_root=str(root))


def test_image_files_are_scored_as_they_are_shown_or_have_a_row_with_a_code(
    predictor: Predictor, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A pickle in a NumPy array under the name of a picture is not opened; what is no number is not the network's."""
    folder, mark = tmp_path / f"wardfolder_{NAME}", tmp_path / "ran"
    folder.mkdir()

    def volume(name: str, array: np.ndarray, affine: np.ndarray) -> None:
        nib.save(nib.Nifti1Image(array, affine), folder / f"{name}_{NAME}.nii.gz")

    np.save(folder / "a.npy", np.array([Marks(mark)], dtype=object), allow_pickle=True)
    (folder / "a.npy").rename(folder / f"a_{NAME}.png")
    np.save(folder / "b.npy", np.zeros((8, 8, 5), np.float32))
    (folder / "b.npy").rename(folder / f"b_{NAME}.nii.gz")
    lung = np.full((8, 8, 5), -700, np.float32)
    lung[2:5, 2:4] = -200
    volume("c", np.where(lung > -700, np.nan, lung), np.eye(4))
    volume("d", lung, np.eye(4))
    volume("e", np.zeros((8, 8, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")]), np.eye(4))
    zeros = nib.Nifti1Image(lung, None)
    zeros.header["sform_code"] = 1
    (folder / f"f_{NAME}.nii").write_bytes(zeros.to_bytes())
    meta = SimpleITK.GetImageFromArray(lung.T)
    meta.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])  # ITK's axes point left and back, NIfTI's right and front
    SimpleITK.WriteImage(meta, str(folder / f"g_{NAME}.mha"))
    with caplog.at_level(logging.DEBUG):
        found = predictor(folder)
    problems = ["UNREADABLE_IMAGE", "UNREADABLE_IMAGE", "INVALID_VALUES", "", "UNREADABLE_IMAGE", "BAD_GEOMETRY", ""]
    assert [one.problem for one in found] == problems
    assert "holds 30 values of 320" in found[2].message
    assert "colour (RGB)" in found[4].message
    assert found[3].probabilities == found[6].probabilities
    assert not mark.exists()
    printed = capfd.readouterr()
    told = caplog.text + printed.out + printed.err + repr([one.row() for one in found])
    assert not [word for word in (*NAME.split("^"), "wardfolder") if word in told]

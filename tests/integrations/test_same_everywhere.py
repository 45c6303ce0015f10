"""A CT series has the same probabilities and conformal set wherever the student is asked about it."""

from __future__ import annotations

import csv
import json
import subprocess
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from typer.testing import CliRunner

from monai_rd.cli.app import app
from monai_rd.export import FORMATS, export_formats
from monai_rd.export.manifest import manifest
from monai_rd.inference import ConformalSet, Decision, Predictor, TorchScriptFile, TrainedBundle
from monai_rd.inference.conformal import set_in_words
from monai_rd.integrations.monai_deploy.application import write_application
from monai_rd.integrations.monai_label.application import write_label_app
from tests.bundles.commands import score
from tests.dicom_files import make_series, oblique
from tests.servers import LabelServer, deploy, deploy_python, label_python, label_server, running_orthanc
from tests.trained import CLASS_NAMES, trained_bundle

SHAPE = (40, 56)
LIMITS = (0.2, 0.375, 0.4)  # of which the two series have other sets
MAKER, OWN = "Siemens Scan 3", (0.9, 0.9, 0.9)  # the scanner of one series, and its limits
Answers = dict[str, dict[str, Any]]  # by series: probabilities by class, and the "set" in words


class Cohort:
    """Two CT series, one of them oblique and with a mark outside its field of view; the same as NIfTI.

    The axial series is of a scanner that has limits of its own, which a NIfTI cannot tell.

    Attributes:
        bundle: whose inference.json gives what is `expected`.
        uids: SeriesInstanceUID by the series' name.
    """

    def __init__(self, folder: Path) -> None:
        self.bundle = trained_bundle(folder, limits=LIMITS, of_scanners={MAKER: OWN})
        self.dicom, self.nifti = folder / "dicom", folder / "nifti"
        self.nifti.mkdir()
        self.uids = {}
        for name, how in {
            "axial": {"change": self._made},
            "oblique": {"orientation": oblique(), "change": self._mark},
        }.items():
            self.uids[name], _ = make_series(self.dicom / name, slices=9, shape=SHAPE, seed=len(name), **how)
            reader = SimpleITK.ImageSeriesReader()  # as MONAI Label converts DICOM
            reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(self.dicom / name)))
            SimpleITK.WriteImage(reader.Execute(), str(self.nifti / f"{name}.nii.gz"))
        self.expected = self.named(score(self.bundle, str(self.dicom), folder / "scores"))

    def without_header(self) -> Answers:
        """What is expected of files that do not tell the scanner: the sets of an unknown one."""
        sets = Decision((ConformalSet("by scanner", (20,) * 3, LIMITS),))
        found = {}
        for name, one in self.expected.items():
            (said,) = sets.answers([one[label] for label in CLASS_NAMES], CLASS_NAMES)
            found[name] = {**one, "set": set_in_words(said, len(CLASS_NAMES))}
        return found

    @staticmethod
    def _made(number: int, dataset: Any) -> None:
        dataset.Manufacturer, dataset.ManufacturerModelName = MAKER.split(" ", 1)

    @staticmethod
    def _mark(number: int, dataset: Any) -> None:
        pixels = np.frombuffer(dataset.PixelData, np.int16).reshape(SHAPE).copy()
        pixels[:14, :20] = -2000
        dataset.PixelData, dataset.PixelPaddingValue = pixels.tobytes(), -2000

    def named(self, rows: list[dict[str, str]]) -> Answers:
        """Rows of `scores.csv` by the names of their series."""
        names = {uid: name for name, uid in self.uids.items()}
        p = {names[row["series"]]: {one: float(row[f"p_{one}"]) for one in CLASS_NAMES} for row in rows}
        return {names[row["series"]]: {**p[names[row["series"]]], "set": row["set"]} for row in rows}

    def read(self, folder: Path) -> Answers:
        """What `scores*.csv` in a folder says."""
        (file,) = folder.glob("scores*.csv")
        with open(file, newline="") as stream:
            return self.named(list(csv.DictReader(stream)))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return Cohort(tmp_path_factory.mktemp("cohort"))


def by_export(name: str) -> Callable[[Cohort, Path], Answers]:
    def ask(cohort: Cohort, place: Path) -> Answers:
        if name != "torchscript":
            pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
            pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
        trained = TrainedBundle(cohort.bundle, device="cpu")
        (file,) = export_formats(trained, [name], place).values()
        if name == "torchscript":
            predictor = Predictor(TorchScriptFile(file))
        else:
            predictor = Predictor(trained)
            predictor.classifier = replace(predictor.classifier, network=FORMATS[name].load(trained, file, 1))
        names = {uid: one for one, uid in cohort.uids.items()}
        found = predictor(cohort.dicom)
        for one, whole in zip(found, Predictor(trained)(cohort.dicom), strict=True):
            assert np.array(one.slices) == pytest.approx(np.array(whole.slices), abs=1e-5)
        return {names[one.series]: {**one.probabilities, "set": one.sets_in_words[0]} for one in found}

    return ask


def by_nifti(cohort: Cohort, place: Path) -> Answers:
    rows = score(cohort.bundle, str(cohort.nifti), place)  # in the order of their names; NIfTI has no series
    return cohort.named(
        [row | {"series": uid} for row, uid in zip(rows, map(cohort.uids.get, sorted(cohort.uids)), strict=True)]
    )


def predict(cohort: Cohort, place: Path, *words: str) -> Answers:
    pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")
    given = ["predict", str(cohort.bundle), *words, "--to", str(place / "out"), "--state", str(place / "state")]
    done = CliRunner().invoke(app, [*given, "--", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    return cohort.read(place / "out")


def by_predict(cohort: Cohort, place: Path) -> Answers:
    return predict(cohort, place, "--from", str(cohort.dicom))


def by_dicomweb(cohort: Cohort, place: Path) -> Answers:
    pytest.importorskip("requests", reason="the extra 'dicom' is not installed")
    with running_orthanc(place) as orthanc:
        upload(cohort, orthanc.web)
        return predict(cohort, place, "--from", orthanc.web, "--modality", "CT")


def upload(cohort: Cohort, web: str) -> None:
    for file in cohort.dicom.rglob("*.dcm"):
        urllib.request.urlopen(web.replace("dicom-web", "instances"), data=file.read_bytes(), timeout=60).close()


def by_label_app(cohort: Cohort, place: Path) -> Answers:
    label_python()
    (copy,) = write_label_app(place / "app", [cohort.bundle])
    with label_server(place / "app", str(cohort.nifti), place / "home", copy.name) as server:
        return {one: labelled(server, one) for one in cohort.uids}


def labelled(server: LabelServer, image: str) -> dict[str, Any]:
    return {**server.probabilities(image), "set": set_in_words(server.conformal_set(image), len(CLASS_NAMES))}


def by_label_app_from_dicomweb(cohort: Cohort, place: Path) -> Answers:
    label_python()
    (copy,) = write_label_app(place / "app", [cohort.bundle])
    with running_orthanc(place) as orthanc:
        upload(cohort, orthanc.web)
        with label_server(place / "app", orthanc.web, place / "label", copy.name) as server:
            return {name: labelled(server, uid) for name, uid in cohort.uids.items()}


def by_labels_own_bundle_app(cohort: Cohort, place: Path) -> Answers:
    get = [label_python(), "-m", "monailabel.main", "apps", "--download", "--name", "monaibundle"]
    subprocess.run([*get, "--output", str(place / "apps")], check=True, capture_output=True, timeout=300)
    (copy,) = write_label_app(place / "app", [cohort.bundle])
    model = place / "apps" / "monaibundle" / "model"
    model.mkdir()
    (model / copy.name).symlink_to(copy)
    conf = {"models": copy.name, "zoo_source": "github", "skip_trainers": "true", "sam2": "false"}
    written = {name.lower(): name for name in CLASS_NAMES}  # as it does
    with label_server(model.parent, str(cohort.nifti), place / "home", copy.name, conf) as server:
        return {one: {written[k]: p for k, p in server.probabilities(one).items()} for one in cohort.uids}


def by_deploy_app(cohort: Cohort, place: Path) -> Answers:
    deploy_python()
    folder = place / "app"
    write_application(folder, str(cohort.bundle))
    done = deploy(folder, "-i", cohort.dicom, "-o", place / "out", "-m", folder / "models")
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    names = {uid: name for name, uid in cohort.uids.items()}
    told = json.loads((place / "out" / "scores.json").read_text())["studies"]
    return {
        names[row["series"]]: {**row["probabilities"], "set": set_in_words(row["set"], len(CLASS_NAMES))}
        for row in told
    }


WAYS = {
    "TorchScript": by_export("torchscript"),
    "ONNX": by_export("onnx"),
    "torch.export": by_export("torch.export"),
    "NIfTI": by_nifti,
    "monai-rd predict": by_predict,
    "Orthanc by DICOMweb": by_dicomweb,
    "MONAI Label": by_label_app,
    "MONAI Label, Orthanc by DICOMweb": by_label_app_from_dicomweb,
    "MONAI Label's own bundle app": by_labels_own_bundle_app,
    "MONAI Deploy": by_deploy_app,
}


def test_the_student_tells_the_series_apart(cohort: Cohort) -> None:
    axial, oblique_one = (cohort.expected[name] for name in ("axial", "oblique"))
    assert max(abs(axial[name] - oblique_one[name]) for name in CLASS_NAMES) > 1e-3
    assert "" != axial["set"] != oblique_one["set"] != ""
    unknown = cohort.without_header()
    assert unknown["axial"]["set"] != axial["set"]
    assert unknown["oblique"] == oblique_one
    told = manifest(TrainedBundle(cohort.bundle))["decision"]
    assert (told["grouped_by"], told["of_groups"][MAKER][0]["limits"]) == ("scanner", OWN)


# Slowly: tests/export holds these two to the network, on images.
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[pytest.mark.slow] * (way in ("ONNX", "torch.export"))) for way in WAYS]
)
def test_the_answers_are_those_of_the_bundle(way: str, cohort: Cohort, tmp_path: Path) -> None:
    found = WAYS[way](cohort, tmp_path)
    from_dicom = way not in ("NIfTI", "MONAI Label", "MONAI Label, Orthanc by DICOMweb")
    assert found.keys() == cohort.expected.keys()
    for name, expected in (cohort.expected if from_dicom else cohort.without_header()).items():
        if way == "MONAI Label's own bundle app":  # which gives probabilities alone
            expected = {one: expected[one] for one in CLASS_NAMES}
        assert found[name] == pytest.approx(expected, abs=1e-5), name

"""Several volumes in the same planes of one series: echoes, phases, b-values, reconstructions."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from rich.console import Console

from monai_rd.datasets import find_studies
from monai_rd.datasets.datalist import make_datalist, write_datalist
from monai_rd.datasets.problems import DataListError
from monai_rd.dicom import SeriesRule, choose_series, index_dicom, load_series
from monai_rd.errors import DicomSeriesError, Policy
from monai_rd.report.series import series_table, write_series
from tests.dicom_files import NAME, PATIENT_ID, Change, attributes, several

WARN = Policy({"DUPLICATE_SLICES": "warn"})


def volume_of(stored: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(stored.transpose(2, 1, 0) * np.float32(2) - np.float32(1024))


# What tells the volumes apart, and what they are called. Together with the planted names of `make_series` nothing but
# numbers and known words may be shown.
KINDS: dict[str, tuple[list[Change], list[str]]] = {
    "echo time": (
        [attributes(EchoTime="4.60", EchoNumbers=1), attributes(EchoTime="9.2", EchoNumbers=2)],
        ["echo time 4.6 ms", "echo time 9.2 ms"],
    ),
    "echo number": ([attributes(EchoNumbers=2), attributes(EchoNumbers=1)], ["echo number 1", "echo number 2"]),
    "magnitude and phase": (
        [attributes(ImageType=["ORIGINAL", "PRIMARY", word, "ND"]) for word in "MP"],
        ["image type M", "image type P"],
    ),
    "water and fat": (
        [attributes(ImageType=["DERIVED", "PRIMARY", "DIXON", word]) for word in ("WATER", "FAT", "IP", "OP")],
        ["image type FAT", "image type IP", "image type OP", "image type WATER"],
    ),
    "temporal position": (
        [attributes(TemporalPositionIdentifier=n) for n in (1, 2, 10)],
        ["temporal position 1", "temporal position 2", "temporal position 10"],
    ),
    "acquisition": ([attributes(AcquisitionNumber=n) for n in (3, 4)], ["acquisition 3", "acquisition 4"]),
    "trigger time": ([attributes(TriggerTime=n) for n in (0, 40.5)], ["trigger time 0 ms", "trigger time 40.5 ms"]),
    "b-value": ([attributes(DiffusionBValue=n) for n in (0.0, 1000.0)], ["b-value 0 s/mm2", "b-value 1000 s/mm2"]),
    "b-value and direction": (
        [
            attributes(DiffusionBValue=0.0),
            attributes(DiffusionBValue=1000.0, DiffusionGradientOrientation=[1.0, 0.0, 0.0]),
            attributes(DiffusionBValue=1000.0, DiffusionGradientOrientation=[0.0, -1.0, 0.0]),
            attributes(DiffusionBValue=500.0, DiffusionGradientOrientation=[0.0, -1.0, 0.0]),
        ],
        [
            "b-value 0 s/mm2, no gradient",
            "b-value 500 s/mm2, gradient 0 -1 0",
            "b-value 1000 s/mm2, gradient 0 -1 0",
            "b-value 1000 s/mm2, gradient 1 0 0",
        ],
    ),
    "inversion time": (
        [attributes(InversionTime=n) for n in (100, 800)],
        ["inversion time 100 ms", "inversion time 800 ms"],
    ),
    "flip angle": ([attributes(FlipAngle=n) for n in (5, 15)], ["flip angle 5 degrees", "flip angle 15 degrees"]),
    "tube voltage": ([attributes(KVP=n) for n in (80, 140)], ["tube voltage 80 kV", "tube voltage 140 kV"]),
    "kernel": ([attributes(ConvolutionKernel=word) for word in ("B70f", "B30f")], ["kernel B30f", "kernel B70f"]),
    "kernel of an unknown word": (
        [attributes(ConvolutionKernel=word) for word in ("SECRETNAME", "LUNG")],
        ["kernel 1 of 2", "kernel 2 of 2"],
    ),
    "slice thickness": (
        [attributes(SliceThickness=n) for n in (1.25, 5)],
        ["slice thickness 1.25 mm", "slice thickness 5 mm"],
    ),
    "contrast agent": (
        [attributes(), attributes(ContrastBolusAgent=NAME)],
        ["with contrast agent", "no contrast agent"],
    ),
    "acquisition time": (
        [attributes(AcquisitionTime=n) for n in ("101500", "101730.5")],
        ["acquisition time 1 of 2", "acquisition time 2 of 2"],
    ),
    "echo and component": (
        [
            attributes(EchoTime=te, ImageType=["ORIGINAL", "PRIMARY", word])
            for te in (2, 4)
            for word in ("P_FFE", "M_FFE")
        ],
        [
            "image type M_FFE, echo time 2 ms",
            "image type M_FFE, echo time 4 ms",
            "image type P_FFE, echo time 2 ms",
            "image type P_FFE, echo time 4 ms",
        ],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_a_volume_of_its_own(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    changes, names = KINDS[kind]
    uid, stored = several(tmp_path, changes)
    found = index_dicom(tmp_path)
    assert [one.volume for one in found] == names
    assert {one.series_uid for one in found} == {uid}
    assert len({one.id for one in found}) == len(found)
    assert all(one.id.startswith(f"{uid}_") and set(one.id) <= set(map(chr, range(33, 127))) for one in found)
    assert not [one.problems for one in found if one.problems]
    expected = {volume_of(values).tobytes() for values in stored}
    assert {np.ascontiguousarray(load_series(one.files).array[0]).tobytes() for one in found} == expected

    files = sorted(tmp_path.rglob("*.dcm"))
    with pytest.raises(DicomSeriesError) as caught:
        load_series(files)
    assert (caught.value.code, caught.value.series_uid) == ("DUPLICATE_SLICES", uid)
    assert all(f"{name} (5 images)" in str(caught.value) for name in names)
    shown = f"{caught.value}{[one.row() for one in found]}{[one.id for one in found]}"
    assert not [
        secret for secret in ("ecret", "SECRET", PATIENT_ID, "10173") if secret in shown.replace(str(tmp_path), "")
    ]

    # One whole volume, of equally large ones the first; never slices of several.
    taken = load_series(files, policy=WARN)
    np.testing.assert_array_equal(taken.array, load_series(found[0].files).array)
    assert taken.tolerated == ("DUPLICATE_SLICES",)
    assert f"as the policy says: {names[0]}, the largest of them" in caplog.text


def private(group: int, maker: str, element: int, kind: str, value: Any) -> Change:
    def change(k: int, ds: Dataset) -> None:
        ds.private_block(group, maker, create=True).add_new(element, kind, value)

    return change


PRIVATE = {
    "Siemens": (
        [private(0x19, "SIEMENS MR HEADER", 0x0C, "IS", b) for b in (0, 1000)],
        ["b-value 0 s/mm2", "b-value 1000 s/mm2"],
    ),
    "Siemens direction": (
        [private(0x19, "SIEMENS MR HEADER", 0x0E, "FD", d) for d in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0])],
        ["gradient 0 1 0", "gradient 1 0 0"],
    ),
    "Philips": (
        [private(0x2001, "Philips Imaging DD 001", 0x03, "FL", b) for b in (0.0, 800.0)],
        ["b-value 0 s/mm2", "b-value 800 s/mm2"],
    ),
    "GE": (
        [private(0x43, "GEMS_PARM_01", 0x39, "IS", [b, 8, 0, 0]) for b in (50, 1000000900)],
        ["b-value 50 s/mm2", "b-value 900 s/mm2"],
    ),
    "GE component": (
        [private(0x43, "GEMS_PARM_01", 0x2F, "SS", n) for n in range(4)],
        [f"image component {word}" for word in ("IMAGINARY", "MAGNITUDE", "PHASE", "REAL")],
    ),
    "of another maker": ([private(0x19, "SOMEONE ELSE", 0x0C, "IS", b) for b in (0, 1000)], [""]),
}


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("kind", PRIVATE)
def test_scanners_tell_it_in_private_elements(tmp_path: Path, kind: str, implicit: bool) -> None:
    changes, names = PRIVATE[kind]
    several(tmp_path, changes)
    for file in tmp_path.rglob("*.dcm") if implicit else ():
        ds = pydicom.dcmread(file)
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        ds.save_as(file, implicit_vr=True, little_endian=True)
    assert [one.volume for one in index_dicom(tmp_path)] == names


def test_what_differs_from_slice_to_slice_tells_nothing_apart(tmp_path: Path) -> None:
    """Times of each slice, numbers of each image, words that follow the slices: the echo time still is what differs."""

    def of_slice(echo: int) -> Change:
        def change(k: int, ds: Dataset) -> None:
            ds.EchoTime, ds.AcquisitionTime = 5 * (echo + 1), f"1015{10 + k:02d}.{echo}"
            ds.TriggerTime, ds.AcquisitionNumber = 100 * k + 3 * echo, 2 * k + echo
            ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "NORM" if k % 2 else "ND"]

        return change

    several(tmp_path, [of_slice(0), of_slice(1)])
    assert [one.volume for one in index_dicom(tmp_path)] == ["echo time 5 ms", "echo time 10 ms"]


@pytest.mark.parametrize("keyword", ["AcquisitionTime", "TriggerTime", "AcquisitionNumber", "InversionTime", ""])
def test_without_anything_that_tells_them_apart_no_slices_are_mixed(tmp_path: Path, keyword: str) -> None:
    """A value of each image, or none that differs; and the same InstanceNumbers, so that there is no order either."""

    def number(which: int) -> Change:
        def change(k: int, ds: Dataset) -> None:
            if keyword:
                setattr(ds, keyword, str(101500 + 7 * k + which))

        return change

    uid, _ = several(tmp_path, [number(0), number(1)])
    for policy in (None, WARN):
        with pytest.raises(DicomSeriesError, match="nothing in the headers tells them apart") as caught:
            load_series(sorted(tmp_path.rglob("*.dcm")), policy=policy)
        assert (caught.value.code, caught.value.series_uid) == ("DUPLICATE_SLICES", uid)
    (one,) = index_dicom(tmp_path)
    assert one.volume == ""
    problem = one.problem(WARN)
    assert problem is not None
    assert pickle.loads(pickle.dumps(problem)).tolerable == ""  # it comes from other processes


@pytest.mark.parametrize("order", ["one after the other", "in turn"])
def test_an_order_of_instances_is_followed_under_warn(tmp_path: Path, order: str) -> None:
    def number(which: int) -> Change:
        def change(k: int, ds: Dataset) -> None:
            ds.InstanceNumber = 1 + (2 * k + which if order == "in turn" else 5 * which + k)

        return change

    _, stored = several(tmp_path, [number(0), number(1)])
    taken = load_series(sorted(tmp_path.rglob("*.dcm")), policy=WARN)
    np.testing.assert_array_equal(taken.array[0], volume_of(stored[0]))
    assert index_dicom(tmp_path)[0].problem(WARN) is None


def test_volumes_of_unequal_size_and_with_a_gap(tmp_path: Path) -> None:
    several(tmp_path, [attributes(EchoTime=n) for n in (3, 6, 9)], slices=7)
    second, third = ([f for f in sorted((tmp_path / n).iterdir())] for n in "12")
    by_place = sorted(second, key=lambda file: pydicom.dcmread(file).ImagePositionPatient[2])
    by_place[3].unlink()
    for file in sorted(third, key=lambda file: pydicom.dcmread(file).ImagePositionPatient[2])[4:]:
        file.unlink()
    found = index_dicom(tmp_path)
    assert [(one.volume, one.slices) for one in found] == [
        ("echo time 3 ms", 7),
        ("echo time 6 ms", 6),
        ("echo time 9 ms", 4),
    ]
    assert [[problem.code for problem in one.problems] for one in found] == [[], ["MISSING_SLICES"], []]
    assert load_series(sorted(tmp_path.rglob("*.dcm")), policy=WARN).array.shape[-1] == 7
    # A rule can name one.
    rule = SeriesRule(description="echo time 9")
    assert [one.volume for one in choose_series(found, rule)] == ["echo time 9 ms"]
    assert [one.volume for one in choose_series(found, SeriesRule())] == ["echo time 3 ms"]


def test_a_copy_of_a_file_stays_a_problem_of_its_volume(tmp_path: Path) -> None:
    several(tmp_path, [attributes(EchoTime=n) for n in (3, 6)])
    shutil.copy(next((tmp_path / "1").iterdir()), tmp_path / "again.dcm")
    found = index_dicom(tmp_path)
    assert [[problem.code for problem in one.problems] for one in found] == [[], ["DUPLICATE_SLICES"]]
    assert found[1].problem(WARN) is None
    assert load_series(found[1].files, policy=WARN).array.shape[-1] == 5


def test_a_series_with_a_file_that_has_no_place_is_refused_whole(tmp_path: Path) -> None:
    several(tmp_path, [attributes(EchoTime=n) for n in (3, 6)])
    file = next((tmp_path / "1").iterdir())
    ds = pydicom.dcmread(file)
    del ds.ImagePositionPatient
    ds.save_as(file)
    (one,) = index_dicom(tmp_path)
    assert [problem.code for problem in one.problems] == ["UNSUPPORTED_IMAGE"]


def test_lists_and_sheets_name_one_of_several(tmp_path: Path) -> None:
    uid, stored = several(tmp_path / "data" / "a", [attributes(EchoTime=n) for n in (3, 6)])
    items = find_studies(tmp_path / "data").items
    assert [(item["series"], item["volume"], len(item["image"])) for item in items] == [
        (uid, "echo time 3 ms", 5),
        (uid, "echo time 6 ms", 5),
    ]
    assert len({item["id"] for item in items}) == 2
    series = index_dicom(tmp_path / "data")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(series_table(series, {series[1].id}))
    assert all(console.export_text(clear=False).count(item["volume"]) == 1 for item in items)
    assert console.export_text().count("yes") == 1
    write_series(series, tmp_path / "series.json", {series[1].id})
    rows = json.loads((tmp_path / "series.json").read_text())
    assert [(row["volume"], row["taken"]) for row in rows] == [("echo time 3 ms", False), ("echo time 6 ms", True)]
    for rule, count in (({"pick": "most_slices"}, 1), ({"description": "time 6"}, 1), ({"pick": "all"}, 2)):
        assert len(find_studies(tmp_path / "data", series_rule=rule).items) == count

    sheet = tmp_path / "labels.csv"
    names = ["echo time 3 ms", "echo time 6 ms", "echo time 9 ms", ""]
    for name in names:
        sheet.write_text(f"series,Series Volume,label\n{uid},{name},a\n{uid},{name},b\n")
        with pytest.raises(DataListError) as caught:
            make_datalist(tmp_path / "data", sheet)
        said = str(caught.value)
        assert ("holds 2 volumes (echo time 3 ms; echo time 6 ms)" in said) == (name not in names[:2])
        assert ("no volume of this name" in said) == (name == "echo time 9 ms")
        assert ("set a series rule" in said) == (name == "")

    rows = "".join(
        f"{uid},{name},{split},{label}\n" for name, label in zip(names[:2], "ab", strict=True) for split in ["test"]
    )
    more = []
    for number in range(4):
        other, _ = several(tmp_path / "data" / f"b{number}", [attributes(PatientID=str(number))])
        more.append(f"{other},,{'training' if number < 2 else 'validation'},{'ab'[number % 2]}\n")
    sheet.write_text("series,series_volume,split,label\n" + rows + "".join(more))
    made = make_datalist(tmp_path / "data", sheet)
    out = tmp_path / "list.json"
    write_datalist(made, tmp_path / "data", out, b"key" * 11)
    content = json.loads(out.read_text())
    assert [(one["series"], one["series_volume"]) for one in content["test"]] == [(uid, name) for name in names[:2]]
    again = make_datalist(tmp_path / "data", out)
    assert [item["id"] for item in again.test] == [item["id"] for item in made.test]
    np.testing.assert_array_equal(load_series(again.test[1]["image"]).array[0], volume_of(stored[1]))


def test_a_sheet_without_a_word_about_volumes_follows_the_rule(tmp_path: Path) -> None:
    uid, _ = several(tmp_path / "data", [attributes(EchoTime=n) for n in (3, 6)])
    for line in (f"series\n{uid}", "image\n0", "image\n.", f"patient\n{PATIENT_ID}"):
        column, value = line.split("\n")
        sheet = tmp_path / "labels.csv"
        sheet.write_text(f"{column},label\n{value},a\n{value},b\n")
        with pytest.raises(DataListError) as caught:
            make_datalist(tmp_path / "data", sheet, series_rule={"description": "time 6"})
        assert "the same image stands in an earlier row" in str(caught.value) or "rule" in str(caught.value)


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
@pytest.mark.parametrize("kind", ["echo time", "temporal position", "trigger time"])
def test_dcm2niix_makes_the_same_volumes(tmp_path: Path, kind: str) -> None:
    nibabel = pytest.importorskip("nibabel")
    changes, names = KINDS[kind]

    def numbered(number: int, change: Change) -> Change:
        def whole(k: int, ds: Dataset) -> None:
            change(k, ds)
            ds.InstanceNumber = 1 + len(changes) * k + number

        return whole

    several(tmp_path / "data", [numbered(n, change) for n, change in enumerate(changes)], modality="MR", rescale=None)
    (tmp_path / "out").mkdir()
    subprocess.run(["dcm2niix", "-b", "n", "-o", tmp_path / "out", tmp_path / "data"], check=True, capture_output=True)
    theirs = []
    for file in sorted((tmp_path / "out").glob("*.nii")):
        values = nibabel.load(file).get_fdata()
        theirs += [values] if values.ndim == 3 else list(np.moveaxis(values, 3, 0))
    ours = [load_series(one.files, window=False).array[0] for one in index_dicom(tmp_path / "data")]
    assert len(ours) == len(theirs) == len(names)
    # They turn the rows round; the order of volumes is theirs.
    found = {values[:, ::-1].astype(np.float32).tobytes() for values in theirs}
    assert {np.ascontiguousarray(values).astype(np.float32).tobytes() for values in ours} == found

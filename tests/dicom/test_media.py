"""DICOMDIRs: what counts is whether the images are there, not where a directory says they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.uid import generate_uid

from monai_rd.datasets import find_studies
from monai_rd.dicom import index_dicom
from monai_rd.dicom.media import is_directory_name, read_directory
from tests.dicom_files import NAME, make_series

Medium = tuple[Path, list[str]]


def burn(place: Path, *series: Path) -> Path:
    """Write a medium of some series."""
    media = FileSet()
    for folder in series:
        for file in sorted(folder.iterdir()):
            media.add(file)
    media.write(place)
    return place / "DICOMDIR"


@pytest.fixture
def medium(tmp_path: Path) -> Medium:
    """A medium with two series of six slices, and their UIDs."""
    uids = [make_series(tmp_path / "source" / str(n), seed=n)[0] for n in range(2)]
    burn(tmp_path / "cd", tmp_path / "source" / "0", tmp_path / "source" / "1")
    shutil.rmtree(tmp_path / "source")
    return tmp_path / "cd", uids


def images(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and path.name != "DICOMDIR")


def rewrite(directory: Path, change: Callable[[Dataset], object], kind: str = "IMAGE") -> None:
    """Change the records of a kind; then the offsets by which records name each other."""
    content = dcmread(directory)
    before = [record.seq_item_tell for record in content.DirectoryRecordSequence]
    for record in content.DirectoryRecordSequence:
        if record.DirectoryRecordType == kind:
            change(record)
    content.save_as(directory)
    content = dcmread(directory)
    after = {old: record.seq_item_tell for old, record in zip(before, content.DirectoryRecordSequence, strict=True)}
    for record in content.DirectoryRecordSequence:
        for keyword in ("OffsetOfTheNextDirectoryRecord", "OffsetOfReferencedLowerLevelDirectoryEntity"):
            setattr(record, keyword, after.get(record[keyword].value, 0))
    content.save_as(directory)


def moved(root: Path) -> None:
    for number, file in enumerate(images(root)):
        (root / "sorted" / NAME).mkdir(parents=True, exist_ok=True)
        file.rename(root / "sorted" / NAME / f"{number}.dcm")


def in_lower_case(root: Path) -> None:
    for file in images(root):
        lower = root / file.relative_to(root).as_posix().lower()
        lower.parent.mkdir(parents=True, exist_ok=True)
        file.rename(lower)


def numbered(root: Path) -> None:
    for file in images(root):
        file.rename(file.with_name(f"{file.name};1"))


def without_uids(root: Path) -> None:
    rewrite(root / "DICOMDIR", lambda record: setattr(record, "ReferencedSOPInstanceUIDInFile", ""))


def twice(root: Path) -> None:
    shutil.copytree(root, root.parent / "second")
    shutil.rmtree(root)
    shutil.copytree(root.parent / "second", root / "nested" / "medium")
    shutil.copy(root / "nested" / "medium" / "DICOMDIR", root / "DICOMDIR")


STALE = {
    "moved and renamed": [moved],
    "in lower case": [in_lower_case],
    "with version numbers": [numbered],
    "by places alone": [without_uids],
    "by places alone, in lower case": [in_lower_case, without_uids],
    "by places alone, with version numbers": [numbered, without_uids],
    "a copy of the directory above it": [twice],
    "named otherwise": [lambda root: (root / "DICOMDIR").rename(root / "dicomdir;1")],
}


@pytest.mark.parametrize("kind", STALE)
def test_complete_series_are_complete(kind: str, medium: Medium) -> None:
    root, uids = medium
    for change in STALE[kind]:
        change(root)
    directory = next(path for path in root.iterdir() if is_directory_name(path))
    for source in (root, directory):
        assert {one.series_uid: (len(one.files), one.problem()) for one in index_dicom(source)} == dict.fromkeys(
            uids, (6, None)
        )
        assert {item["id"] for item in find_studies(source).items} == set(uids)


@pytest.mark.parametrize("kind", [name for name in STALE if name != "a copy of the directory above it"])
def test_what_is_not_there_is_missing_wherever_the_rest_lies(kind: str, medium: Medium) -> None:
    root, uids = medium
    for change in STALE[kind]:
        change(root)
    series = {uid: sorted(one.files) for one in index_dicom(root) for uid in [one.series_uid]}
    series[uids[0]][-1].unlink()
    for file in series[uids[1]]:
        file.unlink()
    directory = next(path for path in root.iterdir() if is_directory_name(path))
    for source in (root, directory):
        found = {one.series_uid: one.problem() for one in index_dicom(source)}
        assert {uid: problem and problem.code for uid, problem in found.items()} == dict.fromkeys(uids, "MISSING_FILES")
        assert "names 1 file(s)" in str(found[uids[0]])
        assert "names 6 file(s) of it, and none is there" in str(found[uids[1]])


def test_several_media_are_one(tmp_path: Path) -> None:
    """A series on two disks: each directory names a half, and both halves are there, or not."""
    uid, _ = make_series(tmp_path / "all")
    for number, file in enumerate(sorted((tmp_path / "all").iterdir())):
        (tmp_path / "source" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        file.rename(tmp_path / "source" / str(number % 2) / file.name)
    for half in "01":
        burn(tmp_path / "set" / f"disk{half}", tmp_path / "source" / half)
    (one,) = index_dicom(tmp_path / "set")
    assert (one.series_uid, len(one.files), one.problem()) == (uid, 6, None)
    gone = [images(tmp_path / "set" / f"disk{half}")[0] for half in "01"]
    for file in gone:
        file.unlink()
    (one,) = index_dicom(tmp_path / "set")
    assert "names 2 file(s)" in str(one.problem())


def test_only_what_a_directory_names_is_taken_from_it(medium: Medium) -> None:
    root, uids = medium
    other, _ = make_series(root / "other", seed=5)
    victim = images(root)[0]  # a file at a place that the directory names, of another image
    changed = dcmread(victim)
    changed.SOPInstanceUID = changed.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    changed.save_as(victim)
    (root / "beside.dcm").write_bytes(b"no image, and not named")
    damaged: list[Path] = []
    found = {one.series_uid: one for one in index_dicom(root / "DICOMDIR", damaged=damaged)}
    assert set(found) == set(uids)
    assert damaged == []
    assert sorted(len(one.files) for one in found.values()) == [5, 6]
    assert other in {one.series_uid for one in index_dicom(root)}


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # pydicom, of what the test writes
@pytest.mark.parametrize("away", ["..\\OUTSIDE", "..", "A\\..\\..\\OUTSIDE", "../OUTSIDE", "/etc/passwd", "C:\\IM", ""])
def test_a_directory_does_not_lead_off_its_medium(away: str, medium: Medium) -> None:
    root, uids = medium
    shutil.copy(images(root)[0], root.parent / "OUTSIDE")
    without_uids(root)
    rewrite(root / "DICOMDIR", lambda record: setattr(record, "ReferencedFileID", away.split("\\")))
    for source in (root, root / "DICOMDIR"):
        found = index_dicom(source)
        assert [one.problem().code for one in found] == ["MISSING_FILES"] * 2  # type: ignore[union-attr]
        assert all(root in file.parents for one in found for file in one.files)
        assert {one.series_uid for one in found} == set(uids)


def test_records_that_are_no_images_or_not_in_use_do_not_count(medium: Medium) -> None:
    root, _ = medium
    one, other = sorted(index_dicom(root), key=lambda one: one.series_uid)
    one.files[0].unlink()
    other.files[0].unlink()
    rewrite(
        root / "DICOMDIR",
        lambda record: (
            record.ReferencedSOPInstanceUIDInFile == one.sop_uids[0] and setattr(record, "DirectoryRecordType", "SRDOC")
        ),
    )
    rewrite(
        root / "DICOMDIR",
        lambda record: (
            record.ReferencedSOPInstanceUIDInFile == other.sop_uids[0] and setattr(record, "RecordInUseFlag", 0)
        ),
    )
    assert all(each.code != "MISSING_FILES" for series in index_dicom(root) for each in series.problems)


@pytest.mark.parametrize("content", [b"", b"noise" * 100, bytes(128) + b"DICM" + bytes(40)])
def test_a_damaged_directory_is_told(content: bytes, medium: Medium, caplog: pytest.LogCaptureFixture) -> None:
    root, uids = medium
    (root / "DICOMDIR").write_bytes(content)
    assert read_directory(root / "DICOMDIR") is None
    assert {one.series_uid for one in index_dicom(root)} == set(uids)
    assert "1 damaged DICOMDIR" in caplog.text

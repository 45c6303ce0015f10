"""A file that the system does not give costs no other its turn, and its path is told nowhere."""

from __future__ import annotations

import errno
import io
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, RandFlipd
from PIL import Image

from monai_rd import files
from monai_rd.cache import DiskCacheDataset, SkippingCacheDataset, cached_dataset
from monai_rd.cache.file_hashes import item_keys
from monai_rd.cache.fingerprints import item_key
from monai_rd.cache.views import ReplayedViews
from monai_rd.datasets import DataListError, find_studies, make_datalist, write_datalist
from monai_rd.datasets.audit.run import audit
from monai_rd.datasets.datalist import DataList, read_datalist
from monai_rd.datasets.published.folders import _copies
from monai_rd.datasets.studies import item_of_image
from monai_rd.dicom import index_dicom, load_series
from monai_rd.errors import UnreadableFileError, reading_files
from monai_rd.transforms import LoadImageOrSeriesd
from tests.dicom_files import NAME, make_series

Fault = Callable[[Path, pytest.MonkeyPatch], None]
SKIP = {"default": "skip"}


def gone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.unlink()


def dead_link(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.unlink()
    path.symlink_to(path.with_name(f"gone_{path.name}"))


def pipe(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.unlink()
    os.mkfifo(path)


def refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the right to read it; as root, whom nothing is refused, too."""
    _broken(path, monkeypatch, errno.EACCES, at_once=True)


def failing_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _broken(path, monkeypatch, errno.EIO, at_once=False)


def _broken(path: Path, monkeypatch: pytest.MonkeyPatch, number: int, at_once: bool) -> None:
    def fail(*words: Any) -> Any:
        raise OSError(number, os.strerror(number), str(path))

    class File(io.FileIO):
        def __init__(self, file: str, mode: str) -> None:
            self.broken = os.path.realpath(file) == os.path.realpath(path)
            if self.broken and at_once:
                fail()
            super().__init__(file, mode)

        def readinto(self, buffer: Any) -> int | None:
            return fail() if self.broken else super().readinto(buffer)

        def read(self, size: int | None = -1) -> Any:
            return fail() if self.broken else super().read(-1 if size is None else size)

        def readall(self) -> Any:
            return fail() if self.broken else super().readall()

    monkeypatch.setattr(files.io, "FileIO", File)


FAULTS = [gone, dead_link, pipe, refused, failing_disk]
THERE = FAULTS[1:]  # by name


def png(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(value).integers(0, 256, (12, 12), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Six pictures of two classes in folders named after patients."""
    return [png(tmp_path / "data" / "ab"[n % 2] / f"{NAME}_{n}.png", n) for n in range(6)]


@pytest.fixture(autouse=True)
def nothing_told(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Any:
    with caplog.at_level(logging.DEBUG):
        yield
    printed = capfd.readouterr()
    assert NAME not in caplog.text + printed.out + printed.err


def chain() -> Compose:
    return Compose([LoadImageOrSeriesd("image"), RandFlipd("image", prob=0.5)])


@pytest.mark.parametrize("fault", THERE)
@pytest.mark.parametrize("kind", ["png", "nii", "nii.gz", "dcm", "tif", "mha"])
def test_it_is_an_item_that_loading_refuses_and_the_others_stay(
    kind: str, fault: Fault, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = pictures[0].with_name(f"{NAME}.{kind}")
    if kind == "dcm":
        make_series(victim.parent / "made", slices=1)
        next((victim.parent / "made").iterdir()).rename(victim)
    elif kind.startswith("nii"):
        nib.save(nib.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), np.eye(4)), victim)
    else:
        png(pictures[0].with_suffix(".png" if kind == "png" else ".tif"), 9).rename(victim)
    fault(victim, monkeypatch)
    items = find_studies(victim.parents[0]).items
    (item,) = [one for one in items if Path(one["image"]) == victim]
    assert item["id"].endswith("-closed")
    with pytest.raises(UnreadableFileError) as caught:
        LoadImageOrSeriesd("image")(item)
    assert str(victim.parent) not in str(caught.value)
    for other in items:
        if other is not item:
            LoadImageOrSeriesd("image")(other)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_slice_of_a_series(fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_series(tmp_path)
    (one,) = index_dicom(tmp_path)
    fault(one.files[-1], monkeypatch)
    with pytest.raises(UnreadableFileError):
        load_series(one.files)
    with pytest.raises(UnreadableFileError):
        item_key([str(file) for file in one.files])
    damaged: list[Path] = []
    index_dicom(tmp_path, damaged=damaged)
    assert damaged == ([] if fault is gone else [one.files[-1]])


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", [SkippingCacheDataset, DiskCacheDataset, cached_dataset])
def test_caches_leave_it_out_as_the_policy_says(
    kind: Any, fault: Fault, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = [item_of_image(path) | {"label": n % 2} for n, path in enumerate(pictures)]
    fault(pictures[3], monkeypatch)
    made = kind(data, chain(), SKIP, cache_dir=tmp_path / "cache")
    assert len(made) == 5
    assert len(set(made.item_keys)) == 5
    assert "" not in made.item_keys
    with pytest.raises(UnreadableFileError, match="UNREADABLE_FILE"):
        kind(data, chain(), {}, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("fault", FAULTS)
def test_names_of_content(
    fault: Fault, memory: bool, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = item_keys(pictures)
    fault(pictures[2], monkeypatch)
    assert item_keys(pictures, tmp_path / "hashes.sqlite" if memory else None) == [*before[:2], "", *before[3:]]
    data = SkippingCacheDataset([item_of_image(path) for path in pictures[:2]], chain())
    data.data = [{"image": str(path)} for path in pictures[:3]]
    with pytest.raises(UnreadableFileError, match="1 of the items"):
        ReplayedViews(data, 1, seed=0)
    assert _copies([pictures[2], pictures[0], pictures[2]])[::2] == ["", ""]


@pytest.mark.parametrize("fault", FAULTS)
def test_an_audit_goes_on(fault: Fault, pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    items = [item_of_image(path) | {"label": n % 2, "id": str(n)} for n, path in enumerate(pictures)]
    fault(pictures[4], monkeypatch)
    report = audit(DataList(("a", "b"), items[:4], [], items[4:]))
    unread = [finding for finding in report.findings if finding.kind == "UNREADABLE"]
    assert [(one.message, len(one.items)) for one in unread] == [("It cannot be read: UNREADABLE_FILE.", 1)]


@pytest.mark.parametrize("fault", THERE)
def test_lists(fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [png(tmp_path / "ab"[n % 2] / f"{n}_{NAME}.png", n) for n in range(40)]
    fault(places[7], monkeypatch)
    with pytest.raises(DataListError, match="UNREADABLE_FILE: 1 file"):
        make_datalist(tmp_path)
    sheet = tmp_path / "labels.csv"
    rows = [f"{path.relative_to(tmp_path).as_posix()},{path.parent.name}\n" for path in places]
    sheet.write_text("image,label\n" + "".join(rows))
    if fault is not failing_disk:  # which shows when it is read
        with pytest.raises(DataListError, match="row 9: UNREADABLE_FILE"):
            make_datalist(tmp_path, sheet)
        _, left_out = read_datalist(tmp_path, sheet, policy=SKIP)
        assert [one.code for one in left_out] == ["UNREADABLE_FILE"]


def test_a_list_names_links_by_their_own_names(tmp_path: Path) -> None:
    """Links may lead out of the folder, as those of data versioning tools do."""
    for n in range(40):
        stored = png(tmp_path / "store" / f"{n}.png", n)
        (tmp_path / "data" / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "ab"[n % 2] / f"{n}.png").symlink_to(stored)
    made = make_datalist(tmp_path / "data")
    write_datalist(made, tmp_path / "data", tmp_path / "list.json", b"k" * 32)
    again = make_datalist(tmp_path / "data", tmp_path / "list.json")
    assert str(again) == str(made)
    assert "store" not in (tmp_path / "list.json").read_text()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PermissionError(13, "no", f"/{NAME}"), UnreadableFileError),
        (OSError(errno.ESTALE, NAME), UnreadableFileError),
        (OSError(errno.ENAMETOOLONG, "no", f"/{NAME}"), UnreadableFileError),
        (OSError("image file is truncated"), OSError),
        (ValueError("no"), ValueError),
    ],
)
def test_what_the_system_says_is_told_without_the_path(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught, reading_files():
        raise error
    assert type(caught.value) is kind
    assert NAME not in str(caught.value)

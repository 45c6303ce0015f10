"""One walk for index, predict, class folders, lists and audit: what it passes over, follows, and cannot open."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from monai_rd.cache.fingerprints import item_key
from monai_rd.cli.app import app
from monai_rd.datasets import DataListError, find_studies, make_datalist
from monai_rd.datasets.audit.examine import default_loader, examine
from monai_rd.datasets.datalist import labelled_studies, read_datalist
from monai_rd.datasets.published.layout import images_in
from monai_rd.dicom import index_dicom, load_series
from monai_rd.errors import StudyError, UnreadableFileError
from monai_rd.protocol.runs import data_fingerprint
from monai_rd.transforms import LoadImageOrSeriesd
from monai_rd.walk import folders_in, is_system_name, walk
from tests.dicom_files import NAME, make_series

SYSTEM = [
    *(".ipynb_checkpoints/1-checkpoint.png", "._1.png", ".DS_Store", ".hidden/deep/1.png", ".git/1.png"),
    *("__MACOSX/._1.png", "__MACOSX/1.png", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN/S-1-5/1.png"),
    *("System Volume Information/1.png", "lost+found/#1.png", "@eaDir/1.png/SYNOPHOTO_THUMB_XL.png", "#recycle/1.png"),
    *("~$labels.xlsx", "~$1.png", "1.png~", "THUMBS.DB", "__pycache__/1.png"),
]
SKIP = {"default": "skip"}


def png(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.random.default_rng(value).integers(0, 256, (12, 12), dtype=np.uint8)
    Image.fromarray(grey).save(path, format="png")
    return path


def names(found: list[Path], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in found]


@pytest.mark.parametrize("name", SYSTEM)
def test_what_belongs_to_a_system_is_passed_over_at_every_depth(name: str, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "a" / "b"):
        png(folder / "1.png")
        png(folder / name, 1)
    found = walk(tmp_path)
    assert names(found.files, tmp_path) == ["1.png", "a/b/1.png"]
    assert found.unreadable == []
    assert names(walk(tmp_path, below=False).files, tmp_path) == names(images_in(tmp_path), tmp_path) == ["1.png"]


@pytest.mark.parametrize(
    "name", ["1.png", "a.b", "labels.xlsx", "IM~0001", "#1.png", "thumbs", "DICOMDIR", "tmp", "$1"]
)
def test_ordinary_names_are_data(name: str) -> None:
    assert not is_system_name(name)


def test_the_folder_given_may_be_hidden(tmp_path: Path) -> None:
    png(tmp_path / ".cache" / "1.png")
    assert names(walk(tmp_path / ".cache").files, tmp_path) == [".cache/1.png"]


def link(place: Path, target: Path | str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


# Links by their places below the folder "data", beside which lies "elsewhere"; targets likewise.
LINKS = {
    "to a folder elsewhere": {"c": "../elsewhere"},
    "two to one folder": {"c": "../elsewhere", "d": "../elsewhere"},
    "into a folder that is linked too": {"b2": "../elsewhere/in", "c": "../elsewhere"},
    "to itself and the folders above": {"c": "../elsewhere", "a/loop": "a", "a/top": ".", "a/higher": ".."},
    "in circles": {"c": "../elsewhere", "a/to_b": "b", "b/to_a": "a", "../elsewhere/back": "."},
    "to files": {"c/in/3.png": "../elsewhere/in/3.png", "again.png": "a/1.png", "0.png": "a/1.png"},
}


@pytest.mark.parametrize("kind", LINKS)
def test_links_are_followed_and_every_file_is_there_once(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number, place in enumerate((root / "a" / "1.png", root / "b" / "2.png", tmp_path / "elsewhere/in/3.png")):
        png(place, number)
    for place, target in LINKS[kind].items():
        link(root / place, root / target)
    found = walk(root)
    assert sorted(Path(os.path.realpath(path)).name for path in found.files) == ["1.png", "2.png", "3.png"]
    assert root / "a" / "1.png" in found.files, "a file's own path comes before a link's"
    assert found.unreadable == []
    assert found == walk(root)


def test_what_is_there_by_name_alone_is_told_and_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png(tmp_path / "1.png")
    link(tmp_path / "dead.png", tmp_path / "gone.png")
    link(tmp_path / "circle.png", tmp_path / "circle.png")
    os.mkfifo(tmp_path / "pipe.dcm")
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.nii")
        link(tmp_path / "device.tif", "/dev/zero")
        found = walk(tmp_path)
        assert names(found.files, tmp_path) == ["1.png"]
        closed = ["circle.png", "dead.png", "device.tif", "pipe.dcm", "socket.nii"]
        assert names(found.unreadable, tmp_path) == closed
        studies = find_studies(tmp_path)
        assert [item["id"].split("-")[1] for item in studies.items].count("closed") == 5
        for name in closed:
            with pytest.raises(UnreadableFileError) as caught:
                LoadImageOrSeriesd("image")({"image": str(tmp_path / name)})
            assert name.split(".")[0] not in str(caught.value)
        with pytest.raises(DataListError, match="UNREADABLE_FILE: 5 file"):
            find_studies(tmp_path, labelled=True)


def close(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let a folder of this name be one that cannot be opened; as root, whom nothing is closed to, too."""
    ordinary = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied", str(path))
        return ordinary(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_a_folder_that_cannot_be_opened_is_told_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_series(tmp_path / "in" / "open", slices=2)
    make_series(tmp_path / "in" / f"closed_{NAME}", slices=2, seed=1)
    close(monkeypatch, NAME)
    studies = find_studies(tmp_path / "in")
    assert sorted(item["id"] == "1-closed" for item in studies.items) == [False, True]
    with pytest.raises(UnreadableFileError):
        load_series(tmp_path / "in" / f"closed_{NAME}")
    done = CliRunner().invoke(app, ["index", str(tmp_path / "in")])
    assert done.exit_code == 3
    assert "1 that cannot be opened or parsed" in done.output
    assert NAME not in done.output


def test_a_slice_that_leads_nowhere_is_no_smaller_series(tmp_path: Path) -> None:
    make_series(tmp_path / "in")
    gone = sorted((tmp_path / "in").iterdir())[-1]
    gone.unlink()
    link(gone, tmp_path / "annex" / "object")
    with pytest.raises(UnreadableFileError, match="1 of what lies in the folder"):
        load_series(tmp_path / "in")


@pytest.mark.parametrize(
    "name", ["x" * 250 + ".png", "\udcff\udcfe.png", "ä ö.PNG", "%s{0}[bold].Png", "-rf.png", "a\nb.png"]
)
def test_names_that_few_have(name: str, tmp_path: Path) -> None:
    png(tmp_path / "ill" / name, 1)
    png(tmp_path / "well" / "2.png", 2)
    (item,) = find_studies(tmp_path / "ill").items
    assert LoadImageOrSeriesd("image")(item)["image"].shape == (1, 12, 12)
    assert len(data_fingerprint(tmp_path)) == 64


def test_a_path_longer_than_the_system_takes_is_told(tmp_path: Path) -> None:
    png(tmp_path / "1.png")
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(20):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
    finally:
        os.chdir(here)
    found = walk(tmp_path)
    assert names(found.files, tmp_path) == ["1.png"]
    assert len(found.unreadable) == 1
    shutil.rmtree(tmp_path / ("d" * 250))


# ----------------------------------------------------------------------------------------------- in class folders


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Twenty images of each of two classes."""
    for number in range(40):
        png(tmp_path / "data" / ("ill", "well")[number % 2] / f"{number}.png", number)
    return tmp_path / "data"


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints/1-checkpoint.png", "._1.png", "@eaDir/1.png", "sub/__MACOSX/1.png"]
)
def test_system_files_are_no_training_data(name: str, classes: Path) -> None:
    png(classes / "ill" / name, 99)
    made = make_datalist(classes)
    assert sum(len(made[split]) for split in ("training", "validation", "test")) == 40


UNREAD = ["1.webp", "1.dcm.gz", "1.gif", "1.HEIC", "1.mnc", "1.mgz", "1.zip", "1.svs", "1.npy", "1.img", "1.png.part"]


@pytest.mark.parametrize("name", UNREAD)
def test_images_that_are_not_read_are_counted(name: str, classes: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(10):
        (classes / "ill" / f"{NAME}_{number}{name[1:]}").write_bytes(bytes([number]) * 50)
    with pytest.raises(DataListError, match=rf"UNREADABLE_IMAGE: 10 {name[1:].lower()}: images of kinds") as caught:
        make_datalist(classes)
    made = make_datalist(classes, policy=SKIP)
    assert sum(len(made[split]) for split in ("training", "validation", "test")) == 40
    assert "left out by the policy: 1 UNREADABLE_IMAGE" in caplog.text
    assert NAME not in str(caught.value) + caplog.text
    rows = [item for item in find_studies(classes / "ill").items if name[1:].lower() in item["image"].lower()]
    assert len({item["id"] for item in rows}) == 10
    with pytest.raises(StudyError) as refused:
        LoadImageOrSeriesd("image")(rows[0])
    assert refused.value.code == "UNREADABLE_IMAGE"


CONTENT = {"IM0001": "PNG", "x.jpe": "JPEG", "scan.tiff2": "TIFF", "a.b.dib": "GIF", "volume": "NIfTI"}


@pytest.mark.parametrize("name", CONTENT)
def test_images_under_other_names_are_counted(name: str, classes: Path, tmp_path: Path) -> None:
    kind = CONTENT[name]
    place = classes / "ill" / name
    if kind == "NIfTI":
        nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.eye(4)), tmp_path / "x.nii")
        (tmp_path / "x.nii").rename(place)
    else:
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(place, format=kind)
    (classes / "ill" / "BMI.csv").write_text("BMI,age\n1,2\n")
    (classes / "ill" / "notes").write_text("of no interest")
    with pytest.raises(DataListError, match=f"UNREADABLE_IMAGE: 1 {kind} under other names"):
        make_datalist(classes)
    (item,) = [one for one in find_studies(classes / "ill").items if Path(one["image"]) == place]
    with pytest.raises(StudyError) as caught:
        LoadImageOrSeriesd("image")(item)
    assert caught.value.code == "UNREADABLE_IMAGE"
    assert len(find_studies(classes / "ill").items) == 21


@pytest.mark.parametrize(("header", "voxels"), [("a.mhd", "a.raw"), ("b.mhd", "b.img"), ("c.nhdr", "c.raw")])
def test_the_voxels_of_a_header_are_no_image_of_their_own(header: str, voxels: str, tmp_path: Path) -> None:
    if header.endswith(".mhd"):
        text = f"NDims = 3\nDimSize = 2 3 4\nElementType = MET_UCHAR\nElementDataFile = {voxels}\n"
    else:
        text = f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 3 4\nencoding: raw\ndata file: {voxels}\n"
    (tmp_path / header).write_text(text)
    (tmp_path / voxels).write_bytes(bytes(range(24)))
    (item,) = find_studies(tmp_path).items
    assert Path(item["image"]).name == header
    assert find_studies(tmp_path, labelled=True).items == [item]


def test_what_lies_beside_the_classes_is_told(classes: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("1.png", "2.nii", "3.webp"):
        (classes / name).write_bytes(b"unlabelled")
    make_series(classes, slices=2)
    png(classes / "third" / "1.png", 1)
    make_datalist(classes, class_names=["ill", "well"])
    assert "5 images beside the folders of classes have no label" in caplog.text
    assert "a folder that is none of the classes named is not read" in caplog.text


def test_a_class_that_leads_nowhere_is_told(classes: Path) -> None:
    link(classes / "third", classes.parent / "unmounted")
    with pytest.raises(DataListError, match="UNREADABLE_FILE: 1 of what lies beside the class folders"):
        make_datalist(classes)
    assert make_datalist(classes, policy=SKIP).class_names == ("ill", "well")
    assert [one.code for one in labelled_studies(classes, policy=SKIP).problems] == ["UNREADABLE_FILE"]


def test_a_linked_class_is_a_class(classes: Path) -> None:
    shutil.move(classes / "ill", classes.parent / "elsewhere")
    link(classes / "ill", classes.parent / "elsewhere")
    made = make_datalist(classes)
    assert sum(map(sum, (made.class_counts(split) for split in ("training", "validation", "test")))) == 40


# -------------------------------------------------------------------------------------------------------- in lists


def test_rows_of_a_sheet_may_name_links_and_are_told_of_what_is_not_read(classes: Path) -> None:
    outside = classes.parent / "elsewhere"
    uid, _ = make_series(outside / "one")
    link(classes / "linked", outside)
    link(classes / "image.png", outside / "far.png")
    png(outside / "far.png", 77)
    link(classes / "dead.png", outside / "gone.png")
    (classes / "one.webp").write_bytes(b"RIFF")
    rows = ["linked/one", "image.png", *(f"{('ill', 'well')[n % 2]}/{n}.png" for n in range(40))]
    sheet = classes / "labels.csv"
    sheet.write_text("image,label\n" + "".join(f"{name},{'ab'[n % 2]}\n" for n, name in enumerate(rows)))
    made, _ = read_datalist(classes)
    items = [item for split in ("training", "validation", "test") for item in made[split]]
    assert len(items) == 42
    assert uid in {item["series"] for item in items}
    sheet.write_text(sheet.read_text() + "one.webp,a\ndead.png,b\n../elsewhere/far.png,b\n")
    with pytest.raises(DataListError) as caught:
        read_datalist(classes)
    for said in (
        "row 44: UNREADABLE_IMAGE: A .webp file is not read",
        "row 45: UNREADABLE_FILE",
        "row 46: the image lies outside dataset_dir",
    ):
        assert said in str(caught.value)
    sheet.write_text(sheet.read_text().replace("../elsewhere/far.png,b\n", ""))
    _, left_out = read_datalist(classes, policy=SKIP)
    assert sorted(one.code for one in left_out) == ["UNREADABLE_FILE", "UNREADABLE_IMAGE"]


def test_the_others_see_the_same_files(tmp_path: Path) -> None:
    uid, _ = make_series(tmp_path / "data" / "in", slices=3)
    before = data_fingerprint(tmp_path / "data"), item_key(tmp_path / "data" / "in")
    for name in ("._IM1.dcm", ".DS_Store", "Thumbs.db"):
        shutil.copy(next((tmp_path / "data" / "in").glob("SECRET*")), tmp_path / "data" / "in" / name)
    assert (data_fingerprint(tmp_path / "data"), item_key(tmp_path / "data" / "in")) == before
    assert [len(one.files) for one in index_dicom(tmp_path / "data")] == [3]
    assert load_series(tmp_path / "data" / "in").array.shape[-1] == 3
    seen = examine(default_loader(), {"image": str(tmp_path / "data" / "in")})
    assert (seen.id, seen.problem) == (uid, "")
    assert folders_in(tmp_path / "data") == [tmp_path / "data" / "in"]

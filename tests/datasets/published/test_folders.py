"""Data sets that are published in class folders: at their published counts, with files of a few bytes."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from pydicom.dataset import Dataset

from monai_rd.datasets import DataListError, make_datalist, make_folds, write_datalist
from monai_rd.datasets.datalist import read_datalist
from monai_rd.datasets.splits import SPLITS
from tests.datasets.labelled_files import KEY, names, picture
from tests.datasets.published.laid_out import files, per_class, sizes, stems, table, warnings_of
from tests.dicom_files import SHARED, make_series


def split_folders(root: Path, counts: dict[str, dict[str, int]]) -> Path:
    for split, classes in counts.items():
        for name, count in classes.items():
            files(root / split / name, (f"image({number}).jpg" for number in range(1, count + 1)))
    return root


BTC = {
    "Training": {"glioma_tumor": 826, "meningioma_tumor": 822, "no_tumor": 395, "pituitary_tumor": 827},
    "Testing": {"glioma_tumor": 100, "meningioma_tumor": 115, "no_tumor": 105, "pituitary_tumor": 74},
}


@pytest.fixture(scope="module")
def btc() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield split_folders(Path(folder), BTC)


def test_btc(btc: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        made = make_datalist(btc)
    assert made.class_names == ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")
    assert (len(made.training) + len(made.validation), len(made.test)) == (2870, 394)
    assert per_class(made, "training", "validation") == [826, 822, 395, 827]
    assert per_class(made, "test") == [100, 115, 105, 74]
    assert per_class(made, "validation") == pytest.approx([826 / 5, 822 / 5, 395 / 5, 827 / 5], abs=1)
    assert all("Testing" in Path(item["image"]).parts for item in made.test)
    assert all(item["patient"] == item["series"] == "" for item in made.training)
    assert "BTC: published training set 2870, of which 574 validate; test set 394. No patients" in caplog.text
    assert warnings_of(caplog) == ""
    assert make_datalist(btc, seed=1).validation != made.validation
    assert make_datalist(btc, seed=1).test == made.test


def test_a_copy_of_btc_that_differs_is_used_and_says_in_what(btc: Path, tmp_path: Path, caplog) -> None:
    root = tmp_path / "copy"
    shutil.copytree(btc, root, copy_function=os.link)
    (root / "Training" / "no_tumor" / "image(7).jpg").unlink()
    shutil.copy(root / "Training" / "no_tumor" / "image(9).jpg", root / "Testing" / "no_tumor" / "image(106).jpg")
    made = make_datalist(root)
    assert (len(made.training) + len(made.validation), len(made.test)) == (2869, 395)
    said = warnings_of(caplog)
    assert (
        "BTC: this copy differs from the published one: 394 of no_tumor in training (published 395); "
        "106 of no_tumor in test (published 105)\n"
    ) in said
    assert "BTC: one file stands in two published splits: items 1 of development, 1 of test" in said


def test_folds_of_a_published_set_ignore_its_split_and_keep_equal_files_together(tmp_path: Path) -> None:
    root = split_folders(tmp_path, {split: dict.fromkeys(BTC[split], 12) for split in BTC})
    same = [root / "Training" / "no_tumor" / "image(1).jpg", root / "Testing" / "no_tumor" / "image(1).jpg"]
    shutil.copy(*same)
    made = make_folds(root, 5)
    tested = [item["image"] for one in made for item in one.test]
    assert len(tested) == len(set(tested)) == 96
    assert any({str(path) for path in same} <= {item["image"] for item in one.test} for one in made)
    read, left_out = read_datalist(root)
    assert (sum(sizes(read)), left_out) == (96, [])


CHEST = {
    "train": {"COVID19": 460, "NORMAL": 1341, "PNEUMONIA": 3875, "TURBERCULOSIS": 650},
    "val": {"COVID19": 10, "NORMAL": 8, "PNEUMONIA": 8, "TURBERCULOSIS": 12},
    "test": {"COVID19": 106, "NORMAL": 234, "PNEUMONIA": 390, "TURBERCULOSIS": 41},
}


@pytest.mark.slow
def test_the_papers_chest_x_rays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        made = make_datalist(split_folders(tmp_path, CHEST))
    assert made.class_names == ("NORMAL", "COVID19", "PNEUMONIA", "TURBERCULOSIS")
    assert sizes(made) == (6326, 38, 771)
    assert per_class(made, "training") == [1341, 460, 3875, 650]
    assert per_class(made, "validation") == [8, 10, 8, 12]
    assert per_class(made, "test") == [234, 106, 390, 41]
    assert "published split 6326 / 38 / 771" in caplog.text
    assert warnings_of(caplog) == ""


def test_names_of_ones_own_are_not_taken_for_a_published_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = {split: {"glioma": 12, "no_tumor": 10} for split in ("Training", "Testing")}
    with caplog.at_level(logging.INFO):
        made = make_datalist(split_folders(tmp_path / "like_btc", counts))
    assert made.class_names == ("glioma", "no_tumor")
    assert (len(made.training) + len(made.validation), len(made.test)) == (22, 22)
    assert "BTC" not in caplog.text
    for name in ("benign", "malignant", "normal"):
        files(tmp_path / "like_busi" / name, (f"{number}.png" for number in range(12)))
    assert sum(sizes(make_datalist(tmp_path / "like_busi"))) == 36
    assert "BUSI" not in caplog.text


@pytest.mark.parametrize("folder_names", [("train", "val", "test"), ("Training", "Validation", "Testing")])
def test_folders_of_splits_with_any_classes(folder_names: tuple[str, ...], tmp_path: Path) -> None:
    root = split_folders(tmp_path, {split: {"ill": 3, "healthy": 4} for split in folder_names})
    files(root / ".cache" / "x", ["a.png"])
    made = make_datalist(root)
    assert made.class_names == ("healthy", "ill")
    assert sizes(made) == (7, 7, 7)
    for split, folder in zip(SPLITS, folder_names, strict=True):
        assert {Path(item["image"]).parts[-3] for item in made[split]} == {folder}
        assert all((Path(item["image"]).parts[-2] == "ill") == item["label"] for item in made[split])


def test_folders_of_splits_with_dicom_keep_patients_apart(tmp_path: Path) -> None:
    seed = 0
    for split in ("train", "test"):
        for name in ("ill", "healthy"):
            for number in range(5):
                seed += 1

                def patient(k: int, ds: Dataset, identity: str = f"P{seed}") -> None:
                    ds.PatientID = identity

                make_series(tmp_path / split / name / str(number), slices=3, shape=(4, 4), change=patient, seed=seed)
    made = make_datalist(tmp_path)
    assert sizes(made) == (8, 2, 10)
    assert all(len(item["image"]) == 3 and item["patient"] for split in SPLITS for item in made[split])
    again = tmp_path / "test" / "ill" / "again"
    make_series(again, slices=3, shape=(4, 4), change=lambda k, ds: setattr(ds, "PatientID", "P1"), seed=99)
    with pytest.raises(DataListError, match="the patient stands in two splits"):
        make_datalist(tmp_path)


def test_folders_of_splits_that_cannot_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = split_folders(tmp_path, {split: {"ill": 3, "healthy": 4} for split in ("train", "val", "test")})
    shutil.copy(root / "train" / "ill" / "image(1).jpg", root / "test" / "ill" / "image(9).jpg")
    (root / "other").mkdir()
    with pytest.raises(DataListError, match=r"the file stands in two splits; monai-rd audit --fix writes a list"):
        make_datalist(root)
    assert "1 folders beside those of the splits are not read" in caplog.text
    assert sum(sizes(read_datalist(root)[0])) == 22
    shutil.rmtree(root / "val")
    (root / "test" / "ill" / "image(9).jpg").unlink()
    with pytest.raises(
        DataListError, match=r"\(2 problems\):\n.*class 'healthy' has 4 .*; a validation set needs at least 5"
    ):
        make_datalist(root)
    (root / "val").mkdir()
    shutil.rmtree(root / "test")
    with pytest.raises(DataListError, match="the folders train, val: one for training and one for test are needed"):
        make_datalist(root)


def ultrasound(seed: int) -> Image.Image:
    """A picture of its own, of 8 x 8 patches."""
    grey = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    return Image.fromarray(grey)


def speckled(seed: int) -> Image.Image:
    """A picture with fine structure, in which a near copy can be told from another."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :96] / 96
    picture = sum(
        height * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / width**2)
        for cy, cx, width, height in random.uniform((0, 0, 0.02, -1), (1, 1, 0.2, 1), (30, 4))
    )
    return Image.fromarray(((picture - np.min(picture)) / np.ptp(picture) * 180 + 10).astype(np.uint8))


def busi(root: Path, counts: dict[str, int], mask: bool = True) -> Path:
    seed = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(1, count + 1):
            seed += 1
            ultrasound(seed).save(root / name / f"{name} ({number}).png")
            (root / name / f"{name} ({number})_mask.png").write_text("never opened")
    (root / "benign" / "benign (1)_mask_1.png").write_text("never opened")
    return root


def test_busi(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    busi(tmp_path / "Dataset_BUSI_with_GT", {"benign": 437, "malignant": 210, "normal": 133})
    with caplog.at_level(logging.INFO):
        made = make_datalist(tmp_path)
    assert made.class_names == ("normal", "benign", "malignant")
    assert per_class(made, *SPLITS) == [133, 437, 210]
    assert sizes(made) == (499, 125, 156), "624 to 156"
    assert per_class(made, "test") == pytest.approx([133 / 5, 437 / 5, 210 / 5], abs=1)
    assert not [item for split in SPLITS for item in made[split] if "mask" in item["image"]]
    assert "BUSI: 780 images, 780 without their copies and near copies" in caplog.text
    assert "780 published without a split, split here by the seed" in caplog.text
    assert warnings_of(caplog) == ""


def test_copies_and_near_copies_in_busi_stay_together(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of each of five pictures an equal one, a mirrored one and one saved again and brightened."""
    root = busi(tmp_path / "data", {"benign": 20, "malignant": 20, "normal": 20})
    planted = [
        {f"benign ({100 + n})", f"malignant ({100 + n})", f"benign ({200 + n})", f"normal ({300 + n})"}
        for n in range(5)
    ]
    for n in range(5):
        picture = speckled(n)
        picture.save(root / "benign" / f"benign ({100 + n}).png")
        picture.convert("RGB").save(root / "malignant" / f"malignant ({100 + n}).png")
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "benign" / f"benign ({200 + n}).png")
        ImageEnhance.Brightness(picture.resize((80, 80))).enhance(1.1).save(root / "normal" / f"normal ({300 + n}).png")
    with caplog.at_level(logging.INFO):
        for seed in range(3):
            made = make_datalist(root, seed=seed)
            for group in planted:
                assert sum(bool(group & stems(made[split])) for split in SPLITS) == 1
                assert sum(len(group & stems(made[split])) for split in SPLITS) == 4
    assert "BUSI: 10 images have copies under another label: see monai-rd audit" in caplog.text
    assert "BUSI: 80 images, 65 without their copies and near copies" in caplog.text
    assert "BUSI: this copy differs from the published one: 25 of normal in all (published 133); 30 of" in caplog.text
    write_datalist(made, root, tmp_path / "list.json", KEY)
    for one in make_folds(root, 5, tmp_path / "list.json"):
        assert all(sum(bool(group & stems(one[split])) for split in SPLITS) == 1 for group in planted)


def test_images_of_busi_that_cannot_be_read(tmp_path: Path) -> None:
    root = busi(tmp_path, {"benign": 10, "malignant": 10, "normal": 10})
    for number in (2, 3):
        (root / "malignant" / f"malignant ({number}).png").write_bytes(b"torn")
    with pytest.raises(DataListError, match="BUSI: 2 images of malignant cannot be read"):
        make_datalist(root)


def test_a_published_folder_in_the_folder_given(tmp_path: Path) -> None:
    counts = {split: dict.fromkeys(BTC[split], 12) for split in BTC}
    split_folders(tmp_path / "archive", counts)
    (tmp_path / "__MACOSX").mkdir()
    assert make_datalist(tmp_path).class_names == tuple(BTC["Training"])
    (tmp_path / "another").mkdir()
    with pytest.raises(DataListError, match="no two class folders with images"):
        make_datalist(tmp_path)
    (tmp_path / "another").rmdir()
    rows = [(f"archive/Training/no_tumor/image({n}).jpg", "ab"[n % 2], SPLITS[n % 3]) for n in range(1, 13)]
    table(tmp_path / "labels.csv", "image,label,split", rows)
    assert make_datalist(tmp_path).class_names == ("a", "b"), "a sheet of one's own comes before what lies below"


def covid_ct(root: Path) -> Path:
    """COVID-CT's layout, 2 images a class and split."""
    for name in ("COVID", "NonCOVID"):
        for split in ("train", "val", "test"):
            files = [picture(root / "Images-processed" / f"CT_{name}" / f"{split}_{n}.png").name for n in range(2)]
            listing = root / "Data-split" / name / f"{split}CT_{name}.txt"
            listing.parent.mkdir(parents=True, exist_ok=True)
            listing.write_text("\n".join(files) + "\n")
    return root


def test_covid_cts_official_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = make_datalist(covid_ct(tmp_path))
    assert found.class_names == ("NonCOVID", "COVID")
    for split, short in (("training", "train"), ("validation", "val"), ("test", "test")):
        assert names(found[split]) == [f"{short}_0.png", f"{short}_1.png"] * 2
        assert [item["label"] for item in found[split]] == [0, 0, 1, 1]
    assert "this copy differs from the published one: 2 of NonCOVID in training (published 234); 2 of" in caplog.text
    listing = tmp_path / "Data-split" / "COVID" / "testCT_COVID.txt"
    listing.write_text(listing.read_text() + "test_1.png\n")
    assert names(make_datalist(tmp_path).test) == ["test_0.png", "test_1.png", "test_0.png", "test_1.png", "test_1.png"]
    (tmp_path / "Images-processed" / "CT_COVID" / "val_1.png").unlink()
    shutil.rmtree(tmp_path / "Data-split" / "NonCOVID")
    with pytest.raises(DataListError) as caught:
        make_datalist(tmp_path)
    assert "1 of the 2 images of valCT_COVID.txt are not in CT_COVID" in str(caught.value)
    assert "no trainCT_NonCOVID.txt" in str(caught.value)


@pytest.mark.skipif(not (SHARED / "COVID-CT").is_dir(), reason="COVID-CT is not here; the project does not ship it")
def test_the_real_covid_ct(caplog: pytest.LogCaptureFixture) -> None:
    found = make_datalist(SHARED / "COVID-CT")
    assert (len(found.training), len(found.validation), len(found.test)) == (425, 118, 203)
    assert sum(item["label"] for item in found.test) == 98
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

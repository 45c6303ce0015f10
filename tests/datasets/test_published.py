"""Published data sets: laid out as their publishers do, at their published counts, with files of a few bytes."""

from __future__ import annotations

import csv
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from pydicom.dataset import Dataset

from monai_rd.datasets import DataList, DataListError, make_datalist, make_folds, write_datalist
from monai_rd.datasets.datalist import read_datalist
from monai_rd.datasets.published import tables
from monai_rd.datasets.splits import SPLITS
from tests.dicom_files import make_series

KEY = b"0123456789abcdef" * 2
SKIN = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


def per_class(made: DataList, *splits: str) -> list[int]:
    counts = Counter(item["label"] for split in splits for item in made[split])
    return [counts[index] for index in range(len(made.class_names))]


def sizes(made: DataList) -> tuple[int, ...]:
    return tuple(len(made[split]) for split in SPLITS)


def stems(items: list[dict]) -> set[str]:
    return {Path(item["image"]).stem for item in items}


def warnings_of(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


def files(folder: Path, names: Iterable[str]) -> None:
    """Files that differ, which are no images: layouts are read without looking into them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(f"{folder.parent.name}/{folder.name}/{name}")


def links(folder: Path, names: Iterable[str]) -> None:
    """One file by many names."""
    folder.mkdir(parents=True, exist_ok=True)
    first = folder.parent / "one.bytes"
    if not first.exists():
        first.write_text("no image")
    for name in names:
        os.link(first, folder / name)


def table(path: Path, header: str, rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        file.write(header + "\n")
        csv.writer(file).writerows(rows)


# ------------------------------------------------------------------------------------------- folders of splits, classes


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


# ----------------------------------------------------------------------------------------------------------------- BUSI


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


# ------------------------------------------------------------------------------------------------------- ISIC, HAM10000

COUNTS = {
    "Training": (1113, 6705, 514, 327, 1099, 115, 142),
    "Validation": (21, 123, 15, 8, 22, 1, 3),
    "Test": (171, 909, 93, 43, 217, 44, 35),
}
FIRST = {"Training": 24306, "Validation": 34321, "Test": 34524}


def diagnoses(part: str, counts: Sequence[int] | None = None) -> list[tuple[str, str]]:
    labels = [name for name, count in zip(SKIN, counts or COUNTS[part], strict=True) for _ in range(count)]
    return [(f"ISIC_{FIRST[part] + number:07d}", label) for number, label in enumerate(labels)]


def isic(root: Path, parts: Sequence[str], nested: bool = True, counts: Sequence[int] | None = None) -> Path:
    for part in parts:
        rows = diagnoses(part, counts)
        links(root / f"ISIC2018_Task3_{part}_Input", (f"{image}.jpg" for image, _ in rows))
        name = f"ISIC2018_Task3_{part}_GroundTruth"
        marked = [(image, *(float(label == one) for one in SKIN)) for image, label in rows]
        table(root / name / f"{name}.csv" if nested else root / f"{name}.csv", "image," + ",".join(SKIN), marked)
    return root


def lesion(number: int) -> str:
    """Two images of each lesion."""
    return f"HAM_{number // 2:07d}"


def test_isic2018(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as folder, caplog.at_level(logging.INFO):
        root = isic(Path(folder), ("Training", "Test"))
        groupings = root / "ISIC2018_Task3_Training_LesionGroupings.csv"
        rows = [(image, lesion(n), "histopathology") for n, (image, _) in enumerate(diagnoses("Training"))]
        table(groupings, "image,lesion_id,diagnosis_confirm_type", rows)
        made = make_datalist(root)
        assert warnings_of(caplog) == ""
        sides = {int(Path(item["image"]).stem[5:]) - FIRST["Training"] for item in made.validation}
        groupings.unlink()
        make_datalist(root)
    assert made.class_names == SKIN
    assert (len(made.training) + len(made.validation), len(made.test)) == (10015, 1512)
    assert per_class(made, "training", "validation") == list(COUNTS["Training"])
    assert per_class(made, "test") == list(COUNTS["Test"])
    assert per_class(made, "validation") == pytest.approx([count / 5 for count in COUNTS["Training"]], abs=4)
    assert all({number - number % 2, number - number % 2 + 1} <= sides | {10015} for number in sides)
    assert "ISIC2018: published training set 10015, of which" in caplog.text
    assert "no ISIC2018_Task3_Training_LesionGroupings.csv: images of one lesion" in warnings_of(caplog)


def test_isic2018_with_its_validation_set_and_flat_tables(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as folder, caplog.at_level(logging.INFO):
        made = make_datalist(isic(Path(folder), tuple(COUNTS), nested=False))
    assert sizes(made) == (10015, 193, 1512)
    assert per_class(made, "validation") == list(COUNTS["Validation"])
    assert "published split 10015 / 193 / 1512" in caplog.text
    assert "differs" not in caplog.text


def test_everything_wrong_with_isic_is_said_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = isic(tmp_path, tuple(COUNTS), counts=(6,) * 7)
    (root / "ISIC2018_Task3_Training_Input" / "ISIC_0024306.jpg").unlink()
    (root / "ISIC2018_Task3_Training_Input" / "ISIC_0024307.jpg").unlink()
    (root / "ISIC2018_Task3_Training_Input" / "ISIC_9999999.jpg").write_text("extra")
    shutil.rmtree(root / "ISIC2018_Task3_Test_GroundTruth")
    truth = root / "ISIC2018_Task3_Validation_GroundTruth" / "ISIC2018_Task3_Validation_GroundTruth.csv"
    truth.write_text(truth.read_text().replace("0.0,1.0,0.0", "0.0,0.0,0.0", 1))
    with pytest.raises(DataListError) as caught:
        make_datalist(root)
    for words in (
        "2 of the 42 images of ISIC2018_Task3_Training_GroundTruth.csv are not in ISIC2018_Task3_Training_Input",
        "ISIC2018: no ISIC2018_Task3_Test_GroundTruth.csv",
        "1 of the 42 rows of ISIC2018_Task3_Validation_GroundTruth.csv tell no single class",
    ):
        assert words in str(caught.value)
    assert "1 images are not in ISIC2018_Task3_Training_GroundTruth.csv and not used" in caplog.text
    truth.write_text("image,melanoma\nISIC_1,1\n")
    with pytest.raises(DataListError, match=r"Validation_GroundTruth.csv needs the columns image, MEL, .* or image_id"):
        make_datalist(root)


def ham(root: Path, test: int | None, one_hot: bool = True) -> Path:
    rows = diagnoses("Training")
    links(root / "HAM10000_images_part_1", (f"{image}.jpg" for image, _ in rows[:5000]))
    links(root / "HAM10000_images_part_2", (f"{image}.jpg" for image, _ in rows[5000:]))
    more = [(lesion(n), image, label.lower(), "histo", 45.0, "male", "back") for n, (image, label) in enumerate(rows)]
    table(root / "HAM10000_metadata.csv", "lesion_id,image_id,dx,dx_type,age,sex,localization", more)
    if test is not None:
        tested = diagnoses("Test")
        links(root / "ISIC2018_Task3_Test_Images", (f"{image}.jpg" for image, _ in tested[:test]))
        truth = root / "ISIC2018_Task3_Test_GroundTruth.csv"
        if one_hot:
            marked = [(image, *(float(label == one) for one in SKIN)) for image, label in tested]
            table(truth, "image," + ",".join(SKIN), marked)
        else:
            table(truth, "lesion_id,image_id,dx", [("", image, label.lower()) for image, label in tested[:test]])
    return root


@pytest.mark.parametrize(("test", "one_hot"), [(1512, True), (1511, True), (1511, False), (None, True)])
def test_ham10000(test: int | None, one_hot: bool, caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as folder, caplog.at_level(logging.INFO):
        made = make_datalist(ham(Path(folder), test, one_hot))
    assert made.class_names == SKIN
    if test is None:
        assert per_class(made, *SPLITS) == list(COUNTS["Training"])
        assert "HAM10000: 10015 published without a split" in caplog.text
        assert "ISIC2018_Task3_Test_GroundTruth.csv and its images, is not here" in caplog.text
    else:
        assert (len(made.training) + len(made.validation), len(made.test)) == (10015, test)
    of = [{lesion(int(name[5:]) - FIRST["Training"]) for name in stems(made[s])} for s in ("training", "validation")]
    assert not of[0] & of[1]
    said = warnings_of(caplog)
    assert ("34 of VASC in test (published 35)" in said) == (test == 1511)
    assert ("1 of the 1512 images of ISIC2018_Task3_Test_GroundTruth.csv is not there" in said) == (
        test == 1511 and one_hot
    )
    assert (said == "") == (test != 1511)


# --------------------------------------------------------------------------------------------------------- ChestX-ray14

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
FINDINGS = tuple(tables.CHEST_XRAY_14.class_names)


def nih(root: Path, patients: int, name: str = "Data_Entry_2017_v2020.csv", end: str = "") -> Path:
    """Three images of each patient in three of the twelve folders; every fourth patient is a test patient."""
    random = np.random.default_rng(0)
    rows: list[tuple[object, ...]] = []
    lists: dict[str, list[str]] = {"train_val_list.txt": [], "test_list.txt": []}
    for visit in range(3):
        for patient in range(1, patients + 1):
            image = f"{patient:08d}_{visit:03d}.png"
            found = "|".join(finding for finding in FINDINGS if random.random() < 0.12)
            rows.append((image, found or "No Finding", visit, patient, 50, "F", "PA", 2500, 2048, 0.168, 0.168))
            lists["test_list.txt" if patient % 4 == 0 else "train_val_list.txt"].append(image)
        links(root / f"images_{visit + 1:03d}" / "images", [str(row[0]) for row in rows[-patients:]])
    table(root / name, NIH_HEADER, rows)
    for listing, images in lists.items():
        (root / listing).write_text("\n".join(images))
    lines = (root / name).read_text().splitlines()
    (root / name).write_text("".join(f"{line}{end}\n" for line in lines))
    return root


def test_chest_x_ray_14(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As first published, with one comma too many in every line."""
    root = nih(tmp_path / "data", 160, "Data_Entry_2017.csv", ",")
    with caplog.at_level(logging.INFO):
        made = make_datalist(root, key=KEY)
    assert made.multi_label
    assert made.class_names == FINDINGS
    assert len(FINDINGS) == 14
    assert (len(made.training) + len(made.validation), len(made.test)) == (360, 120)
    assert len(made.validation) == pytest.approx(72, abs=6)
    patients = [{int(stem.split("_")[0]) for stem in stems(made[split])} for split in SPLITS]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 160
    assert patients[2] == set(range(4, 161, 4))
    with open(root / "Data_Entry_2017.csv") as file:
        labels = {row[0]: row[1] for row in list(csv.reader(file))[1:]}
    for split in SPLITS:
        for item in made[split]:
            named = {FINDINGS[n] for n, has in enumerate(item["label"]) if has}
            assert named == set(labels[Path(item["image"]).name].split("|")) - {"No Finding"}
            assert all(type(has) is float for has in item["label"])
    said = warnings_of(caplog)
    assert "360 items in training (published 86524)" in said
    assert f"{made.class_counts('test')[13]} of Hernia in test (published 86)" in said
    write_datalist(made, root, tmp_path / "list.json", KEY)
    assert make_datalist(root, tmp_path / "list.json", key=KEY) == made
    folds = make_folds(root, 4)
    assert sorted(Path(i["image"]).name for one in folds for i in one.test) == sorted(labels)


def test_everything_wrong_with_chest_x_ray_14_is_said_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = nih(tmp_path, patients=80)
    next(root.glob("images_*/images/00000004_000.png")).unlink()
    with open(root / "train_val_list.txt", "a") as file:
        file.write("\n00000999_000.png\n")
    text = (root / "Data_Entry_2017_v2020.csv").read_text()
    (root / "Data_Entry_2017_v2020.csv").write_text(text.replace("No Finding", "Nothing", 1))
    with pytest.raises(DataListError) as caught:
        make_datalist(root)
    for words in (
        "1 of the 60 images of test_list.txt are not in the folders images or images_*",
        "1 of the 181 images of train_val_list.txt are not in Data_Entry_2017_v2020.csv",
        "label 'Nothing' is not among the class names",
    ):
        assert words in str(caught.value)
    (root / "test_list.txt").unlink()
    with pytest.raises(DataListError, match=r"ChestX-ray14: no test_list.txt"):
        make_datalist(root)
    assert "60 images of Data_Entry_2017_v2020.csv stand in no list and are not used" in caplog.text


def test_the_published_counts_add_up() -> None:
    """To the totals that the publishers give, which were read apart from the counts of the classes."""
    assert [sum(counts) for counts in tables.ISIC2018.counts.values()] == [10015, 193, 1512]
    assert sum(tables.CHEST_XRAY_14.sizes.values()) == 112120
    totals = (11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227)
    assert tuple(map(sum, zip(*tables.CHEST_XRAY_14.counts.values(), strict=True))) == totals


# ---------------------------------------------------------------------------------------------- where it is looked for


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

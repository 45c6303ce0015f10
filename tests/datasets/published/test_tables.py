"""Data sets that are published with tables: at their published counts, with files of a few bytes."""

from __future__ import annotations

import csv
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from monai_rd.datasets import DataListError, make_datalist, make_folds, write_datalist
from monai_rd.datasets.published import tables
from monai_rd.datasets.splits import SPLITS
from tests.datasets.labelled_files import KEY
from tests.datasets.published.laid_out import links, per_class, sizes, stems, table, warnings_of

SKIN = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
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

"""Splits and folds: stratified by class, the same for a seed, no patient on two sides."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from monai_rd.datasets import DataListError, make_datalist, make_folds
from tests.datasets.labelled_files import labelled, names, picture, rows_of, table


def test_a_table_without_split_is_split_by_class_and_seed(images: Path) -> None:
    table(images / "labels.csv", rows_of())
    found = make_datalist(images)
    assert found.class_names == ("clear", "covid")
    sizes = {split: Counter(item["label"] for item in found[split]) for split in ("training", "validation", "test")}
    assert sizes == {"training": {0: 19, 1: 6}, "validation": {0: 5, 1: 2}, "test": {0: 6, 1: 2}}
    together = [name for split in sizes for name in names(found[split])]
    assert sorted(together) == sorted(path.name for path in images.glob("*.png"))
    for split in sizes:
        for item in found[split]:
            assert item["label"] == int(labelled(int(Path(item["image"]).stem)) == "covid")
    assert make_datalist(images) == found
    assert make_datalist(images, seed=1) != found


def test_no_patient_stands_on_two_sides(images: Path) -> None:
    rows = [("image", "label", "patient"), *((f"{n:02d}.png", "ab"[n % 2], f"P{n % 20}") for n in range(40))]
    table(images / "labels.csv", rows)
    for seed in range(5):
        found = make_datalist(images, seed=seed)
        sides = [{int(Path(item["image"]).stem) % 20 for item in found[s]} for s in ("training", "validation", "test")]
        assert sum(map(len, sides)) == len(set.union(*sides)) == 20
        counts = [Counter(item["label"] for item in found[s]) for s in ("training", "validation", "test")]
        assert all(abs(count[0] - count[1]) <= 2 for count in counts), "not stratified"


def test_a_patient_of_two_classes_stands_for_the_rarer(images: Path) -> None:
    """20 patients of two images; 10 of them have one image of the rare class."""
    rows = [("image", "label", "patient"), *((f"{n:02d}.png", "ab"[n < 10], f"P{n % 20}") for n in range(40))]
    table(images / "labels.csv", rows)
    for seed in range(5):
        found = make_datalist(images, seed=seed)
        assert [sum(item["label"] for item in found[s]) for s in ("validation", "test")] == [2, 2]
        assert [len(found[s]) for s in ("training", "validation", "test")] in ([24, 8, 8], [26, 6, 8])


def test_a_patient_in_two_splits_is_refused_without_the_name(images: Path) -> None:
    rows = [("image", "label", "patient", "split")]
    for n in range(40):
        rows.append((f"{n:02d}.png", labelled(n // 4), f"Anna{n % 19}", ["training", "validation", "test"][n % 3]))
    table(images / "labels.csv", rows)
    with pytest.raises(DataListError, match=r"rows 2-41: the patient stands in two splits") as caught:
        make_datalist(images)
    assert "Anna" not in str(caught.value)


def test_copies_of_one_image_stay_together(tmp_path: Path) -> None:
    for number in range(60):
        picture(tmp_path / ["healthy", "ill"][number % 2] / f"{number}.png", number % 30)
    for seed in range(5):
        found = make_datalist(tmp_path, seed=seed)
        sides = [{int(Path(i["image"]).stem) % 30 for i in found[s]} for s in ("training", "validation", "test")]
        assert sum(map(len, sides)) == len(set.union(*sides)) == 30


def test_class_folders_of_dicom_keep_patients_apart(cohort: Path, tmp_path: Path) -> None:
    """Two series of each of 12 patients a class: both on one side, in every run the same."""
    from pydicom import dcmread
    from pydicom.uid import generate_uid

    for patient in range(24):
        for twin in range(2):
            folder = tmp_path / ["clear", "opacity"][patient % 2] / f"{patient}_{twin}"
            folder.mkdir(parents=True)
            uid = generate_uid()
            for number in range(3):
                image = dcmread(cohort / "study_0000" / f"IM{number:04d}.dcm")
                image.PatientID, image.SeriesInstanceUID = f"P{patient}", uid
                image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
                image.ImagePositionPatient = [0, 0, 10 * number]
                image.save_as(folder / f"{number}.dcm")
    found = make_datalist(tmp_path)
    sides = [
        {Path(item["image"][0]).parent.name.split("_")[0] for item in found[split]}
        for split in ("training", "validation", "test")
    ]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 24
    for run in range(5):
        again = make_datalist(tmp_path, key=bytes([run]) * 32)
        for split in ("training", "validation", "test"):
            assert [item["image"] for item in again[split]] == [item["image"] for item in found[split]]


def test_a_lesion_keeps_its_images_together(images: Path) -> None:
    """Patients 0 to 19 have two images each; lesion L joins the patients 0 and 1, so that their four stay together."""
    rows = [("image", "label", "patient", "lesion")]
    for n in range(40):
        rows.append((f"{n:02d}.png", "ab"[n % 2], f"P{n % 20}", "L" if n in (0, 21) else ""))
    table(images / "labels.csv", rows)
    for seed in range(8):
        found = make_datalist(images, seed=seed)
        sides = [{int(Path(item["image"]).stem) for item in found[s]} for s in ("training", "validation", "test")]
        assert any({0, 20, 1, 21} <= side for side in sides)
        numbers = [int(Path(item["image"]).stem) for item in found.training]
        folds = dict(zip(numbers, found.folds(3, seed), strict=True))
        assert len({folds[number] for number in (0, 20, 1, 21) if number in folds}) <= 1
        assert all(folds[number] == folds.get(number + 20) for number in folds if number < 20)
    splits = ["split", *["training", "validation", "test", "training"] * 10]
    table(images / "labels.csv", [(r[0], r[1], r[3], split) for r, split in zip(rows, splits, strict=False)])
    with pytest.raises(DataListError, match="rows 2, 23: the lesion stands in two splits") as caught:
        make_datalist(images)
    assert "patient stands" not in str(caught.value)


def test_folds_test_everything_once(images: Path) -> None:
    rows = [
        ("image", "label", "patient", "split"),
        *((f"{n:02d}.png", "ab"[n % 2], f"P{n % 20}", "test") for n in range(40)),
    ]
    table(images / "labels.csv", rows)
    made = make_folds(images, 5)
    assert len(made) == 5
    assert sorted(name for one in made for name in names(one.test)) == [f"{n:02d}.png" for n in range(40)]
    for number, one in enumerate(made):
        assert names(one.validation) == names(made[(number + 1) % 5].test)
        sides = [{item["patient"] for item in one[s]} for s in ("training", "validation", "test")]
        assert sum(map(len, sides)) == len(set.union(*sides)) == 20
        assert Counter(item["label"] for item in one.test) == {0: 4, 1: 4}
    again = make_folds(images, 5)
    assert [names(one.test) for one in again] == [names(one.test) for one in made]
    assert [names(one.test) for one in make_folds(images, 5, seed=1)] != [names(one.test) for one in made]
    with pytest.raises(ValueError, match="at least 3"):
        make_folds(images, 2)
    with pytest.raises(DataListError, match=r"class 'a' has 10 patients .*; 11 folds needs at least 11"):
        make_folds(images, 11)

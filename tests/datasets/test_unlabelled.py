"""Unlabelled images: where they come from, and that none of validation or test is among them."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from scipy.ndimage import gaussian_filter

from monai_rd.datasets import DataList, DataListError, make_datalist, unlabelled, write_datalist
from monai_rd.datasets.lists import compare_identities
from monai_rd.no_label import NO_LABEL
from tests.dicom_files import make_series

SPLITS = ("training", "validation", "test")


def scene(seed: int, side: int = 96) -> np.ndarray:
    """A picture of some structure, another one for each seed."""
    random = np.random.default_rng(seed)
    smooth = gaussian_filter(random.normal(size=(side, side)), 4)
    return np.uint8(255 * (smooth - smooth.min()) / np.ptp(smooth))


def save(path: Path, pixels: np.ndarray, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)
    return path


def sheet(path: Path, rows: list[tuple[str, ...]]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve labelled pictures of six patients, of which two are the test set's and two the validation set's."""
    rows = [("image", "label", "patient", "split")]
    for number in range(12):
        save(tmp_path / "data" / f"{number:02d}.png", scene(number))
        split = SPLITS[number // 4]
        rows.append((f"{number:02d}.png", "ab"[number % 2], f"PAT-{number // 2:04d}", split))
    sheet(tmp_path / "data" / "labels.csv", rows)
    return tmp_path / "data"


def listed(data: Path, *unlabelled: Path, **more: Any) -> DataList:
    return make_datalist(data, unlabelled=list(unlabelled), **more)


def names(made: DataList) -> set[str]:
    return {Path(one if isinstance(one := item["image"], str) else one[0]).stem for item in made.unlabelled}


# ------------------------------------------------------------------------------------------------------- what stays out


def jpeg(pixels: np.ndarray, path: Path) -> Path:
    return save(path.with_suffix(".jpg"), pixels, quality=40)


def half(pixels: np.ndarray, path: Path) -> Path:
    return save(path, np.asarray(Image.fromarray(pixels).resize((48, 48))))


def small_jpeg(pixels: np.ndarray, path: Path) -> Path:
    return save(path.with_suffix(".jpg"), np.asarray(Image.fromarray(pixels).resize((64, 64))), quality=60)


def brighter(pixels: np.ndarray, path: Path) -> Path:
    return save(path, np.uint8(np.clip(pixels * 0.7 + 60, 0, 255)))


def mirrored(pixels: np.ndarray, path: Path) -> Path:
    return save(path, np.ascontiguousarray(pixels[:, ::-1]))


def cropped(pixels: np.ndarray, path: Path) -> Path:
    return save(path, np.ascontiguousarray(pixels[3:-3, 3:-3]))


def same_pixels(pixels: np.ndarray, path: Path) -> Path:
    return save(path.with_suffix(".bmp"), pixels)


def same_file(pixels: np.ndarray, path: Path) -> Path:
    return save(path, pixels)


COPIES = (same_file, same_pixels, jpeg, half, small_jpeg, brighter, mirrored, cropped)


@pytest.mark.parametrize("held", [5, 9], ids=["validation", "test"])
@pytest.mark.parametrize(
    "copied",
    [same_file, same_pixels, jpeg, half, small_jpeg, brighter, mirrored, cropped],
    ids=lambda one: one.__name__,
)
def test_no_copy_of_validation_or_test(
    data: Path, tmp_path: Path, held: int, copied: Callable[[np.ndarray, Path], Path]
) -> None:
    pool = tmp_path / "pool"
    for number in range(100, 104):
        save(pool / f"other_{number}.png", scene(number))
    copied(scene(held), pool / "copy.png")
    made = listed(data, pool, cache_dir=tmp_path / "cache")
    assert names(made) == {f"other_{number}" for number in range(100, 104)}
    assert [item["label"] for item in made.unlabelled] == [NO_LABEL] * 4
    assert names(listed(data, pool, cache_dir=tmp_path / "cache")) == names(made)  # as it is remembered


def test_what_was_compared_is_not_compared_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(100, 103):
        save(tmp_path / "pool" / f"{number}.png", scene(number))
    jpeg(scene(9), tmp_path / "pool" / "copy.jpg")
    first = names(listed(data, tmp_path / "pool", cache_dir=tmp_path / "cache"))
    compared: list[int] = []
    plain = unlabelled.copies_of
    monkeypatch.setattr(unlabelled, "copies_of", lambda *given: compared.append(len(given[1])) or plain(*given))
    assert names(listed(data, tmp_path / "pool", cache_dir=tmp_path / "cache")) == first == {"100", "101", "102"}
    assert compared == []
    save(tmp_path / "pool" / "103.png", scene(103))
    assert names(listed(data, tmp_path / "pool", cache_dir=tmp_path / "cache")) == {*first, "103"}
    assert compared == [1]
    save(data / "11.png", scene(102))  # a test image that is another one now
    assert names(listed(data, tmp_path / "pool", cache_dir=tmp_path / "cache")) == {"100", "101", "103"}
    assert compared == [1, 4]  # of all that was not told by its file


def test_no_picture_whose_path_tells_a_patient_of_the_test_set(data: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    save(pool / "PAT-0005_late.png", scene(100))
    save(pool / "PAT-0005" / "scan.png", scene(101))
    save(pool / "of PAT-0003.png", scene(102))
    save(pool / "PAT-0000_training.png", scene(103))
    save(pool / "PAT-00055.png", scene(104))
    assert names(listed(data, pool)) == {"PAT-0000_training", "PAT-00055"}


def test_short_numbers_in_names_are_no_patients(tmp_path: Path) -> None:
    rows = [("image", "label", "patient", "split")]
    for number in range(6):
        save(tmp_path / "data" / f"{number}.png", scene(number))
        rows.append((f"{number}.png", "ab"[number % 2], f"{number + 1:04d}", SPLITS[number // 2]))
    sheet(tmp_path / "data" / "labels.csv", rows)
    for number in range(6):
        save(tmp_path / "pool" / f"slice_{number + 1:04d}.png", scene(100 + number))
    assert len(listed(tmp_path / "data", tmp_path / "pool").unlabelled) == 6


def of_patient(patient: str) -> Callable[[int, Dataset], None]:
    def change(k: int, header: Dataset) -> None:
        header.PatientID = patient

    return change


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Six labelled DICOM series of six patients."""
    rows = [("image", "label", "split")]
    for number in range(6):
        make_series(tmp_path / "data" / f"s{number}", seed=number, change=of_patient(f"ID{number}"))
        rows.append((f"s{number}", "ab"[number % 2], SPLITS[number // 2]))
    sheet(tmp_path / "data" / "labels.csv", rows)
    return tmp_path / "data"


def test_no_series_of_a_patient_of_validation_or_test(series: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    for number, (name, patient) in enumerate({"a": "ID1", "b": "ID3", "c": "ID5", "d": "ID9", "e/f": " ID5"}.items()):
        make_series(pool / name, seed=50 + number, change=of_patient(patient))
    made = listed(series, pool)
    assert {Path(item["image"][0]).parent.name for item in made.unlabelled} == {"a", "d"}


def test_no_series_that_is_a_copy_under_another_patient(series: Path, tmp_path: Path) -> None:
    make_series(tmp_path / "pool" / "copy", seed=4, change=of_patient("ANONYMOUS"))
    make_series(tmp_path / "pool" / "other", seed=77, change=of_patient("ANONYMOUS2"))
    made = listed(series, tmp_path / "pool")
    assert {Path(item["image"][0]).parent.name for item in made.unlabelled} == {"other"}


def test_neither_labelled_images_nor_copies_among_themselves(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    shutil.copy(data / "00.png", pool / "x.png")
    save(pool / "one.png", scene(100))
    save(pool / "again.png", scene(100))
    save(pool / "copy of test.png", scene(9))
    (pool / "damaged.png").write_bytes((data / "01.png").read_bytes()[:200])
    with caplog.at_level(logging.INFO):
        made = listed(data, pool)
    assert names(made) in ({"one"}, {"again"})
    (told,) = [text for text in caplog.messages if text.startswith("unlabelled: ")]
    assert told.startswith("unlabelled: 1 of 5 images; left out: ")
    for reason in ("1 in the training list", "1 there twice", "1 equal to an image of validation or test"):
        assert reason in told
    assert "1 not readable (1 " in told
    assert str(pool) not in caplog.text


def test_nothing_left_is_an_error(data: Path, tmp_path: Path) -> None:
    save(tmp_path / "pool" / "copy.png", scene(9))
    with pytest.raises(DataListError, match="no unlabelled image of 1 is left; left out: 1 equal to"):
        listed(data, tmp_path / "pool")
    with pytest.raises(FileNotFoundError, match="is no folder and no list"):
        listed(data, tmp_path / "nothing")


# ------------------------------------------------------------------------------------------------- where they come from


def test_rows_without_a_label_when_asked_for(data: Path) -> None:
    with open(data / "labels.csv", "a", newline="") as file:
        for number, label in ((100, ""), (101, "nan"), (102, "")):
            save(data / f"{number}.png", scene(number))
            csv.writer(file).writerow(
                (f"{number}.png", label, f"PAT-{number}", "test" if number == 102 else "training")
            )
    with pytest.raises(DataListError, match="no label"):
        make_datalist(data)
    made = listed(data, data / "labels.csv")
    assert names(made) == {"100", "101"}
    assert len(made.training) == len(made.validation) == len(made.test) == 4


def test_a_sheet_of_its_own_needs_no_label(data: Path, tmp_path: Path) -> None:
    for number in (100, 101):
        save(data / f"{number}.png", scene(number))
    own = sheet(tmp_path / "more.csv", [("file", "patient"), ("100.png", "PAT-0004"), ("101.png", "PAT-0001")])
    assert names(listed(data, own)) == {"101"}  # the other patient is one of the test set
    sheet(own, [("file", "patient"), ("gone.png", "PAT-0001")])
    with pytest.raises(DataListError, match=r"the list of unlabelled images 'more\.csv' cannot be used") as caught:
        listed(data, own)
    assert "row 2: the image does not exist" in str(caught.value)
    sheet(own, [("label",), ("a",)])
    with pytest.raises(DataListError, match="needs one of the columns 'image', 'series'"):
        listed(data, own)


def test_a_folder_of_unlabelled_images_beside_those_of_the_classes(tmp_path: Path) -> None:
    for number in range(40):
        save(tmp_path / "data" / "ab"[number % 2] / f"{number}.png", scene(number))
    for number in range(100, 103):
        save(tmp_path / "data" / "unlabelled" / f"{number}.png", scene(number))
    made = make_datalist(tmp_path / "data", unlabelled=str(tmp_path / "data" / "unlabelled"))
    assert (made.class_names, len(made.unlabelled)) == (("a", "b"), 3)
    with pytest.raises(DataListError, match="class folder 3 of 3"):  # nobody said that it is no class
        make_datalist(tmp_path / "data")


def test_nested_and_mixed_content(data: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    save(pool / "deep" / "er" / "one.png", scene(100))
    make_series(pool / "dicom" / "x", seed=60)
    (pool / "notes.txt").write_text("no image")
    (pool / "dicom" / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\1" * 50)
    assert len(listed(data, pool).unlabelled) == 2
    assert len(listed(data, pool / "deep", pool / "dicom").unlabelled) == 2


def test_a_json_brings_them_and_is_written_with_them(data: Path, tmp_path: Path) -> None:
    for number in (100, 101):
        save(data / f"{number}.png", scene(number))
    own = sheet(tmp_path / "more.csv", [("file",), ("100.png",), ("101.png",)])
    made = listed(data, own)
    write_datalist(made, data, tmp_path / "list.json", b"k" * 32)
    content = json.loads((tmp_path / "list.json").read_text())
    assert content["unlabeled"] == [{"image": "100.png"}, {"image": "101.png"}]
    again = make_datalist(data, tmp_path / "list.json")
    assert names(again) == {"100", "101"}
    assert names(make_datalist(data, tmp_path / "list.json", unlabelled=tmp_path / "list.json")) == {"100", "101"}
    content["unlabeled"] += [{"label": "a"}, 7]
    (tmp_path / "list.json").write_text(json.dumps(content))
    with pytest.raises(DataListError, match="items 3-4: needs one of 'image', 'series', 'study', 'sha256'"):
        make_datalist(data, tmp_path / "list.json")


def test_in_a_multi_label_list_every_class_is_unknown(tmp_path: Path) -> None:
    rows = [("image", "label", "split")]
    for number in range(12):
        save(tmp_path / "data" / f"{number}.png", scene(number))
        rows.append((f"{number}.png", ("a", "b", "a|b", "")[number % 4], SPLITS[number // 4]))
    sheet(tmp_path / "data" / "labels.csv", rows)
    save(tmp_path / "pool" / "one.png", scene(100))
    (item,) = listed(tmp_path / "data", tmp_path / "pool").unlabelled
    assert item["label"] == [float(NO_LABEL)] * 2


def test_lists_know_their_unlabelled_items(data: Path, tmp_path: Path) -> None:
    for number in (100, 101):
        save(tmp_path / "pool" / f"{number}.png", scene(number))
    made = listed(data, tmp_path / "pool")
    assert str(made).endswith("; unlabelled 2")
    assert [item["index"] for item in made.numbered("unlabelled")] == [4, 5]
    before = json.loads(json.dumps(made.identity()))
    assert compare_identities(before, made.identity()) == ""
    shutil.move(tmp_path / "pool", tmp_path / "moved")
    assert compare_identities(before, listed(data, tmp_path / "moved").identity()) == ""
    save(tmp_path / "moved" / "102.png", scene(102))
    now = listed(data, tmp_path / "moved").identity()
    assert compare_identities(before, now) == "unlabelled: other items (3, were 2)"
    assert compare_identities(before, make_datalist(data).identity()) == "unlabelled: other items (0, were 2)"

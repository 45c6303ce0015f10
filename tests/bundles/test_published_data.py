"""Every bundle on a small copy of a published data set of its modality, laid out as its publisher does."""

from __future__ import annotations

import csv
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_rd.datasets.published.tables import CHEST_XRAY_14
from tests.bundles.commands import config
from tests.small import SMALL

SKIN = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
CHEST = ("NORMAL", "COVID19", "PNEUMONIA", "TURBERCULOSIS")
BRAIN = ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")


def picture(path: Path) -> None:
    """A picture of its own, coarse random spots: noise looks alike to a perceptual hash. In colour if it is a JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(zlib.crc32("/".join(path.parts[-3:]).encode()))
    spots = random.integers(40, 240, (5, 6, *((3,) if path.suffix == ".jpg" else ())))
    Image.fromarray(spots.astype(np.uint8)).resize((48, 40), Image.Resampling.BICUBIC).save(path)


def table(path: Path, rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def btc(root: Path) -> int:
    for split, count in (("Training", 10), ("Testing", 3)):
        for name in BRAIN:
            for number in range(count):
                picture(root / split / name / f"image({number + 1}).jpg")
    return 12


def busi(root: Path) -> int:
    for name in ("benign", "malignant", "normal"):
        for number in range(1, 11):
            for end in ("", "_mask"):
                picture(root / "Dataset_BUSI_with_GT" / name / f"{name} ({number}){end}.png")
    return 6


def chest_xray(root: Path) -> int:
    for split, count in (("train", 8), ("val", 2), ("test", 2)):
        for name in CHEST:
            for number in range(count):
                picture(root / split / name / f"{name}-{split}{number}.jpg")
    return 8


def chest_xray14(root: Path) -> int:
    names = CHEST_XRAY_14.class_names
    images = [f"{number:08d}_000.png" for number in range(200)]
    labels = [f"{names[n % 14]}|{names[(n + 5) % 14]}" if n % 4 else "No Finding" for n in range(200)]
    columns = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age")
    rows = zip(images, labels, [0] * 200, range(200), [50] * 200, strict=True)
    table(root / "Data_Entry_2017.csv", [columns, *rows])
    for image in images:
        picture(root / "images" / image)
    (root / "train_val_list.txt").write_text("\n".join(images[:168]))
    (root / "test_list.txt").write_text("\n".join(images[168:]))
    return 32


def isic2018(root: Path) -> int:
    for split, count in (("Training", 5), ("Test", 2)):
        rows = []
        for index, name in enumerate(SKIN):
            for number in range(count):
                image = f"ISIC_{index * 100 + number + 5000 * len(split):07d}"
                picture(root / f"ISIC2018_Task3_{split}_Input" / f"{image}.jpg")
                rows.append((image, *(float(name == other) for other in SKIN)))
        place = root / f"ISIC2018_Task3_{split}_GroundTruth"
        table(place / f"{place.name}.csv", [("image", *SKIN), *rows])
    return 14


@pytest.mark.parametrize(
    ("modality", "layout"),
    [
        pytest.param("mr", btc, marks=pytest.mark.slow),
        pytest.param("us", busi, marks=pytest.mark.slow),
        pytest.param("xray", chest_xray, marks=pytest.mark.slow),
        ("xray", chest_xray14),
        pytest.param("derm", isic2018, marks=pytest.mark.slow),
    ],
)
def test_a_published_layout_is_all_a_bundle_needs(
    modality: str, layout: Callable[[Path], int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    test = layout(tmp_path / "data")
    quick = {"max_epochs": 1, "image_size": 32, "batch_size": 8, "report_page": False, "student": SMALL}
    places = {"bundle_root": str(tmp_path), "output_dir": str(tmp_path / "eval"), "dataset_dir": str(tmp_path / "data")}
    parser = config(modality, "train.json", **places, **quick)
    with caplog.at_level(logging.WARNING):
        parser.get_parsed_content("train#trainer").run()
    parser.get_parsed_content("test#report").run()
    result = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert result["test"]["student"]["n"] == test
    assert result["phantom"] is False
    assert len(result["test"]["student"]["classes"]) == len(result["class_names"])
    assert "published" in caplog.text  # a small copy is used, and said to be one

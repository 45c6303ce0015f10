"""Lists of images that differ, to which a test adds what is wrong; and what an audit found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from monai_rd.datasets import DataList
from monai_rd.datasets.audit import AuditReport, Finding, audit
from monai_rd.datasets.splits import SPLITS

COPIES = ("EXACT_DUPLICATE", "NEAR_DUPLICATE", "LABEL_CONFLICT")


def drawn(seed: int, size: int = 96) -> Image.Image:
    """An image of its own: soft patches with fine structure."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    picture = np.zeros((size, size))
    for _ in range(30):
        cy, cx, width, height = (*random.uniform(0, 1, 2), random.uniform(0.02, 0.2), random.uniform(-1, 1))
        picture += height * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / width**2)
    picture = (picture - picture.min()) / np.ptp(picture) * 180 + 10
    return Image.fromarray(picture.astype(np.uint8))


def saved(image: Image.Image, path: Path, **options: int) -> dict:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return {"image": str(path), "id": "", "series": "", "patient": ""}


class Lists:
    """Lists of distinct images to which a test adds what is wrong."""

    def __init__(self, folder: Path, each: int = 4) -> None:
        self.folder, self.items = folder, {"training": [], "validation": [], "test": []}
        for place, split in enumerate(self.items):
            for number in range(2 * each):
                self.add(drawn(1000 * place + number), split, number % 2)

    def add(self, image: Image.Image, split: str, label: int, suffix: str = ".png", **options: int) -> dict:
        count = sum(map(len, self.items.values()))
        item = saved(image, self.folder / f"Anna_Secretname_{count}{suffix}", **options) | {"label": label}
        self.items[split].append(item)
        return item

    def audit(self) -> AuditReport:
        return audit(self.datalist())

    def datalist(self) -> DataList:
        return DataList(("clear", "covid"), **self.items)


def found(report: AuditReport, *kinds: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.kind in kinds]


def places(finding: Finding) -> set[tuple[str, int]]:
    return {(item.split, item.index) for item in finding.items}


def changed(image: Image.Image, how: str) -> tuple[Image.Image, str, dict]:
    width, height = image.size
    if how == "half size":
        return image.resize((width // 2, height // 2)), ".png", {}
    if how == "brighter":
        return image.point([min(255, v + 40) for v in range(256)]), ".png", {}
    if how == "mirrored":
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), ".png", {}
    if how == "cropped":
        return image.crop((4, 3, width - 3, height - 4)), ".png", {}
    return image, ".jpg", {"quality": 40}


def multi_label_lists(folder: Path, count: int = 48) -> DataList:
    """Images that differ, wide where they have the second class."""
    made: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for number in range(count):
        label = [float(number % 3 == 0), float(number // 3 % 2), float(number % 5 == 0)]
        size = (64, 96 if label[1] else 64)
        grey = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
        path = folder / f"{number}.png"
        Image.fromarray(grey).resize(size[::-1], Image.Resampling.BICUBIC).save(path)
        item = {"image": str(path), "id": "", "series": "", "patient": "", "label": label}
        made[SPLITS[(0, 0, 1, 2)[number % 4]]].append(item)
    return DataList(("a", "b", "c"), **made, multi_label=True)

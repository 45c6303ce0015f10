"""The paper's own numbers, as far as they are known here (arXiv 2407.06504, and what follows from it).

The full tables were not accessible. The numbers here were read in part, or follow by arithmetic, and each entry states
how certain its place in the table is. A number whose row or column is not known is never shown next to a measured one.
Nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_rd.datasets.published import recognise

__all__ = ["FACTS", "PUBLISHED", "TABLE_6", "Published", "facts_of", "paper_value", "published_name"]


@dataclass(frozen=True)
class Published:
    """An accuracy whose place in the paper's tables is known.

    Args:
        data: name of the data set, see `published_name`.
        row: name of the method in our tables.
        student: name of the student.
        percent: accuracy in percent, as printed.
        source: where it was read.
        teacher: name of the teacher; None for the student alone.
    """

    data: str
    row: str
    student: str
    percent: float
    source: str
    teacher: str | None = None


PUBLISHED = (
    Published("COVID-CT", "ce", "resnet18", 75.86, "Table 2, first row"),
    Published("BUSI", "ce", "resnet18", 77.92, "Table 3"),
    Published("ISIC2018", "ce", "resnet18", 70.50, "Table 3"),
    Published("BUSI", "drd", "resnet18", 88.31, "a reader's note on arXiv 2605.04447", "pmc_clip"),
)

# Notes on numbers whose row or column is not known, by table and data set.
FACTS: dict[tuple[str, str], str] = {
    ("table2", "COVID-CT"): "The paper's four accuracies are 75.86, 80.79, 82.27 and 85.71 % (154, 164, 167 and 174 of "
    "203 test images). 75.86 is the student alone (ResNet18); which switches of RD the other rows have is not known "
    "here. 85.71 occurs in no COVID-CT cell of Tables 3 and 4.",
    ("table3", "COVID-CT"): "The paper prints 82.27, 85.22 and 84.24 % for RD; which teacher and student each is of is "
    "not known here.",
    ("table4", "ISIC2018"): "The paper prints 79.76, 78.90 and 76.79 % for RD, and the same three for AdaptFormer, "
    "probably by mistake; which student each is of is not known here.",
    ("table4", "BUSI"): "The paper prints 80.20, 78.93 and 79.95 % for AdaptFormer, which are no multiples of 1/154 "
    "and equal its BTC column: probably a mistake.",
}
# Units of Table 6: 2^21 parameters, 2^28 multiply-accumulates. Read in the paper; all eight follow from the networks.
TABLE_6 = {
    "lvm_med_vit_b": (41.26, 65.34),
    "resnet18": (5.33, 6.77),
    "shufflenet_v2_x1_0": (0.60, 0.55),
    "mobilenet_v2": (1.06, 1.17),
}


def published_name(dataset: str) -> str | None:
    """Return the name of the published data set in a folder, None for any other data."""
    found, _ = recognise(Path(dataset), below=True)
    return found.name if found else None


def paper_value(data: str | None, row: str, teacher: str | None, student: str) -> Published | None:
    """Return the paper's accuracy in percent for a cell; None where it is not known."""
    for one in PUBLISHED:
        if (one.data, one.row, one.student) == (data, row, student) and one.teacher in (None, teacher):
            return one
    return None


def facts_of(table: str, data: str | None) -> Sequence[str]:
    """Return what else is known about the paper's table on this data set."""
    return [text for (one, name), text in FACTS.items() if (one, name) == (table, data)]

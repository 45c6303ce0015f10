"""The findings and the report of an audit; items are never named by a path or a patient."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from monai_rd.datasets.near_duplicates import Picture

__all__ = [
    "KINDS",
    "PAIR_KINDS",
    "AuditItem",
    "AuditReport",
    "Finding",
    "SuspiciousPair",
    "crosses",
    "worst_first",
]

# In the order of the report: what invalidates a result comes first.
KINDS = (
    *("LABEL_CONFLICT", "PATIENT_LEAK", "EXACT_DUPLICATE", "NEAR_DUPLICATE", "UNREADABLE", "CLASS_BALANCE"),
    *("SHORTCUT_RISK", "BURNED_IN_TEXT", "OUTLIER_INTENSITY", "OUTLIER_SIZE", "OUTLIER_SPACING"),
)
PAIR_KINDS = ("LABEL_CONFLICT", "EXACT_DUPLICATE", "NEAR_DUPLICATE")


@dataclass(frozen=True)
class AuditItem:
    """An item of the data list that a finding concerns, or one image of a study of several roles.

    Attributes:
        split: "training", "validation" or "test".
        index: position in the split's list, from 0.
        id: "sha256:" and 12 hex digits of the file's content, the SeriesInstanceUID of a DICOM series, or the
            StudyInstanceUID of a study of several roles; "" where none can be read.
        label: class name; in a multi-label list all class names separated by " | ", or "none".
        role: of the image in its study; "" for a study, and for an item without roles.

    Example:
        >>> from monai_rd.datasets.audit import AuditItem
        >>> item = AuditItem("test", index=3, id="sha256:0123456789ab", label="opacity")
        >>> print(item)
        test[3] sha256:0123456789ab
    """

    split: str
    index: int
    id: str
    label: str
    role: str = ""

    @property
    def place(self) -> tuple[str, int]:
        """The split, and the position in it."""
        return self.split, self.index

    def __str__(self) -> str:
        return " ".join(filter(None, (f"{self.split}[{self.index}]", self.role, self.id)))


@dataclass(frozen=True)
class Finding:
    """A problem that an audit found.

    Attributes:
        kind: one of `KINDS`.
        severity: "error" if it makes results wrong, "warning" if a person should have a look.
        message: one sentence.
        items: the items concerned; empty if it concerns the whole data set.
        similarity: of two copies: 1 for equal pixels, else the correlation of their fine structure.

    Example:
        >>> from monai_rd.datasets.audit import Finding
        >>> finding = Finding("CLASS_BALANCE", "warning", "the test set lacks a class")
        >>> finding.kind, finding.items
        ('CLASS_BALANCE', ())
    """

    kind: str
    severity: str
    message: str
    items: tuple[AuditItem, ...] = ()
    similarity: float | None = None


@dataclass(frozen=True, eq=False)
class SuspiciousPair:
    """A finding about two items, with their pictures for the contact sheet.

    Attributes:
        finding: the finding.
        pictures: both items in grey, uint8 `[rows, columns]`.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from monai_rd.datasets.audit import AuditItem, Finding, SuspiciousPair, write_contact_sheet
        >>> items = (AuditItem("training", 0, "sha256:01", "clear"), AuditItem("test", 4, "sha256:02", "clear"))
        >>> finding = Finding("NEAR_DUPLICATE", "error", "one image twice", items, similarity=0.98)
        >>> grey = np.full((64, 64), 128, dtype=np.uint8)
        >>> write_contact_sheet([SuspiciousPair(finding, (grey, grey))], "pairs.png")
        >>> Image.open("pairs.png").size
        (1228, 416)
    """

    finding: Finding
    pictures: tuple[Picture, Picture]


@dataclass(frozen=True, eq=False)
class AuditReport:
    """The result of an audit.

    Attributes:
        counts: number of items by split and class name.
        findings: all findings, the worst first.
        pairs: the worst pairs, with their pictures.

    Example:
        A training image is in the test set, too.

        >>> from PIL import Image
        >>> from monai_rd.datasets import DataList
        >>> from monai_rd.datasets.audit import audit
        >>> for n in range(3):
        ...     Image.effect_noise((64, 64), 60).save(f"{n}.png")
        >>> a, b, c = ({"image": f"{n}.png", "label": n % 2, "id": "", "patient": ""} for n in range(3))
        >>> report = audit(DataList(("clear", "opacity"), training=[a, b], validation=[c], test=[a]))
        >>> report.findings[0].kind, report.findings[0].severity, report.counts["training"]
        ('EXACT_DUPLICATE', 'error', {'clear': 1, 'opacity': 1})
    """

    counts: dict[str, dict[str, int]]
    findings: list[Finding]
    pairs: list[SuspiciousPair]

    def table(self, examples: int = 3) -> Table:
        """Return a table with a row for each kind and severity: the number of findings, and the first few of them."""
        table = Table(title=f"{len(self.findings)} findings", title_justify="left", show_lines=True)
        for name in ("kind", "severity", "findings", "the first"):
            table.add_column(name, justify="right" if name == "findings" else "left", no_wrap=name != "the first")
        groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
        for finding in self.findings:
            groups[finding.kind, finding.severity].append(finding)
        for (kind, severity), found in groups.items():
            lines = [" | ".join([f.message, *map(str, f.items[:2])]) for f in found[:examples]]
            table.add_row(kind, severity, str(len(found)), "\n".join(lines))
        return table

    def as_dict(self) -> dict[str, Any]:
        """Return everything except the pictures in a form that JSON can hold."""
        return {
            "counts": self.counts,
            "findings_by_kind": dict(Counter(finding.kind for finding in self.findings)),
            "findings": [asdict(finding) for finding in self.findings],
        }


def worst_first(finding: Finding) -> tuple[int, bool, float]:
    """Sorting key: by kind, then those across splits first, then the most similar first."""
    return KINDS.index(finding.kind), not crosses(finding.items), -(finding.similarity or 0)


def crosses(items: Sequence[AuditItem]) -> bool:
    """Whether the items are in more than one split."""
    return len({item.split for item in items}) > 1

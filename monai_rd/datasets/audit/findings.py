"""What an audit says: findings about items of a data list, which are never named by a path or a patient."""

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

# In the order of a report: what spoils a result first.
KINDS = (
    *("LABEL_CONFLICT", "PATIENT_LEAK", "EXACT_DUPLICATE", "NEAR_DUPLICATE", "UNREADABLE", "CLASS_BALANCE"),
    *("SHORTCUT_RISK", "BURNED_IN_TEXT", "OUTLIER_INTENSITY", "OUTLIER_SIZE", "OUTLIER_SPACING"),
)
PAIR_KINDS = ("LABEL_CONFLICT", "EXACT_DUPLICATE", "NEAR_DUPLICATE")


@dataclass(frozen=True)
class AuditItem:
    """An item of the data list that a finding means.

    Attributes:
        split: "training", "validation" or "test".
        index: place in the split's list.
        id: "sha256:" and 12 hex digits of a file's content, the SeriesInstanceUID of a DICOM series, "" where there is
            nothing to read either from.
        label: name of its class; in a multi-label list all its classes with " | " between, or "none".
    """

    split: str
    index: int
    id: str
    label: str

    def __str__(self) -> str:
        return f"{self.split}[{self.index}] {self.id}".rstrip()


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        kind: one of `KINDS`.
        severity: "error" for what makes a result wrong, "warning" for what a person should look at.
        message: one sentence.
        items: the items meant; none where the whole data set is.
        similarity: of two copies: 1 for equal pixels, else the correlation of their fine structure.
    """

    kind: str
    severity: str
    message: str
    items: tuple[AuditItem, ...] = ()
    similarity: float | None = None


@dataclass(frozen=True, eq=False)
class SuspiciousPair:
    """A finding about two items, and both as 8-bit grey pictures `[rows, columns]`, for the contact sheet."""

    finding: Finding
    pictures: tuple[Picture, Picture]


@dataclass(frozen=True, eq=False)
class AuditReport:
    """What `audit` found.

    Attributes:
        counts: for each split and class name, how many items.
        findings: the worst first.
        pairs: the worst pairs with their pictures.
    """

    counts: dict[str, dict[str, int]]
    findings: list[Finding]
    pairs: list[SuspiciousPair]

    def table(self, examples: int = 3) -> Table:
        """A row for each kind and severity: how many findings, and the first few."""
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
        """Everything but the pictures, ready for JSON."""
        return {
            "counts": self.counts,
            "findings_by_kind": dict(Counter(finding.kind for finding in self.findings)),
            "findings": [asdict(finding) for finding in self.findings],
        }


def worst_first(finding: Finding) -> tuple[int, bool, float]:
    """Sort findings by kind, those across splits first, the most alike first."""
    return KINDS.index(finding.kind), not crosses(finding.items), -(finding.similarity or 0)


def crosses(items: Sequence[AuditItem]) -> bool:
    """Whether the items stand in more than one split."""
    return len({item.split for item in items}) > 1

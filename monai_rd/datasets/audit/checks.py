"""The checks of an audit other than duplicates: patient leaks, classes, shortcuts, burned-in text, outliers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import chi2_contingency

from monai_rd.datasets.audit.examine import Examined, Measured
from monai_rd.datasets.audit.findings import AuditItem, Finding, crosses
from monai_rd.datasets.splits import SPLITS
from monai_rd.errors import NotAnImageError, StudyError

__all__ = ["burned_in_text", "class_balance", "multi_label_balance", "outliers", "patients", "shortcuts", "unreadable"]

# Robust z-score of an outlier. Far above the usual 3.5 (Iglewicz and Hoaglin): only images worth a person's look.
OUTLIER_Z = 8.0
# Cramer's V and p of a shortcut; 0.3 is a medium effect (Cohen). Values with fewer than `FEW` items are merged.
SHORTCUT_V, SHORTCUT_P, FEW = 0.3, 0.001, 10
# Largest accepted difference between a class's share of a split and its share of the whole data set.
BALANCE_SHARE, BALANCE_P = 0.1, 0.01


def patients(items: Sequence[AuditItem], keys: Sequence[str | None]) -> Iterator[Finding]:
    """Find patients that are in several splits, by their pseudonyms."""
    where: dict[str, list[AuditItem]] = defaultdict(list)
    for item, patient in zip(items, keys, strict=True):
        if patient:
            where[patient].append(item)
    for own in where.values():
        if crosses(own):
            splits = " and ".join(split for split in SPLITS if any(item.split == split for item in own))
            yield Finding("PATIENT_LEAK", "error", f"A patient with {len(own)} items stands in {splits}.", tuple(own))


def unreadable(
    items: Sequence[AuditItem], examined: Sequence[Examined], left_out: Sequence[StudyError]
) -> Iterator[Finding]:
    """Find items that could not be read, judged by header or on loading."""
    for problem in left_out:
        if isinstance(problem, NotAnImageError):  # every study contains some of these
            continue
        what = f"Series {problem.series_uid} is not in the lists" if problem.series_uid else str(problem)
        yield Finding("UNREADABLE", "error", f"{what}: {problem.code}.")
    for item, one in zip(items, examined, strict=True):
        if one.measured is None:
            yield Finding("UNREADABLE", "error", f"It cannot be read: {one.problem}.", (item,))


def class_balance(counts: dict[str, dict[str, int]]) -> Iterator[Finding]:
    """Find classes missing from a split, and splits whose class ratio differs from the whole data set."""
    for split, classes in counts.items():
        for name in (name for name, count in classes.items() if count == 0):
            yield Finding("CLASS_BALANCE", "error", f"Class '{name}' has no item in {split}.")
    if _differs([list(classes.values()) for classes in counts.values()]):
        each = "; ".join(f"{split} {'/'.join(map(str, classes.values()))}" for split, classes in counts.items())
        yield Finding("CLASS_BALANCE", "warning", f"The ratio of the classes differs between splits: {each}.")


def multi_label_balance(counts: dict[str, dict[str, int]], sizes: dict[str, int]) -> Iterator[Finding]:
    """Find, for each class of a multi-label list, splits where no item, all items or a different share have it."""
    for name in next(iter(counts.values())):
        with_it = {split: counts[split][name] for split in counts}
        for split, count in with_it.items():
            if count in (0, sizes[split]):
                how = "no" if count == 0 else "every"
                yield Finding("CLASS_BALANCE", "error", f"Class '{name}': {how} item of {split} has it.")
        if _differs([[count, sizes[split] - count] for split, count in with_it.items()]):
            each = "; ".join(f"{split} {count} of {sizes[split]}" for split, count in with_it.items())
            yield Finding("CLASS_BALANCE", "warning", f"The share of class '{name}' differs between splits: {each}.")


def _differs(rows: Sequence[Sequence[int]]) -> bool:
    """Whether the column shares differ between the rows, by a large amount and not by chance."""
    table = np.array(rows)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    if min(table.shape) < 2:
        return False
    shares, overall = table / table.sum(1, keepdims=True), table.sum(0) / table.sum()
    return bool(np.abs(shares - overall).max() > BALANCE_SHARE and chi2_contingency(table).pvalue < BALANCE_P)


def shortcuts(targets: Mapping[str, Sequence[str]], studies: Sequence[Mapping[str, Examined]]) -> Iterator[Finding]:
    """Find properties from which a network could predict the label without looking at the patient.

    Args:
        targets: what could be predicted, by name: one value per study.
        studies: the measurements of the images of the same studies, by role; the role of an item without roles is "".
    """
    traits: dict[str, list[Hashable]] = {}
    for role in dict.fromkeys(role for one in studies for role in one):
        images = [one.get(role) for one in studies]
        plain = [one.measured if one is not None and one.scanner is None else None for one in images]
        of_role = f" of {role}" if role else ""
        traits |= {
            f"scanner (Manufacturer, ManufacturerModelName){of_role}": [one and one.scanner for one in images],
            f"size of the images{of_role}": [one and one.size for one in plain],
            f"number of channels{of_role}": [one and one.channels for one in plain],
        }
    traits["choice of the roles that a study has"] = [tuple(sorted(one)) for one in studies]
    for name, values in traits.items():
        for target, labels in targets.items():
            v, p, kinds = _association(values, labels)
            if v >= SHORTCUT_V and p < SHORTCUT_P:
                message = f"The {name} tells {target}: Cramer's V {v:.2f}, p {p:.1g}, {kinds} kinds."
                yield Finding("SHORTCUT_RISK", "warning", message)


def _association(values: Sequence[Hashable | None], labels: Sequence[str]) -> tuple[float, float, int]:
    """Cramer's V with bias correction (Bergsma 2013), p of the chi-squared test, and the number of distinct values.

    None values are ignored; rare values are merged into one.
    """
    often = Counter(values)
    seen = [
        (value if often[value] >= FEW else "rare", label)
        for value, label in zip(values, labels, strict=True)
        if value is not None
    ]
    cells: Counter[tuple[Hashable, Hashable]] = Counter(seen)
    rows, columns = (list(dict.fromkeys(pair[n] for pair in seen)) for n in (0, 1))
    if min(len(rows), len(columns)) < 2:
        return 0.0, 1.0, len(rows)
    table = np.array([[cells[row, column] for column in columns] for row in rows])
    chi2, p = chi2_contingency(table, correction=False)[:2]
    n, (r, k) = len(seen), table.shape
    phi2 = max(0.0, chi2 / n - (k - 1) * (r - 1) / (n - 1))
    fewer = min(r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)) - 1
    return float(np.sqrt(phi2 / fewer)) if fewer > 0 else 0.0, float(p), len(rows)


def burned_in_text(read: Iterable[tuple[AuditItem, Measured]]) -> Iterator[Finding]:
    """Find images that seem to contain text, or whose DICOM header says so."""
    for item, measured in read:
        if measured.text:
            yield Finding("BURNED_IN_TEXT", "warning", "There seems to be text in the pixels.", (item,))


def outliers(read: Sequence[tuple[AuditItem, Measured]]) -> Iterator[Finding]:
    """Find images far from the others of their role in intensity, size or pixel spacing."""
    for role in dict.fromkeys(item.role for item, _ in read):
        yield from _outliers_of_role([(item, one) for item, one in read if item.role == role])


def _outliers_of_role(read: Sequence[tuple[AuditItem, Measured]]) -> Iterator[Finding]:
    items = [item for item, _ in read]
    known = [(item, one.intensity) for item, one in read if one.intensity is not None]
    what = "Mean or spread of its values"
    yield from _far_ones("OUTLIER_INTENSITY", what, [item for item, _ in known], [values for _, values in known])
    for kind, what, values in (
        ("OUTLIER_SIZE", "Its size in pixels", [one.size for _, one in read]),
        ("OUTLIER_SPACING", "Its pixel spacing", [one.spacing for _, one in read]),
    ):
        # Compared as ratios, separately for images and volumes.
        for axes in (2, 3):
            own = [(item, np.log(v)) for item, v in zip(items, values, strict=True) if v is not None and len(v) == axes]
            yield from _far_ones(kind, what, [item for item, _ in own], [v for _, v in own])


def _far_ones(kind: str, what: str, items: Sequence[AuditItem], values: Sequence[Any]) -> Iterator[Finding]:
    if not items:
        return
    table = np.array(values, dtype=np.float64)
    far = np.abs(table - np.median(table, axis=0))
    # Where half of the items agree, the median deviation is 0, and the mean deviation is used instead.
    scale = np.maximum(1.4826 * np.median(far, axis=0), 0)
    scale = np.where(scale > 0, scale, 1.2533 * far.mean(axis=0))
    z = np.where(far > 0, far / np.where(scale > 0, scale, 1), 0).max(axis=1)
    for item, score in zip(items, z, strict=True):
        if score > OUTLIER_Z:
            yield Finding(kind, "warning", f"{what} lies far from the others' (robust z {score:.0f}).", (item,))

"""Running the audit of a data list, and removing what it found from the list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from joblib import Parallel, delayed
from tqdm import tqdm

from monai_rd.datasets.audit import checks
from monai_rd.datasets.audit.copies import exact_copies, near_copies
from monai_rd.datasets.audit.examine import Examined, Loader, default_loader, examine, sheet_picture
from monai_rd.datasets.audit.findings import PAIR_KINDS, AuditItem, AuditReport, Finding, SuspiciousPair, worst_first
from monai_rd.datasets.datalist import DataList
from monai_rd.datasets.splits import SPLITS
from monai_rd.datasets.studies import Item, images_of_item
from monai_rd.errors import StudyError

__all__ = ["audit", "fix"]

SHEET_PAIRS = 30


def audit(
    datalist: DataList,
    loader: Loader | None = None,
    workers: int = 1,
    left_out: Sequence[StudyError] = (),
) -> AuditReport:
    """Find everything that makes a data set unfit to train on or to report on.

    Args:
        datalist: training, validation and test lists; the "patient" of an item is compared but never shown.
        loader: loads the image of an item, `[C, X, Y]` or `[1, X, Y, Z]`; by default `LoadImageOrSeriesd`.
        workers: number of processes that read images; more than 1 only helps large data sets, as each process imports
            torch and MONAI.
        left_out: why files and DICOM series are not in the lists; reported as unreadable.
    """
    load = loader or default_loader()
    entries = [(split, index, item) for split in SPLITS for index, item in enumerate(datalist[split])]
    images = [(split, index, role, one) for split, index, item in entries for role, one in _images(item)]
    examined = _in_parallel(partial(examine, load), [one for *_, one in images], workers, "reading")
    items = [
        AuditItem(split, index, one.id, _label(datalist, image), role)
        for (split, index, role, image), one in zip(images, examined, strict=True)
    ]
    studies: dict[AuditItem, dict[str, Examined]] = {}  # an item without roles is a study of one image
    first: dict[tuple[str, int], AuditItem] = {}
    for item, one in zip(items, examined, strict=True):
        studies.setdefault(first.setdefault(item.place, replace(item, role="")), {})[item.role] = one
    whole = list(studies)
    names = datalist.class_names
    counts = {split: dict(zip(names, datalist.class_counts(split), strict=True)) for split in SPLITS}
    if datalist.multi_label:
        sizes = {split: len(datalist[split]) for split in SPLITS}
        has = [datalist.classes(item) for _, _, item in entries]
        targets = {f"class '{name}'": [str(n in own) for own in has] for n, name in enumerate(names)}
        balance = checks.multi_label_balance(counts, sizes)
    else:
        targets = {"the label": [item.label for item in whole]}
        balance = checks.class_balance(counts)
    read = [(item, one.measured) for item, one in zip(items, examined, strict=True) if one.measured is not None]
    copies = [*exact_copies(read), *near_copies(read)]
    findings = [
        *copies,
        *checks.patients(whole, [item.get("patient") for _, _, item in entries]),
        *checks.unreadable(items, examined, left_out),
        *balance,
        *checks.shortcuts(targets, list(studies.values())),
        *checks.burned_in_text(read),
        *checks.outliers(read),
    ]
    shown = sorted(copies, key=worst_first)[:SHEET_PAIRS]
    of_item = {item: image for item, (*_, image) in zip(items, images, strict=True)}
    chosen = [of_item[item] for finding in shown for item in finding.items[:2]]
    pictures = _in_parallel(partial(sheet_picture, load), chosen, workers, "contact sheet")
    both = zip(pictures[::2], pictures[1::2], strict=True)
    pairs = [SuspiciousPair(finding, pair) for finding, pair in zip(shown, both, strict=True)]
    return AuditReport(counts, sorted(findings, key=worst_first), pairs)


def _images(item: Item) -> list[tuple[str, Item]]:
    """Return the role and the item of each image; "" for an item without roles."""
    roles = list(item["image"]) if isinstance(item["image"], Mapping) else [""]
    return list(zip(roles, images_of_item(item), strict=True))


def _label(datalist: DataList, item: Item) -> str:
    """Return the class name of an item, or all its class names."""
    return " | ".join(datalist.class_names[index] for index in datalist.classes(item)) or "none"


def _in_parallel(work: Callable[[Item], Any], items: Sequence[Item], workers: int, title: str) -> list[Any]:
    results = Parallel(n_jobs=workers, return_as="generator")(delayed(work)(item) for item in items)
    return list(tqdm(results, total=len(items), desc=title, disable=None))


def fix(datalist: DataList, report: AuditReport) -> tuple[DataList, list[dict[str, Any]]]:
    """Remove the items that `audit` found to be wrong, and list them with their reasons.

    - Items that cannot be read are removed.
    - A patient in several splits is kept in the last of training, validation and test.
    - Equal images with different labels are removed, all copies; near duplicates with different labels are removed if
      they are in one split.
    - Of copies in several splits those in the last split are kept; of copies in one split the first is kept.

    From the test set only unreadable and self-contradicting items are removed. Text, outliers, shortcuts and class
    balance are left for a person to judge.

    Args:
        datalist: the lists that were audited; not changed.
        report: the result of `audit`.

    Returns:
        The list without those items, and for each of them its split, index, ID, label, and the kind and message of the
        finding.
    """
    gone: dict[tuple[str, int], dict[str, Any]] = {}
    for kind in ("UNREADABLE", "PATIENT_LEAK", *PAIR_KINDS):
        for finding in (finding for finding in report.findings if finding.kind == kind):
            left = list({item.place: item for item in finding.items if item.place not in gone}.values())
            for item in _leaving(finding, left):
                why = {"kind": kind, "message": finding.message}
                gone[item.place] = asdict(item) | why
    kept = {
        split: [item for index, item in enumerate(datalist[split]) if (split, index) not in gone] for split in SPLITS
    }
    training, validation, test = (kept[split] for split in SPLITS)
    cleaned = replace(datalist, training=training, validation=validation, test=test, groups=[])
    return cleaned, list(gone.values())


def _leaving(finding: Finding, left: list[AuditItem]) -> list[AuditItem]:
    """Return the remaining items that must be removed because of a finding."""
    if finding.kind == "UNREADABLE":
        return left
    if len(left) < 2:
        return []
    last = max((item.split for item in left), key=SPLITS.index)
    staying = [item for item in left if item.split == last]
    earlier = [item for item in left if item.split != last]
    if finding.kind == "PATIENT_LEAK":
        return earlier
    contradicting = len({item.label for item in staying}) > 1
    exact_conflict = finding.similarity == 1 and len({item.label for item in left}) > 1
    if contradicting or (exact_conflict and last != "test"):
        return left
    return earlier if last == "test" else earlier + staying[1:]

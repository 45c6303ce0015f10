"""The audit's checks for exact and near duplicates, see `monai_rd.datasets.near_duplicates`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from monai_rd.datasets.audit.examine import Measured
from monai_rd.datasets.audit.findings import AuditItem, Finding, crosses
from monai_rd.datasets.near_duplicates import IMAGES, VOLUMES, near_pairs

__all__ = ["exact_copies", "near_copies"]


def _copies(items: tuple[AuditItem, ...], how: str, similarity: float) -> Finding:
    across = crosses(items)
    one = len({item.place for item in items}) == 1
    where = "in two splits" if across else "in one study" if one else "in one split"
    if len({item.label for item in items}) > 1:
        return Finding("LABEL_CONFLICT", "error", f"{how} {where} have different labels.", items, similarity)
    kind = "EXACT_DUPLICATE" if similarity == 1 else "NEAR_DUPLICATE"
    return Finding(kind, "error" if across else "warning", f"{how} {where}.", items, similarity)


def exact_copies(read: Sequence[tuple[AuditItem, Measured]]) -> Iterator[Finding]:
    """Find images with equal pixels, whatever their file formats."""
    groups: dict[str, list[AuditItem]] = defaultdict(list)
    for item, measured in read:
        groups[measured.fingerprint.digest].append(item)
    for items in groups.values():
        if len(items) > 1:
            # The pair shown on the contact sheet has contradicting labels, if any do.
            other = next((item for item in items if item.label != items[0].label), items[-1])
            rest = [item for item in items[1:] if item is not other]
            yield _copies((items[0], other, *rest), f"{len(items)} images of equal pixels", 1.0)


def near_copies(read: Sequence[tuple[AuditItem, Measured]]) -> Iterator[Finding]:
    """Find pairs of nearly equal images: recompressed, scaled, brightened, slightly cropped, mirrored."""
    for alike, axes in ((IMAGES, 2), (VOLUMES, 3)):
        own = [(item, measured) for item, measured in read if len(measured.size) == axes]
        for i, j, similarity, mirrored in near_pairs([measured.fingerprint for _, measured in own], alike):
            if own[i][0].place == own[j][0].place:  # images of one study may be alike
                continue
            how = f"Two images alike ({'mirrored, ' if mirrored else ''}correlation {similarity:.3f})"
            yield _copies((own[i][0], own[j][0]), how, min(similarity, 0.9999))

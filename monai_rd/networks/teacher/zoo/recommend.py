"""Which teachers suit a kind of images, and why: an order that follows from what the entries state."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from monai_rd.nearest import did_you_mean
from monai_rd.networks.teacher.zoo.entries import TEACHERS
from monai_rd.networks.teacher.zoo.entry import TeacherEntry
from monai_rd.networks.teacher.zoo.loading import is_shipped

__all__ = ["MODALITIES", "Recommendation", "recommend"]

# How an entry's `modality` names each; the five of the bundles come first.
MODALITIES = {
    "ct": ("CT",),
    "mr": ("MR",),
    "xray": ("X-ray",),
    "us": ("ultrasound",),
    "derm": ("dermoscopy", "skin"),
    "fundus": ("fundus", "eye"),
    "pathology": ("pathology",),
}
# Training data that contain every modality, or none.
_ANY = ("many modalities", "figures of papers")
_NONE = ("photographs",)


@dataclass(frozen=True)
class Recommendation:
    """A teacher and the reasons for its place, each with a rank (0 is best) and in words.

    Args:
        entry: the teacher's entry.
        fit: of its training data. Rank 0: it was trained on the modality; 1: on medical images in general; 2: on
            photographs; 3: on phantoms of the modality, which only serve to try a bundle.

    Example:
        >>> from monai_rd.networks.teacher.zoo.recommend import recommend
        >>> first, second = recommend("fundus")[:2]
        >>> first.entry.name, first.fit, first.commercial_use, first.file
        ('medsiglip_448', (0, 'X-ray, CT, MR, skin, eye, pathology'), (1, 'unverified (HAI-DEF)'), (1, 'gated'))
        >>> second.entry.name, second.commercial_use
        ('retfound', (2, 'forbidden (CC BY-NC 4.0)'))
    """

    entry: TeacherEntry
    fit: tuple[int, str]

    @cached_property
    def commercial_use(self) -> tuple[int, str]:
        """What the licence says of commercial use. Rank 0: it allows it; 1: unverified or unknown; 2: it forbids it."""
        use, licence = self.entry.commercial_use, self.entry.licence
        rank = {"allowed": 0, "unverified": 1, "unknown": 1, "forbidden": 2}[use]
        return rank, use if use == "unknown" else f"{use} ({licence})"

    @cached_property
    def file(self) -> tuple[int, str]:
        """How to get the weights. Rank 0: without effort; 1: after the owner's consent; 2: by hand."""
        if is_shipped(self.entry.name):
            return 0, "shipped"
        if self.entry.hub is None:
            return 2, "by hand"
        return (1, "gated") if self.entry.gated else (0, "download")

    @property
    def order(self) -> tuple[float, ...]:
        """What recommendations are sorted by: training data, licence, file, cost."""
        return self.fit[0], self.commercial_use[0], self.file[0], self.entry.gmacs


def recommend(modality: str) -> list[Recommendation]:
    """Return the teachers for a modality, the best first; those trained on other modalities alone are left out.

    Args:
        modality: one of `MODALITIES`.

    Raises:
        ValueError: an unknown modality.
    """
    if modality not in MODALITIES:
        raise ValueError(
            f"there are no teachers for '{modality}'; known: {', '.join(MODALITIES)}"
            f"{did_you_mean(modality, MODALITIES)}"
        )
    fits = ((entry, _fit(entry.modality, MODALITIES[modality])) for entry in TEACHERS.values())
    return sorted((Recommendation(entry, fit) for entry, fit in fits if fit), key=lambda one: one.order)


def _fit(trained_on: str, terms: tuple[str, ...]) -> tuple[int, str] | None:
    """`Recommendation.fit` for an entry's training data; None for other modalities alone."""
    if any(re.search(rf"\b{term}\b", trained_on) for term in terms):
        return (3, f"{trained_on}, to try a bundle") if "phantoms" in trained_on else (0, trained_on)
    if trained_on in _ANY:
        return 1, trained_on
    return (2, f"{trained_on}, a baseline") if trained_on in _NONE else None

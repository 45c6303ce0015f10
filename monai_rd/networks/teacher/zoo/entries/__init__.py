"""The entries of the teacher zoo, one group per file."""

from __future__ import annotations

from monai_rd.networks.teacher.zoo.entries import dino, flexict, images, inflated, paper, phantoms, volumes

__all__ = ["TEACHERS"]

_GROUPS = (phantoms, paper, images, dino, volumes, inflated, flexict)
TEACHERS = {entry.name: entry for group in _GROUPS for entry in group.ENTRIES}

"""The entries of the teacher zoo, one group per file."""

from __future__ import annotations

from monai_rd.networks.teacher.zoo.entries import dino, images, paper, phantoms, volumes

__all__ = ["TEACHERS"]

TEACHERS = {entry.name: entry for group in (phantoms, paper, images, dino, volumes) for entry in group.ENTRIES}

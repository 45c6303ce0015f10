"""The teacher's image of an item, if it differs from the student's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["TEACHER_IMAGE", "teacher_image"]

# Key of an item or a batch that holds the same view at the teacher's image size.
TEACHER_IMAGE = "teacher_image"


def teacher_image(item: Mapping[str, Any]) -> Tensor:
    """Return the teacher's image of an item or a batch: its `TEACHER_IMAGE` if present, else the student's `image`."""
    image: Tensor = item[TEACHER_IMAGE] if TEACHER_IMAGE in item else item["image"]
    return image.as_subclass(Tensor)

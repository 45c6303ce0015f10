"""The image that the teacher sees, where it is another one than the student's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["TEACHER_IMAGE", "teacher_image"]

# The key of an item, or of a batch, under which the same view stands at the teacher's own size.
TEACHER_IMAGE = "teacher_image"


def teacher_image(item: Mapping[str, Any]) -> Tensor:
    """What the teacher sees of an item or of a batch: its own image, or the student's where there is no other."""
    image: Tensor = item[TEACHER_IMAGE] if TEACHER_IMAGE in item else item["image"]
    return image.as_subclass(Tensor)

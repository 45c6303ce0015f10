"""Image sizes of student and teacher, and resizing of one view to both."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from monai.config import KeysCollection
from monai.transforms import Compose, MapTransform, Resized

from monai_rd.teacher_image import TEACHER_IMAGE

__all__ = ["ResizeForBothd", "Sizes", "chain"]


@dataclass(frozen=True)
class Sizes:
    """Image sizes of student and teacher, in pixels; images are square.

    Args:
        image_size: rows and columns of the student's image.
        teacher_size: rows and columns of the teacher's image; None: those of the student.
        slices: number of slices of a volume.
        spatial_dims: 2 for stacks of slices `[S, H, W]`, 3 for volumes `[1, D, H, W]`.

    Example:
        >>> from monai_rd.transforms import Sizes
        >>> sizes = Sizes(image_size=64, teacher_size=96, slices=32, spatial_dims=3)
        >>> sizes.student, sizes.view
        ([32, 64, 64], [32, 96, 96])
    """

    image_size: int
    teacher_size: int | None = None
    slices: int = 1
    spatial_dims: int = 2

    @property
    def student(self) -> list[int]:
        """Spatial size of the student's image: `[H, W]`, or `[D, H, W]` of a volume."""
        return self._of(self.image_size)

    @property
    def teacher(self) -> list[int] | None:
        """Spatial size of the teacher's image; None where the teacher sees the student's image."""
        return None if self.teacher_size is None else self._of(self.teacher_size)

    @property
    def view(self) -> list[int]:
        """Spatial size of the augmented view that is resized for both: the larger of the two."""
        return self._of(max(self.image_size, self.teacher_size or 0))

    @property
    def item(self) -> list[int]:
        """Shape of the student's image: `[1, 3, H, W]`, a bag of one slice, or `[1, D, H, W]`, a volume."""
        return [1, 3, *self.student] if self.spatial_dims == 2 else [1, *self.student]

    @property
    def mode(self) -> str:
        """Name of the linear interpolation for MONAI's `Resized`."""
        return "bilinear" if self.spatial_dims == 2 else "trilinear"

    def _of(self, size: int) -> list[int]:
        return [size, size] if self.spatial_dims == 2 else [self.slices, size, size]


class ResizeForBothd(MapTransform):
    """Resize the image to the student's size, and a copy of it, `teacher_image`, to the teacher's size if that differs.

    Uses MONAI's `Resized` with anti-aliasing.

    Args:
        keys: key of the image (one).
        sizes: image sizes of student and teacher.

    Example:
        >>> import torch
        >>> from monai_rd.transforms import ResizeForBothd, Sizes
        >>> item = ResizeForBothd("image", Sizes(64, teacher_size=96))({"image": torch.rand(4, 128, 128)})
        >>> item["image"].shape, item["teacher_image"].shape
        (torch.Size([4, 64, 64]), torch.Size([4, 96, 96]))
    """

    def __init__(self, keys: KeysCollection, sizes: Sizes) -> None:
        super().__init__(keys)
        (self._key,) = self.keys
        self._size = sizes.student
        self._student = Resized(keys, spatial_size=sizes.student, mode=sizes.mode, anti_aliasing=True)
        self._teacher: Resized | None = None
        if sizes.teacher is not None:
            self._teacher = Resized(TEACHER_IMAGE, spatial_size=sizes.teacher, mode=sizes.mode, anti_aliasing=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resize the image of the item."""
        item, image = dict(data), data[self._key]
        if self._teacher is not None:
            item = self._teacher({**item, TEACHER_IMAGE: image.clone()})
        elif list(image.shape[1:]) == self._size:  # a cached view already has its size; resizing would cost time
            return item
        return dict(self._student(item))


def chain(transforms: Iterable[Any]) -> Compose:
    """Return MONAI's `Compose` of transforms and (flattened) lists of transforms, for configs that share such lists."""
    parts = [part if isinstance(part, (list, tuple)) else [part] for part in transforms]
    return Compose([transform for part in parts for transform in part])

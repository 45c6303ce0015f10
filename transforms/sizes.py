"""The sizes at which student and teacher see the same view of an item."""

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
    """Rows and columns of what a student and its teacher see, and of volumes the slices.

    Args:
        image_size: of the student, in pixels.
        teacher_size: of the teacher; None: that of the student.
        slices: of a volume.
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
        """`[H, W]`, or `[D, H, W]` of a volume."""
        return self._of(self.image_size)

    @property
    def teacher(self) -> list[int] | None:
        """Likewise; None where the teacher sees the student's image."""
        return None if self.teacher_size is None else self._of(self.teacher_size)

    @property
    def view(self) -> list[int]:
        """That of the random view of which both get theirs: the larger of the two."""
        return self._of(max(self.image_size, self.teacher_size or 0))

    @property
    def item(self) -> list[int]:
        """Shape of the student's image: `[1, 3, H, W]`, a bag of one slice, or `[1, D, H, W]`, a volume."""
        return [1, 3, *self.student] if self.spatial_dims == 2 else [1, *self.student]

    @property
    def mode(self) -> str:
        """The linear interpolation of MONAI's `Resized`."""
        return "bilinear" if self.spatial_dims == 2 else "trilinear"

    def _of(self, size: int) -> list[int]:
        return [size, size] if self.spatial_dims == 2 else [self.slices, size, size]


class ResizeForBothd(MapTransform):
    """Resize the image to the student's size, and a copy of it, `teacher_image`, to the teacher's where it has its own.

    By MONAI's `Resized`, which smooths what it makes smaller.

    Args:
        keys: key of the image.
        sizes: of the two.

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
        elif list(image.shape[1:]) == self._size:  # a view, which needs no second transform in every epoch
            return item
        return dict(self._student(item))


def chain(transforms: Iterable[Any]) -> Compose:
    """MONAI's `Compose` of transforms and lists of transforms, one after the other, for configs that share some."""
    parts = [part if isinstance(part, (list, tuple)) else [part] for part in transforms]
    return Compose([transform for part in parts for transform in part])

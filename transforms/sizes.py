"""The input of student and teacher: sizes of images in pixels, fields and spacings of volumes in mm; and resizing."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monai.config import KeysCollection
from monai.transforms import Compose, MapTransform, Transform

from monai_rd.teacher_image import TEACHER_IMAGE
from monai_rd.transforms.resampling import ResizeVolumed
from monai_rd.transforms.resizing import ResizeImaged

__all__ = ["ResizeForBothd", "Sizes", "chain", "resize"]


@dataclass(frozen=True)
class Sizes:
    """The size of the input of student and teacher.

    2D: images are square, of a size in pixels. 3D: both networks see the same field in mm, each at its own spacing.

    Args:
        image_size: 2D: rows and columns of the student's image, in pixels.
        teacher_size: 2D: rows and columns of the teacher's image; None: those of the student.
        slices: 2D: number of slices of a volume; None: 1.
        spatial_dims: 2 for stacks of slices, 3 for volumes.
        spacing: 3D: of the student's voxels in mm along x (columns), y (rows) and z (slices). If the field is no whole
            number of voxels, it is changed so that it is.
        field: 3D: of the volume that both see, in mm along x, y and z.
        teacher_spacing: 3D: of the teacher's voxels; None: those of the student.
        view_spacing: 3D, in inference: `view_mm` of the training, so that a student is given what it was trained on.

    Raises:
        ValueError: sizes of the other kind, none of this kind, or numbers not above 0.

    Example:
        >>> from monai_rd.transforms import Sizes
        >>> sizes = Sizes(spatial_dims=3, spacing=(3, 3, 4), field=(288, 288, 320), teacher_spacing=(1.5, 1.5, 3))
        >>> sizes.student, sizes.teacher, sizes.view  # voxels along z, y, x
        ([80, 96, 96], [107, 192, 192], [107, 192, 192])
    """

    image_size: int | None = None
    teacher_size: int | None = None
    slices: int | None = None
    spatial_dims: int = 2
    spacing: Sequence[float] | None = None
    field: Sequence[float] | None = None
    teacher_spacing: Sequence[float] | None = None
    view_spacing: Sequence[float] | None = None

    def __post_init__(self) -> None:
        volumes = self.spatial_dims == 3
        pixels = {"image_size": self.image_size, "slices": self.slices, "teacher_size": self.teacher_size}
        lengths = {"spacing": self.spacing, "field": self.field, "teacher_spacing": self.teacher_spacing}
        lengths |= {"view_spacing": self.view_spacing}
        if volumes and (self.spacing is None or self.field is None):
            raise ValueError(
                "a 3D student needs volumes with a --spacing and a --field in mm: take the bundle rd_ct or rd_mr, or a "
                "2D student"
            )
        other = [f"--{name}" for name, value in (pixels if volumes else lengths).items() if value is not None]
        if other:
            told = "volumes have a --spacing and a --field in mm" if volumes else "it is for 3D students"
            raise ValueError(f"{', '.join(other)}: leave it out for a {self.spatial_dims}D student: {told}")
        if not volumes and self.image_size is None:
            raise ValueError("a 2D student needs an --image_size")
        for name, value in lengths.items():
            if value is not None and (len(value) != 3 or min(value) <= 0):
                raise ValueError(f"--{name}: three lengths in mm above 0 (x, y, z) are needed, got {value}")

    @property
    def student(self) -> list[int]:
        """Spatial size of the student's image: `[H, W]`, or `[D, H, W]` of a volume."""
        return self._voxels(self.spacing) if self.spatial_dims == 3 else self._pixels(self.image_size)

    @property
    def teacher(self) -> list[int] | None:
        """Spatial size of the teacher's image; None where the teacher sees the student's image."""
        if self.spatial_dims == 3:
            return None if self.teacher_spacing is None else self._voxels(self.teacher_spacing)
        return None if self.teacher_size is None else self._pixels(self.teacher_size)

    @property
    def view(self) -> list[int]:
        """Spatial size of the augmented view that is resized for both: the larger of the two along each axis."""
        if self.view_spacing is not None:
            return self._voxels(self.view_spacing)
        return [max(pair) for pair in zip(self.student, self.teacher or self.student, strict=True)]

    @property
    def view_mm(self) -> list[float] | None:
        """Spacing of the view along x, y and z, in mm; None for images."""
        if self.field is None:
            return None
        return [mm / count for mm, count in zip(self.field, reversed(self.view), strict=True)]

    @property
    def item(self) -> list[int]:
        """Shape of the student's image: `[1, 3, H, W]`, a bag of one slice, or `[1, D, H, W]`, one window."""
        return [1, 3, *self.student] if self.spatial_dims == 2 else [1, *self.student]

    @property
    def teacher_item(self) -> list[int] | None:
        """Shape of the teacher's image, as `item`; None where the teacher sees the student's image."""
        return None if self.teacher is None else [*self.item[: -len(self.teacher)], *self.teacher]

    @property
    def bag(self) -> list[int]:
        """Shape of the student's image of a whole study: `[slices, 3, H, W]`, or `[1, D, H, W]`."""
        return [self.slices or 1, *self.item[1:]] if self.spatial_dims == 2 else self.item

    def _pixels(self, size: int | None) -> list[int]:
        assert size is not None, "checked when it was made"
        return [size, size]

    def _voxels(self, spacing: Sequence[float] | None) -> list[int]:
        assert spacing is not None
        assert self.field is not None, "checked when it was made"
        return [max(round(mm / own), 1) for mm, own in zip(reversed(self.field), reversed(spacing), strict=True)]


def resize(keys: KeysCollection, size: Sequence[int]) -> Transform:
    """Return the transform that resizes images `[C, H, W]` or volumes `[W, D, H, W']` to a size, antialiased.

    Args:
        keys: keys of the item to transform.
        size: `[H, W]` (`ResizeImaged`), or `[D, H, W']` (`ResizeVolumed`).
    """
    if len(size) == 3:
        return ResizeVolumed(keys, list(size))
    return ResizeImaged(keys, size)


class ResizeForBothd(MapTransform):
    """Resize the image to the student's size, and a copy of it, `teacher_image`, to the teacher's size if that differs.

    See `resize`.

    Args:
        keys: key of the image (one).
        sizes: sizes of student and teacher.

    Example:
        >>> import torch
        >>> from monai_rd.transforms import ResizeForBothd, Sizes
        >>> item = ResizeForBothd("image", Sizes(64, teacher_size=96, slices=4))({"image": torch.rand(4, 128, 128)})
        >>> item["image"].shape, item["teacher_image"].shape
        (torch.Size([4, 64, 64]), torch.Size([4, 96, 96]))
    """

    def __init__(self, keys: KeysCollection, sizes: Sizes) -> None:
        super().__init__(keys)
        (self._key,) = self.keys
        self._size = sizes.student
        self._student = resize(keys, sizes.student)
        self._teacher = None if sizes.teacher is None else resize(TEACHER_IMAGE, sizes.teacher)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resize the image of the item."""
        item, image = dict(data), data[self._key]
        if self._teacher is not None:
            several = isinstance(image, Mapping)
            copy = {role: one.clone() for role, one in image.items()} if several else image.clone()
            item = self._teacher({**item, TEACHER_IMAGE: copy})
        elif (
            not isinstance(image, Mapping) and list(image.shape[1:]) == self._size
        ):  # a cached view already has its size; resizing would cost time
            return item
        return dict(self._student(item))


def chain(transforms: Iterable[Any]) -> Compose:
    """Return MONAI's `Compose` of transforms and (flattened) lists of transforms, for configs that share such lists."""
    parts = [part if isinstance(part, (list, tuple)) else [part] for part in transforms]
    return Compose([transform for part in parts for transform in part])

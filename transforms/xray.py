"""Radiographs: cropping of collimation borders, augmentation.

All images get the same intensity scale: screen values in [0, 1] (`DisplayIntensityd`, modalities such as "CR", "DX" and
"DR"). The loading transforms return DICOM as shown on a screen: VOI LUT or window applied and MONOCHROME1 inverted, so
that bone is white.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import RandScaleIntensityd, RandShiftIntensityd, SpatialCrop

from monai_rd.errors import UnsupportedImageError
from monai_rd.transforms.augment import InPlaneAugmentation, clip, small_affine
from monai_rd.transforms.bag import luminance
from monai_rd.transforms.each import EachImaged

__all__ = ["CollimationCropd", "XrayAugmentation"]

# Differences in grey level (of 255): pixels within the first of the border's level are border (JPEG is not exact),
# pixels beyond the second are image.
_LIKE, _UNLIKE = 8, 20
# A line belongs to the border while less than the first fraction of it differs from the border's level. The edge is
# straight if the second fraction is reached within `_SLANT` of the image's height or width. Both are fractions of the
# part of a line that is image where the line crosses the image.
_MARKER, _INSIDE, _SLANT = 0.1, 0.5, 0.04


class CollimationCropd(EachImaged):
    """Crop the uniform border that collimator blades or a digital shutter leave around a radiograph `[C, X, Y]`.

    Lines are examined from each side. A line belongs to the border while at most a tenth of it (a marker, for example)
    differs by more than 8 (of 255) from the median grey of the outermost line. The border must end in a straight, sharp
    edge: within 4 % of the image's height or width (which allows round corners and a frame rotated by about 2 degrees)
    half of a line must differ by more than 20. "A tenth" and "half" refer to the part of a line inside the image, so
    that wide borders on the other sides have no influence. The image is cropped where the edge begins: thin wedges of a
    rotated frame remain and no part of the image is lost.

    Dark air next to the body ends in the body's curved outline and is kept; where that outline is straight, only air
    is cropped. Round masks, borders wider than `most`, and black borders whose edge lies in a dark lung for more than
    half of its length are kept. The shutter attributes of DICOM are not used.

    Args:
        keys: keys of the item to transform; values 0 to 255.
        most: largest fraction of the height or width that is cropped on each side, 0 to below 0.5.

    Raises:
        ValueError: `most` out of range.
        UnsupportedImageError: a volume.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from monai_rd.transforms import CollimationCropd
        >>> picture = torch.zeros(1, 200, 300)
        >>> picture[:, 20:180, 30:280] = 150
        >>> CollimationCropd("image")({"image": MetaTensor(picture)})["image"].shape
        torch.Size([1, 160, 250])
    """

    def __init__(self, keys: KeysCollection, most: float = 0.3) -> None:
        super().__init__(keys)
        if not 0 <= most < 0.5:
            raise ValueError(f"0 <= most < 0.5 is needed, got {most}")
        self.most = most

    def _transform(self, image: MetaTensor) -> MetaTensor:
        if image.ndim != 3:
            raise UnsupportedImageError(
                f"a radiograph [C, X, Y] is needed, got a volume {list(image.shape)}", image.meta.get("series_uid")
            )
        start, end = collimation_box(luminance(image.as_tensor())[0].numpy(), self.most)
        return SpatialCrop(roi_start=start, roi_end=end)(image)


def collimation_box(grey: npt.NDArray[np.float32], most: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return start and end (exclusive) of the exposed part of a picture `[X, Y]` along both axes.

    Sides are examined again after another side was cropped, because a border of another grey hides its neighbours.
    """
    box = [[0, grey.shape[0]], [0, grey.shape[1]]]
    limits = [int(size * most) for size in grey.shape]
    changed = True
    while changed:
        changed = False
        for axis in (0, 1):
            for far in (0, 1):
                inside = grey[box[0][0] : box[0][1], box[1][0] : box[1][1]]
                lines = inside if axis == 0 else inside.T
                width = _border(lines[::-1] if far else lines, slant=max(2, int(_SLANT * grey.shape[axis])))
                done = grey.shape[axis] - box[axis][1] if far else box[axis][0]
                if 0 < width <= limits[axis] - done:
                    box[axis][far] += -width if far else width
                    changed = True
    return (box[0][0], box[1][0]), (box[0][1], box[1][1])


def _border(lines: npt.NDArray[np.float32], slant: int) -> int:
    """Return how many of the first lines are border, 0 if there is none."""
    distance = np.abs(lines - np.median(lines[0]))
    near, far = (distance > _LIKE).mean(axis=1), (distance > _UNLIKE).mean(axis=1)
    crossing = np.percentile(far, 90)  # fraction of a line that is not border, where the line crosses the image
    if crossing == 0:
        return 0
    leaves, inside = np.argmax(near > _MARKER * crossing), np.argmax(far >= _INSIDE * crossing)
    return int(leaves) if inside - leaves <= slant else 0


class XrayAugmentation(InPlaneAugmentation):
    """Augment a radiograph stack `[S, H, W]` in [0, 1]: small rotation, zoom and shift, brightness and contrast.

    Images are not mirrored: the side of the heart is part of the anatomy.

    Args:
        keys: keys of the item to transform.

    Example:
        >>> import torch
        >>> from monai_rd.transforms import XrayAugmentation
        >>> XrayAugmentation("image")({"image": torch.rand(1, 32, 32)})["image"].shape
        torch.Size([1, 32, 32])
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(
            keys,
            [
                small_affine(keys, degrees=7, zoom=0.1, shift=8, padding="zeros"),
                RandScaleIntensityd(keys, factors=0.15, prob=0.5),
                RandShiftIntensityd(keys, offsets=0.05, prob=0.5),
                clip(keys),
            ],
        )

"""Radiographs: collimation borders, augmentation.

One intensity definition: the grey of the screen, 0 to 1 (`DisplayIntensityd`, such as modalities "CR", "DX", "DR").
The loading transforms give DICOM as it is shown: VOI LUT or window applied, MONOCHROME1 inverted: bone is white.
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

# Grey levels of 255: pixels this near to a border's level are the border (JPEG is not exact), this far are image.
_LIKE, _UNLIKE = 8, 20
# A line is border while less than the first share of it, in terms of a line that crosses the image, is unlike; the edge
# is straight if the second share is reached within `_SLANT` of the image's height or width.
_MARKER, _INSIDE, _SLANT = 0.1, 0.5, 0.04


class CollimationCropd(EachImaged):
    """Cut the uniform frame that collimator blades or a digital shutter leave off a picture `[C, X, Y]`.

    Line by line from each side: lines belong to the border while at most a tenth of them (a marker, say) differs by
    more than 8 of 255 from the grey of the outermost one, whatever grey that is. The border must end in a straight and
    sharp edge: within 4 % of the image (a frame turned by 2 degrees or so, or one with round corners) half of a line
    must differ by more than 20. "A tenth" and "half" are meant of a line through the image, so that wide borders at the
    other sides do not matter. It is cut where the edge begins: thin wedges of a turned frame stay, no image is lost.

    The dark air beside a body ends in the body's outline and is no border; where that outline is straight, the air is
    cut off and nothing of the body. Lungs are not at the edge. Round masks, and borders wider than `most`, are left
    alone; the shutter attributes of DICOM are not read.

    Args:
        keys: keys of the item to transform; values 0 to 255.
        most: largest share of the height or width that is cut off at each side, below 0.5.

    Raises:
        ValueError: a share that is not possible.
        UnsupportedImageError: a volume.
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
    """Where the exposed part of a picture `[X, Y]` starts and ends (exclusive) along both axes.

    Each side is looked at again within what the others have left, as a border of another grey hides its neighbour.
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
    """How many of the first lines are border, 0 where there is none."""
    distance = np.abs(lines - np.median(lines[0]))
    near, far = (distance > _LIKE).mean(axis=1), (distance > _UNLIKE).mean(axis=1)
    crossing = np.percentile(far, 90)  # the share of a line that is not border, where it crosses the image
    if crossing == 0:
        return 0
    leaves, inside = np.argmax(near > _MARKER * crossing), np.argmax(far >= _INSIDE * crossing)
    return int(leaves) if inside - leaves <= slant else 0


class XrayAugmentation(InPlaneAugmentation):
    """Random views in [0, 1] of a stack `[S, H, W]`: small rotation, zoom and shift, brightness and contrast.

    No mirror: on which side the heart lies is anatomy.

    Args:
        keys: keys of the item to transform.
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

"""CT: Hounsfield windows to one intensity definition, and augmentation.

One definition for all CT the project sees: a value in [0, 1] is the grey of a display window, 0 at its lower and 1 at
its upper edge. HU are clipped to the window; NIfTI, which does not say what its values are, is taken to be in HU. Below
-1024 HU is nothing: scanners mark with such values (-2000, -3024) what lies outside the field of view, where the DICOM
loader puts -1024; a NIfTI of the same series still has them, so they are raised to it and both give the same image. An
8-bit image is such a display already (a figure of a chest CT shows the lung window) and is divided by 255. So a student
trained on figures may be asked about DICOM, as far as the figures' windows were the one configured.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import RandAffined, RandFlipd, RandScaleIntensityd, RandShiftIntensityd

from monai_rd.errors import WrongIntensityError
from monai_rd.transforms.augment import InPlaneAugmentation
from monai_rd.transforms.each import EachImaged

__all__ = ["WINDOWS", "CTAugmentation", "HounsfieldWindowsd"]

# Centre and width in HU. "full" is -1024 to 2048 HU, what CT foundation models that want all of it are trained on.
WINDOWS = {
    "lung": (-600.0, 1500.0),
    "mediastinum": (40.0, 400.0),
    "bone": (500.0, 2000.0),
    "full": (512.0, 3072.0),
}


LOWEST_HU = -1024.0  # in 12 bits with the usual intercept; air is -1000


class HounsfieldWindowsd(EachImaged):
    """A stack of slices `[S, H, W]` to `[S * windows, H, W]` in [0, 1], or a volume `[1, D, H, W]` in one window.

    Args:
        keys: keys of the item to transform; each a MetaTensor with `meta["intensity"]` "HU", "unstated" or "display".
        windows: names of `WINDOWS`, or (centre, width) pairs in HU; each becomes a channel of every slice.

    Raises:
        ValueError: an unknown window, a width not above 0, or several windows of a volume.
        WrongIntensityError: DICOM of another modality; values that are neither HU nor a display image; several windows
            asked of an 8-bit image, which holds only the one it was shown in.
    """

    def __init__(self, keys: KeysCollection, windows: Sequence[str | tuple[float, float]] = ("lung",)) -> None:
        super().__init__(keys)
        unknown = [window for window in windows if isinstance(window, str) and window not in WINDOWS]
        if unknown or not windows:
            raise ValueError(f"unknown CT window {unknown}; known: {', '.join(WINDOWS)}, or (centre, width) in HU")
        self.windows = [WINDOWS[window] if isinstance(window, str) else tuple(window) for window in windows]
        if any(width <= 0 for _, width in self.windows):
            raise ValueError(f"a window's width must be above 0 HU: {self.windows}")

    def _transform(self, stack: MetaTensor) -> MetaTensor:
        intensity, values = stack.meta.get("intensity"), stack.as_tensor()
        modality = stack.meta.get("modality", "CT")
        if modality != "CT":
            raise WrongIntensityError(f"CT windows were asked of a DICOM image of modality '{modality}'")
        if stack.ndim == 4 and len(self.windows) > 1:
            raise ValueError(f"a volume for a 3D network is shown in one window, not in {len(self.windows)}")
        if intensity in ("HU", "unstated"):
            values = values.clamp(min=LOWEST_HU)
            shown = [((values - centre) / width + 0.5).clamp(0, 1) for centre, width in self.windows]
            return MetaTensor(torch.stack(shown, dim=1).flatten(0, 1), meta=dict(stack.meta))
        if intensity != "display":
            raise WrongIntensityError(
                f"CT windows need Hounsfield units or an 8-bit image, got '{intensity}' values (not a CT?)"
            )
        if len(self.windows) > 1:
            raise WrongIntensityError(
                "an 8-bit image holds one window only: configure a single one, or give DICOM or NIfTI in HU"
            )
        return MetaTensor(values / 255, meta=dict(stack.meta))


class CTAugmentation(InPlaneAugmentation):
    """Random views of a stack `[S * C, H, W]` or volume `[1, D, H, W]` in [0, 1].

    Mirror, small rotation and zoom, brightness and contrast.

    All slices of a study are treated alike.

    Args:
        keys: keys of the item to transform.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(
            keys,
            [
                RandFlipd(keys, prob=0.5, spatial_axis=1),
                RandAffined(keys, prob=0.5, rotate_range=0.15, scale_range=0.1, mode="bilinear", padding_mode="border"),
                RandScaleIntensityd(keys, factors=0.1, prob=0.5),
                RandShiftIntensityd(keys, offsets=0.03, prob=0.5),
            ],
        )

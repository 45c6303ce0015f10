"""CT: display windows in Hounsfield units, and augmentation.

All CT images get the same intensity scale: a value in [0, 1] is the grey of a display window, 0 at its lower and 1 at
its upper edge, and HU outside the window are clipped. NIfTI does not state its unit and is taken to be in HU.

Values below -1024 HU are raised to -1024: scanners mark pixels outside the field of view with such values (-2000,
-3024), and the DICOM loader sets these pixels to -1024. A NIfTI file of the same series then gives the same image.

An 8-bit image already shows a window (a figure of a chest CT the lung window) and is divided by 255. A student trained
on figures can therefore be used on DICOM, provided that the figures show the configured window.
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

# Centre and width in HU. "full" is -1024 to 2048 HU, the range used by CT foundation models trained without a window.
WINDOWS = {
    "lung": (-600.0, 1500.0),
    "mediastinum": (40.0, 400.0),
    "bone": (500.0, 2000.0),
    "full": (512.0, 3072.0),
}


LOWEST_HU = -1024.0  # in 12 bits with the usual intercept; air is -1000


class HounsfieldWindowsd(EachImaged):
    """Map HU to [0, 1] by display windows: a stack `[S, H, W]` becomes `[S * windows, H, W]`.

    A volume `[1, D, H, W]` keeps its shape and takes a single window. An 8-bit image is divided by 255.

    Args:
        keys: keys of the item to transform; each a MetaTensor with `meta["intensity"]` "HU", "unstated" or "display".
        windows: names ("lung", "mediastinum", "bone", "full") or (centre, width) pairs in HU; each window becomes one
            channel of every slice.

    Raises:
        ValueError: an unknown window, a width not above 0, or several windows for a volume.
        WrongIntensityError: DICOM of another modality; values that are neither HU nor 8-bit; several windows for an
            8-bit image, which holds only the window it was saved in.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from monai_rd.transforms import HounsfieldWindowsd
        >>> slices = MetaTensor(torch.tensor([[[-600.0, -225.0, 150.0]]]), meta={"intensity": "HU"})
        >>> HounsfieldWindowsd("image", windows=["lung"])({"image": slices})["image"].tolist()
        [[[0.5, 0.75, 1.0]]]
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
    """Augment a CT stack `[S * C, H, W]` or volume `[1, D, H, W]` in [0, 1].

    Left-right mirror, small rotation and zoom, brightness and contrast; the same for all slices of a study.

    Args:
        keys: keys of the item to transform.

    Example:
        >>> import torch
        >>> from monai_rd.transforms import CTAugmentation
        >>> CTAugmentation("image")({"image": torch.rand(1, 8, 32, 32)})["image"].shape
        torch.Size([1, 8, 32, 32])
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

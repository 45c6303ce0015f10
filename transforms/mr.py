"""MR: intensity normalisation, bias field correction, augmentation.

MR intensities have arbitrary units that depend on coil, sequence and vendor. All MR images, volumes and 8-bit figures,
get the same scale: 0 is the `lower` percentile of all values (air, or the darkest tissue), 1 is the `upper` percentile
of the foreground, and values outside are clipped. The foreground is every value above the mean of all values. The upper
end therefore does not depend on how much air surrounds the patient, and dark tissue (such as fluid in T1), which no
threshold separates from air, is not lost at the lower end. The result is invariant to linear changes of the unit.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import RandAdjustContrastd, RandBiasFieldd, RandFlipd

from monai_rd.errors import EmptyImageError, WrongIntensityError
from monai_rd.transforms.augment import InPlaneAugmentation, clip, small_affine
from monai_rd.transforms.bag import luminance
from monai_rd.transforms.each import EachImaged

__all__ = ["MRAugmentation", "MRIntensityd"]

# N4 estimates the field on an image shrunk to at most this many voxels along each axis: a bias field is smooth.
_N4_VOXELS = {2: 128, 3: 32}
# Iterations at each level; the spline's mesh is doubled from one level to the next.
_N4_ITERATIONS = (50, 50, 50)


class MRIntensityd(EachImaged):
    """Scale an MR image `[C, X, Y]` or volume `[C, X, Y, Z]` in any unit to grey `[1, ...]` in [0, 1], by percentiles.

    Use it between loading and `SliceStackd`, so that all slices of a volume get the same scale. Load with
    `window=False`: the window of a DICOM file would clip values before the percentiles are computed.

    Args:
        keys: keys of the item to transform.
        lower: percentile of all values that becomes 0.
        upper: percentile of the foreground (values above the mean) that becomes 1.
        n4: divide by the bias field first, as estimated by N4 (Tustison et al. 2010, N4ITK; SimpleITK), in 2D for
            images and in 3D for volumes.

    Raises:
        ValueError: not 0 <= lower < upper <= 100.
        WrongIntensityError: DICOM of another modality; CT values; values that are not finite.
        EmptyImageError: all or nearly all values are equal.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from monai_rd.transforms import MRIntensityd
        >>> image = MetaTensor(torch.arange(100.0).reshape(1, 10, 10))
        >>> scaled = MRIntensityd("image")({"image": image})["image"]
        >>> MRIntensityd("image")({"image": 7 * image + 40})["image"].allclose(scaled)  # units do not matter
        True
    """

    def __init__(self, keys: KeysCollection, lower: float = 1, upper: float = 99, n4: bool = False) -> None:
        super().__init__(keys)
        if not 0 <= lower < upper <= 100:
            raise ValueError(f"0 <= lower < upper <= 100 is needed, got lower {lower} and upper {upper}")
        self.lower, self.upper, self.n4 = lower, upper, n4

    def _transform(self, image: MetaTensor) -> MetaTensor:
        modality, intensity = image.meta.get("modality", "MR"), image.meta.get("intensity")
        if modality != "MR" or intensity == "HU":
            raise WrongIntensityError(
                f"MR intensities were asked of a DICOM image of modality '{modality}' ('{intensity}' values)"
            )
        values = luminance(image.as_tensor())[0].numpy().astype(np.float64)
        if not np.isfinite(values).all():
            raise WrongIntensityError("the image holds values that are not finite; replace them, or leave it out")
        scaled = self._rescale(values)
        if self.n4:
            scaled = self._rescale(scaled / bias_field(scaled))
        meta = {**image.meta, "intensity": "unit"}
        return MetaTensor(np.clip(scaled, 0, 1)[None].astype(np.float32), meta=meta)

    def _rescale(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Map the percentiles to 0 and 1 and clip below 0, because N4 models an image as a non-negative product."""
        foreground = values[values > values.mean()]
        low = np.percentile(values, self.lower)
        high = np.percentile(foreground, self.upper) if foreground.size else low
        if not high > low:
            raise EmptyImageError(
                "an MR image of which all values are equal, or nearly all, shows nothing; leave it out"
            )
        return np.maximum((values - low) / (high - low), 0)


def bias_field(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Estimate the multiplicative bias field by N4 (Tustison et al. 2010, IEEE TMI 29(6)).

    N4 runs on an image shrunk to at most 128 (2D) or 32 (3D) voxels per axis, within the mask of values above a tenth
    of the mean, with 3 levels of at most 50 iterations, a convergence threshold of 0.001, and ITK's defaults otherwise.
    It uses one thread, so that the result is the same on every machine. The spline's mesh divides the field of view, so
    voxel spacing has no influence. A cubic spline cannot be fitted along an axis of fewer than 4 voxels: a volume with
    fewer than 4 slices is corrected slice by slice.

    Args:
        values: image `[X, Y]` or volume `[X, Y, Z]`, not negative.

    Returns:
        The field, of the same shape, positive, with mean 1 within the mask.
    """
    if values.ndim == 3 and values.shape[-1] < 4:
        return np.stack([bias_field(part) for part in np.moveaxis(values, -1, 0)], axis=-1)
    image = sitk.GetImageFromArray(values.T.astype(np.float32))
    mask = image > 0.1 * float(values.mean())
    shrink = [-(-size // _N4_VOXELS[values.ndim]) for size in image.GetSize()]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)
    n4.SetMaximumNumberOfIterations(_N4_ITERATIONS)
    n4.Execute(sitk.Shrink(image, shrink), sitk.Shrink(mask, shrink))
    field = np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T.astype(np.float64))
    return field / field[sitk.GetArrayFromImage(mask).T > 0].mean()


class MRAugmentation(InPlaneAugmentation):
    """Augment an MR stack `[S, H, W]` or volume `[1, D, H, W]` in [0, 1].

    Left-right mirror, small affine transform, gamma, and a polynomial bias field like that of a receive coil.

    Args:
        keys: keys of the item to transform.

    Example:
        >>> import torch
        >>> from monai_rd.transforms import MRAugmentation
        >>> MRAugmentation("image")({"image": torch.rand(4, 32, 32)})["image"].shape
        torch.Size([4, 32, 32])
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(
            keys,
            [
                RandFlipd(keys, prob=0.5, spatial_axis=1),
                small_affine(keys, degrees=10, zoom=0.1, shift=5),
                RandAdjustContrastd(keys, prob=0.5, gamma=(0.7, 1.5)),
                RandBiasFieldd(keys, prob=0.3, degree=3, coeff_range=(-0.1, 0.1)),
                clip(keys),
            ],
        )

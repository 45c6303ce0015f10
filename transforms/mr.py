"""MR: arbitrary units to one intensity definition, bias field, augmentation.

The numbers of an MR image mean nothing by themselves: coil, sequence and vendor scale them. One definition for all MR
the project sees, volumes and 8-bit figures alike: 0 is the `lower` percentile of all values (the air, or what is
darkest), 1 the `upper` percentile of the foreground, values outside are clipped. The foreground is what exceeds the
mean of all values. So the white end does not depend on how much air surrounds the patient, and dark tissue, such as
fluid in T1, which no threshold tells from air, is not lost at the black end. A linear change of the units changes
nothing.
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
# Iterations at each of the levels, the spline's mesh being doubled from one to the next.
_N4_ITERATIONS = (50, 50, 50)


class MRIntensityd(EachImaged):
    """Image `[C, X, Y]` or volume `[C, X, Y, Z]` of any units to grey `[1, ...]` in [0, 1].

    To stand between loading and `SliceStackd`, so that one scale serves all slices of a volume. Load with
    `window=False`: the window of a DICOM file would clip what the percentiles should see.

    Args:
        keys: keys of the item to transform.
        lower: percentile of all values that becomes 0.
        upper: percentile of the foreground that becomes 1.
        n4: whether to divide by the bias field first, as N4 estimates it (Tustison et al. 2010, N4ITK; SimpleITK),
            in 2D for images and in 3D for volumes.

    Raises:
        ValueError: not 0 <= lower < upper <= 100.
        WrongIntensityError: DICOM of another modality; CT values; values that are not finite.
        EmptyImageError: all values are equal, or nearly all.
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
        """Map the percentiles to 0 and 1; nothing below 0 is left, so that the rest can be a product with a field."""
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

    On an image shrunk to at most 128 (picture) or 32 (volume) voxels an axis, within what exceeds a tenth of its mean,
    3 levels of at most 50 iterations, convergence at 0.001, other parameters ITK's own; one thread, so that the result
    is the same everywhere. The spline's mesh divides the field of view, so the voxel spacing makes no difference.
    Along an axis of fewer than 4 voxels the cubic spline has nothing to fit: such a thin volume is corrected slice by
    slice.

    Args:
        values: image `[X, Y]` or volume `[X, Y, Z]`, not negative.

    Returns:
        The field, above 0, of the same shape and of mean 1 within the mask.
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
    """Random views in [0, 1] of a stack `[S, H, W]` or a volume `[1, D, H, W]`.

    Mirror left and right, small affine map, gamma, and a polynomial bias field as a coil leaves one.

    Args:
        keys: keys of the item to transform.
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

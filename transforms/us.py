"""Ultrasound: the image region without its surroundings, speckle and gain.

One intensity definition: the grey of the screen, 0 to 1 (`DisplayIntensityd`, modality "US"). A cine stays a stack of
frames until `SliceStackd`, which spreads `slices` of them evenly over the loop; one slice is the middle frame.

The random changes follow how a B-mode image comes about. The scanner shows the logarithm of the echo's envelope over a
dynamic range of R dB, so that a factor g on the echo's intensity is an offset of 10 log10(g) / R on the grey. Pixels
that are 0 stay 0: nothing is shown there.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandFlipd, RandomizableTransform, SpatialCrop
from monai.utils import convert_to_tensor
from scipy import ndimage

from monai_rd.errors import EmptyImageError, UnsupportedImageError
from monai_rd.transforms.augment import InPlaneAugmentation, clip, small_affine
from monai_rd.transforms.bag import luminance
from monai_rd.transforms.display import check_display
from monai_rd.transforms.each import EachImaged

__all__ = ["RandGaind", "SpeckleNoised", "USAugmentation", "UltrasoundRegiond"]

logger = logging.getLogger(__name__)

DYNAMIC_RANGE = 60.0  # dB, a usual setting
# Screen value up to which a pixel counts as black: JPEG leaves grey around letters.
_BLACK = 20
# Share of bright pixels from which on a place is image and not text.
_DENSE = 0.6
# Patches below this share of the largest are annotations, not image.
_ANNOTATION_SHARE = 0.2


class UltrasoundRegiond(EachImaged):
    """Crop a picture `[C, X, Y]` or a cine `[C, X, Y, frames]` to its B-mode image.

    A DICOM file says where that is, in its Sequence of Ultrasound Regions (PS3.3 C.8.5.5): the largest 2D tissue region
    is taken, exactly; Doppler spectra, M-mode and ECG strips are others. What a scanner burns in beside the image,
    often the patient's name, is thereby gone.

    An image without regions is cropped to the box around what is not black: patches of more than 20 of 255, of which
    those below a fifth of the largest, and letters, which are thin, are taken for annotations. Text inside that box
    stays: of DICOM this is said in the log. An image without black borders stays as it is.

    Args:
        keys: keys of the item to transform, as the loading transforms give them.
        modalities: what a DICOM image may be.

    Raises:
        WrongIntensityError: DICOM of another modality; values that are no screen values.
        UnsupportedImageError: there are regions, but none is 2D tissue, or they do not lie in the image (it was scaled
            after they were written).
        EmptyImageError: all is black.
    """

    def __init__(self, keys: KeysCollection, modalities: Sequence[str] = ("US",)) -> None:
        super().__init__(keys)
        self.modalities = tuple(modalities)

    def _transform(self, image: MetaTensor) -> MetaTensor:
        check_display(image, self.modalities)
        sizes = image.shape[1:3]
        regions, series = image.meta.get("regions", ()), image.meta.get("series_uid")
        if regions:
            tissue = [r for r in regions if (r.spatial_format, r.data_type) == (1, 1) and r.x1 > r.x0 and r.y1 > r.y0]
            if not tissue:
                raise UnsupportedImageError(
                    f"Series {series}: an ultrasound picture without a 2D tissue region, such as a Doppler spectrum or "
                    "an M-mode. Leave it out.",
                    series,
                )
            region = max(tissue, key=lambda r: (r.x1 - r.x0 + 1) * (r.y1 - r.y0 + 1))
            if region.x1 > sizes[0] or region.y1 > sizes[1]:  # some write 1 beyond the last pixel
                raise UnsupportedImageError(
                    f"Series {series}: its ultrasound region does not lie in the image, which was scaled or cropped "
                    "after the region was written. Export the original.",
                    series,
                )
            start, end = (region.x0, region.y0), (region.x1 + 1, region.y1 + 1)
        else:
            if "modality" in image.meta:
                logger.warning(
                    "Series %s: no ultrasound regions; cropped to what is not black. Text burned into that box stays.",
                    series,
                )
            start, end = _bright_box(image.as_tensor())
        cropped = SpatialCrop(roi_start=[*start, *[0] * (image.ndim - 3)], roi_end=[*end, *image.shape[3:]])(image)
        cropped.meta.pop("regions", None)
        return cropped


def _bright_box(image: torch.Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """First column and row, and those after the last, of the bright patches of an image `[C, X, Y, ...]`.

    A patch is where 3 pixels of 5 are bright, counted in squares of a twentieth of the shorter side: letters are thin.
    """
    grey = luminance(image)[0].numpy()
    bright = (grey if grey.ndim == 2 else grey.max(axis=2)) > _BLACK
    share = ndimage.uniform_filter(bright.astype(np.float32), 2 * (min(bright.shape) // 40) + 1, mode="nearest")
    patches, count = ndimage.label(share > _DENSE)
    if not count:
        raise EmptyImageError("an ultrasound picture that is black, but for fine lines, shows nothing; leave it out")
    areas = np.bincount(patches.ravel())[1:]
    kept = np.isin(patches, 1 + np.flatnonzero(areas >= _ANNOTATION_SHARE * areas.max()))
    edges = [np.flatnonzero(kept.any(axis=axis)) for axis in (1, 0)]
    return (int(edges[0][0]), int(edges[1][0])), (int(edges[0][-1]) + 1, int(edges[1][-1]) + 1)


class _RandEchoGain(RandomizableTransform, MapTransform):
    """A random factor on the intensity of the echoes of stacks `[S, H, W]` in [0, 1], as an offset of the grey."""

    def __init__(self, keys: KeysCollection, prob: float) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform every key of the item."""
        item = dict(data)
        self.randomize(None)
        if self._do_transform:
            for key in self.key_iterator(item):
                stack = convert_to_tensor(item[key], track_meta=False)
                offset = (self.draw_decibel(tuple(stack.shape)) / DYNAMIC_RANGE).to(stack)
                changed = torch.where(stack > 0, stack + offset, stack).clamp(0, 1)
                item[key] = MetaTensor(changed, meta=dict(getattr(item[key], "meta", {})))
        return item

    def draw_decibel(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Draw 10 log10 of the factor, for a stack `[S, H, W]`; of a shape that fits it."""
        raise NotImplementedError


class SpeckleNoised(_RandEchoGain):
    """Random multiplicative speckle on log-compressed stacks `[S, H, W]` in [0, 1], other in each slice.

    The echo's intensity is multiplied by the mean of L independent speckle patterns of mean 1. One pattern is the
    squared magnitude of a complex Gaussian field, as many scatterers in one cell give it: its magnitude has a Rayleigh,
    its square an exponential distribution, the mean of L a Gamma distribution of shape L (Wagner et al. 1983; Goodman
    1975). So the grey gets an offset of mean `10 / (R ln 10) * (digamma(L) - ln L)` and standard deviation
    `10 / (R ln 10) * sqrt(trigamma(L))` for a dynamic range of R dB: for L = 1, 5.57 dB. The fields are Gaussian
    filtered, so that speckle has a size.

    Args:
        keys: keys of the item to transform.
        looks: smallest and largest L, one of which is drawn; an image has its own speckle, so more than 1.
        grain: standard deviation in pixels of the filter, 0 for none.
        prob: of doing anything.
    """

    def __init__(
        self, keys: KeysCollection, looks: tuple[int, int] = (2, 8), grain: float = 0.8, prob: float = 0.5
    ) -> None:
        super().__init__(keys, prob)
        if not 1 <= looks[0] <= looks[1] or grain < 0:
            raise ValueError(f"1 <= looks[0] <= looks[1] and grain >= 0 are needed, got {looks} and {grain}")
        self.looks, self.grain = looks, grain

    def draw_decibel(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Draw 10 log10 of the speckle."""
        looks = int(self.R.randint(self.looks[0], self.looks[1] + 1))
        generator = torch.Generator().manual_seed(int(self.R.randint(1 << 31)))
        frequency = torch.fft.fftfreq(shape[1])[:, None] ** 2 + torch.fft.fftfreq(shape[2]) ** 2
        filtered = torch.exp(-2 * (torch.pi * self.grain) ** 2 * frequency)  # a Gaussian, seen from its spectrum
        filtered = (filtered / (2 * looks * filtered.square().mean()).sqrt())[..., None].repeat(1, 1, 2)
        intensity = torch.zeros(shape)  # of mean 1
        for _ in range(looks):  # parts apart: drawing complex numbers takes twice as long
            parts = torch.randn(*shape, 2, generator=generator).mul_(filtered)
            fields = torch.fft.ifft2(torch.view_as_complex(parts), norm="ortho")
            intensity += torch.view_as_real(fields).square_().sum(dim=-1)
        return 10 * intensity.log10()


class RandGaind(_RandEchoGain):
    """Random gain and depth gain (TGC) of stacks `[S, H, W]` in [0, 1], the top row being the shallowest.

    Args:
        keys: keys of the item to transform.
        gain: largest gain to either side in dB.
        depth_gain: largest setting to either side in dB of each of 6 sliders, evenly spread over the depth; linear
            between them.
        prob: of doing anything.
    """

    def __init__(self, keys: KeysCollection, gain: float = 5.0, depth_gain: float = 3.0, prob: float = 0.5) -> None:
        super().__init__(keys, prob)
        self.gain, self.depth_gain = gain, depth_gain

    def draw_decibel(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Draw the gain of each row."""
        sliders = self.R.uniform(-self.gain, self.gain) + self.R.uniform(-self.depth_gain, self.depth_gain, 6)
        return torch.from_numpy(np.interp(np.linspace(0, 5, shape[1]), np.arange(6), sliders))[:, None]


class USAugmentation(InPlaneAugmentation):
    """Random views in [0, 1] of a stack `[S, H, W]`: mirror, small affine map, gain, depth gain, speckle.

    Left and right may change places (a probe can be turned), top and bottom not (depth).

    Args:
        keys: keys of the item to transform.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(
            keys,
            [
                RandFlipd(keys, prob=0.5, spatial_axis=1),
                RandGaind(keys),
                SpeckleNoised(keys),
                small_affine(keys, degrees=10, zoom=0.1, shift=5, padding="zeros"),
                clip(keys),
            ],
        )

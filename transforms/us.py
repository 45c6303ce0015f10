"""Ultrasound: cropping to the image region, augmentation by speckle and gain.

All images get the same intensity scale: screen values in [0, 1] (`DisplayIntensityd`, modality "US"). A cine keeps all
of its frames until `SliceStackd`, which takes `slices` of them, evenly spread; a single slice is the middle frame.

The augmentations follow the formation of a B-mode image. A scanner shows the logarithm of the echo's envelope over a
dynamic range of R dB, so a factor g on the echo's intensity adds 10 log10(g) / R to the grey value in [0, 1]. Pixels
of value 0, where nothing is shown, stay 0.
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

DYNAMIC_RANGE = 60.0  # R in dB, a common setting
# Screen value up to which a pixel counts as black: JPEG compression leaves grey pixels around letters.
_BLACK = 20
# Local fraction of bright pixels above which a pixel belongs to the image and not to text.
_DENSE = 0.6
# Patches with less than this fraction of the largest patch's area are annotations, not image.
_ANNOTATION_SHARE = 0.2


class UltrasoundRegiond(EachImaged):
    """Crop an ultrasound picture `[C, X, Y]` or cine `[C, X, Y, frames]` to its B-mode image.

    DICOM files state the position of the B-mode image in their Sequence of Ultrasound Regions (PS3.3 C.8.5.5): the
    image is cropped to the largest 2D tissue region (other regions are Doppler spectra, M-mode and ECG strips). This
    also removes text that the scanner burned in outside the region, often the patient's name.

    An image without regions is cropped to the bounding box of its bright patches (values above 20 of 255). Letters,
    which are thin, and patches smaller than a fifth of the largest are taken for annotations and ignored. Text inside
    the box remains; for DICOM a warning says so. An image without black borders is not changed.

    Args:
        keys: keys of the item to transform, as the loading transforms return them.
        modalities: the modalities that a DICOM image may have.

    Raises:
        WrongIntensityError: DICOM of another modality; values that are not screen values.
        UnsupportedImageError: no region is 2D tissue, or a region lies outside the image (the image was scaled after
            the regions were written).
        EmptyImageError: the image is black.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from monai_rd.transforms import UltrasoundRegiond
        >>> screen = torch.zeros(1, 640, 480)
        >>> screen[:, 100:500, 40:440] = 120
        >>> item = {"image": MetaTensor(screen, meta={"intensity": "display"})}
        >>> UltrasoundRegiond("image")(item)["image"].shape  # the bright square but for a thin rim
        torch.Size([1, 394, 394])
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
            if region.x1 > sizes[0] or region.y1 > sizes[1]:  # some scanners write the last pixel + 1
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
    """Return the bounding box, (x, y) of its start and of its end (exclusive), of an image's `[C, X, Y, ...]` patches.

    A pixel belongs to a patch if 60 % of the pixels around it are bright, in a square of a twentieth of the image's
    shorter side: letters are thinner than that.
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
    """Multiply the echo intensity of stacks `[S, H, W]` in [0, 1] by a random factor (an offset of the grey value)."""

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
        """Draw 10 log10 of the factor, in dB, of a shape that broadcasts to the stack's `[S, H, W]`."""
        raise NotImplementedError


class SpeckleNoised(_RandEchoGain):
    """Add random multiplicative speckle to log-compressed stacks `[S, H, W]` in [0, 1], different in each slice.

    The echo intensity is multiplied by the mean of L independent speckle patterns of mean 1. A pattern is the squared
    magnitude of a complex Gaussian field, the model of many scatterers per resolution cell: the magnitude is Rayleigh
    distributed, its square exponentially, and the mean of L squares has a Gamma distribution of shape L (Wagner et al.
    1983; Goodman 1975). With a dynamic range of R dB the grey value gets an offset of mean
    `10 / (R ln 10) * (digamma(L) - ln L)` and standard deviation `10 / (R ln 10) * sqrt(trigamma(L))`; for L = 1 this
    corresponds to 5.57 dB. The fields are filtered by a Gaussian, which sets the size of the speckle.

    Args:
        keys: keys of the item to transform.
        looks: smallest and largest L; L is drawn between them. The default leaves out L = 1, full speckle, because
            images already have speckle of their own.
        grain: standard deviation of the Gaussian filter in pixels, 0 for no filter.
        prob: probability that the transform is applied.

    Example:
        >>> import torch
        >>> from monai_rd.transforms import SpeckleNoised
        >>> speckle = SpeckleNoised("image", prob=1.0).set_random_state(seed=0)
        >>> noisy = speckle({"image": torch.full((1, 64, 64), 0.5)})["image"]
        >>> noisy.shape, bool(noisy.std() > 0.01)
        (torch.Size([1, 64, 64]), True)
    """

    def __init__(
        self, keys: KeysCollection, looks: tuple[int, int] = (2, 8), grain: float = 0.8, prob: float = 0.5
    ) -> None:
        super().__init__(keys, prob)
        if not 1 <= looks[0] <= looks[1] or grain < 0:
            raise ValueError(f"1 <= looks[0] <= looks[1] and grain >= 0 are needed, got {looks} and {grain}")
        self.looks, self.grain = looks, grain

    def draw_decibel(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Draw 10 log10 of the speckle, in dB, of shape `[S, H, W]`."""
        looks = int(self.R.randint(self.looks[0], self.looks[1] + 1))
        generator = torch.Generator().manual_seed(int(self.R.randint(1 << 31)))
        frequency = torch.fft.fftfreq(shape[1])[:, None] ** 2 + torch.fft.fftfreq(shape[2]) ** 2
        filtered = torch.exp(-2 * (torch.pi * self.grain) ** 2 * frequency)  # spectrum of the Gaussian filter
        filtered = (filtered / (2 * looks * filtered.square().mean()).sqrt())[..., None].repeat(1, 1, 2)
        intensity = torch.zeros(shape)  # of mean 1
        for _ in range(looks):  # real and imaginary parts are drawn as reals: drawing complex numbers is twice as slow
            parts = torch.randn(*shape, 2, generator=generator).mul_(filtered)
            fields = torch.fft.ifft2(torch.view_as_complex(parts), norm="ortho")
            intensity += torch.view_as_real(fields).square_().sum(dim=-1)
        return 10 * intensity.log10()


class RandGaind(_RandEchoGain):
    """Apply random gain and depth gain (TGC) to stacks `[S, H, W]` in [0, 1] whose top row is the shallowest.

    Args:
        keys: keys of the item to transform.
        gain: the gain is drawn from -gain to gain, in dB.
        depth_gain: each of 6 sliders, evenly spread over the depth and linearly interpolated, is drawn from -depth_gain
            to depth_gain, in dB.
        prob: probability that the transform is applied.

    Example:
        >>> import torch
        >>> from monai_rd.transforms import RandGaind
        >>> gain = RandGaind("image", gain=6.0, depth_gain=0.0, prob=1.0).set_random_state(seed=0)
        >>> image = gain({"image": torch.tensor([[[0.0, 0.5], [0.0, 0.5]]])})["image"]
        >>> image[..., 0].tolist(), bool((image[..., 1] != 0.5).all())  # black stays black
        ([[0.0, 0.0]], True)
    """

    def __init__(self, keys: KeysCollection, gain: float = 5.0, depth_gain: float = 3.0, prob: float = 0.5) -> None:
        super().__init__(keys, prob)
        self.gain, self.depth_gain = gain, depth_gain

    def draw_decibel(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Draw the gain of each row, in dB, of shape `[H, 1]`."""
        sliders = self.R.uniform(-self.gain, self.gain) + self.R.uniform(-self.depth_gain, self.depth_gain, 6)
        return torch.from_numpy(np.interp(np.linspace(0, 5, shape[1]), np.arange(6), sliders))[:, None]


class USAugmentation(InPlaneAugmentation):
    """Augment an ultrasound stack `[S, H, W]` in [0, 1]: mirror, small affine transform, gain, depth gain, speckle.

    Images are mirrored left-right (a probe can be turned) but not top-bottom (rows are depth).

    Args:
        keys: keys of the item to transform.

    Example:
        >>> import torch
        >>> from monai_rd.transforms import USAugmentation
        >>> USAugmentation("image")({"image": torch.rand(4, 32, 32)})["image"].shape
        torch.Size([4, 32, 32])
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

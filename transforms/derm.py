"""Dermoscopy and clinical photographs: colour constancy, augmentation.

All images get the same intensity scale: RGB as shown on a screen (values / 255), in [0, 1], after the colour of the
illumination has been divided out.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandFlipd, RandomizableTransform
from monai.utils import convert_to_tensor
from torchvision.transforms import functional

from monai_rd.errors import EmptyImageError, WrongIntensityError
from monai_rd.transforms.augment import InPlaneAugmentation, clip, small_affine
from monai_rd.transforms.display import check_display
from monai_rd.transforms.each import EachImaged

__all__ = ["ColourConstancyd", "DermAugmentation", "RandColourJitterd"]

# Screen values, 0 to 255. A pixel with all channels below the first is the black surround of a dermatoscope, a pixel
# with a channel at or above the second is clipped (a reflection). Neither is used to estimate the illumination.
_BLACK, _CLIPPED = 20, 250
# The smallest fraction of an image's pixels from which its illumination is estimated.
_LEAST_SHARE = 0.01


class ColourConstancyd(EachImaged):
    """Correct the colours of an RGB(A) image `[3 or 4, X, Y]`, 0 to 255, to white light: `[3, X, Y]` in [0, 1].

    Shades of Gray (Finlayson and Trezzi 2004): the colour of the illumination is the Minkowski mean of each channel,
    `e_c = mean(I_c ** 6) ** (1 / 6)`, and each channel is divided by `sqrt(3) * e_c / |e|` (von Kries), which leaves an
    image taken under white light unchanged. Screen values are used without linearisation: the encoding of a screen is
    close to a power law, under which a gain of the light remains a gain of the value.

    Black and clipped pixels (the round vignette of a dermatoscope, reflections) are left out of the mean.

    Args:
        keys: keys of the item to transform; each a MetaTensor whose `meta["intensity"]` is "display".
        modalities: the modalities that a DICOM image may have.

    Raises:
        WrongIntensityError: a grey image; DICOM of another modality; values that are not screen values.
        EmptyImageError: nearly all pixels are black or clipped.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from monai_rd.transforms import ColourConstancyd
        >>> yellowish = torch.tensor([200.0, 180.0, 120.0]).view(3, 1, 1).expand(3, 8, 8)
        >>> item = {"image": MetaTensor(yellowish, meta={"intensity": "display"})}
        >>> ColourConstancyd("image")(item)["image"][:, 0, 0].tolist()  # grey: three equal channels
        [0.667..., 0.667..., 0.667...]
    """

    def __init__(self, keys: KeysCollection, modalities: Sequence[str] = ("XC", "DMS")) -> None:
        super().__init__(keys)
        self.modalities = tuple(modalities)

    def _transform(self, image: MetaTensor) -> MetaTensor:
        check_display(image, self.modalities)
        values = image.as_tensor()[:3]
        if image.shape[0] not in (3, 4) or bool((values == values[:1]).all()):
            raise WrongIntensityError("a colour picture is needed, got a grey one; dermoscopy is classified by colour")
        counts = (values.amax(dim=0) >= _BLACK) & (values.amax(dim=0) < _CLIPPED)
        if counts.float().mean() < _LEAST_SHARE:
            raise EmptyImageError(
                f"less than {_LEAST_SHARE:.0%} of a picture is neither black nor clipped: the colour of its light is "
                "unknown; leave it out"
            )
        light = (values[:, counts] / 255).pow(6).mean(dim=1).pow(1 / 6).clamp(min=1e-3)
        gain = light.norm() / (3**0.5 * light)
        balanced = (values / 255 * gain.view(3, *[1] * (values.ndim - 1))).clamp(0, 1)
        return MetaTensor(balanced, meta={**image.meta, "intensity": "unit"})


class RandColourJitterd(RandomizableTransform, MapTransform):
    """Randomly change brightness, contrast and saturation of RGB stacks `[S * 3, H, W]` in [0, 1].

    All slices get the same change. MONAI has no such transform for RGB; the three changes are torchvision's.

    Args:
        keys: keys of the item to transform.
        amount: each of the three factors is drawn uniformly from 1 - amount to 1 + amount.
        prob: probability that the transform is applied.

    Example:
        >>> import torch
        >>> from monai_rd.transforms import RandColourJitterd
        >>> jitter = RandColourJitterd("image", amount=0.2, prob=1.0).set_random_state(seed=0)
        >>> jitter({"image": torch.full((3, 4, 4), 0.5)})["image"].shape
        torch.Size([3, 4, 4])
    """

    def __init__(self, keys: KeysCollection, amount: float = 0.1, prob: float = 0.5) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.amount = amount

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform every key of the item."""
        item = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return item
        brightness, contrast, saturation = self.R.uniform(1 - self.amount, 1 + self.amount, 3).tolist()
        for key in self.key_iterator(item):
            stack = item[key]
            colours = convert_to_tensor(stack, track_meta=False).reshape(-1, 3, *stack.shape[1:])
            colours = functional.adjust_brightness(colours, brightness)
            colours = functional.adjust_contrast(colours, contrast)
            colours = functional.adjust_saturation(colours, saturation)
            item[key] = MetaTensor(colours.reshape(stack.shape), meta=dict(getattr(stack, "meta", {})))
        return item


class DermAugmentation(InPlaneAugmentation):
    """Augment an RGB skin image stack `[S * 3, H, W]` in [0, 1].

    Mirrors along both axes and rotation by any angle (skin images have no preferred orientation), zoom, small changes
    of brightness, contrast and saturation. Outside its edges a rotated image is continued by reflection.

    Args:
        keys: keys of the item to transform.

    Example:
        >>> import torch
        >>> from monai_rd.transforms import DermAugmentation
        >>> DermAugmentation("image")({"image": torch.rand(3, 32, 32)})["image"].shape
        torch.Size([3, 32, 32])
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(
            keys,
            [
                RandFlipd(keys, prob=0.5, spatial_axis=0),
                RandFlipd(keys, prob=0.5, spatial_axis=1),
                small_affine(keys, degrees=180, zoom=0.15, shift=0, prob=0.9, padding="reflection"),
                RandColourJitterd(keys),
                clip(keys),
            ],
        )

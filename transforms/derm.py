"""Dermoscopy and clinical photographs: colour constancy, augmentation.

One intensity definition: RGB 0 to 1 as a screen shows it (values / 255), after the light of the lamp was divided out.
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

# Screen values: a pixel all of whose channels lie below the first is the black surround of a dermatoscope, one that has
# a channel at or above the second is clipped (a reflection); neither tells of the light.
_BLACK, _CLIPPED = 20, 250
# The least share of an image from which its light is estimated.
_LEAST_SHARE = 0.01


class ColourConstancyd(EachImaged):
    """RGB picture `[3, X, Y]` or `[4, X, Y]`, 0 to 255, to `[3, X, Y]` in [0, 1] as under white light.

    Shades of Gray (Finlayson and Trezzi 2004): the light's colour is the Minkowski mean of each channel,
    `e_c = mean(I_c ** 6) ** (1 / 6)`; each channel is divided by `sqrt(3) * e_c / |e|` (von Kries), which leaves a
    picture under white light as it is. Values are taken as the screen shows them: the encoding of a screen is close to
    a power law, under which a gain of the light stays a gain of the value.

    Black and clipped pixels, the round vignette of a dermatoscope and reflections, do not count in the mean.

    Args:
        keys: keys of the item to transform; each a MetaTensor whose `meta["intensity"]` is "display".
        modalities: what a DICOM image may be.

    Raises:
        WrongIntensityError: a grey image; DICOM of another modality; values that are no screen values.
        EmptyImageError: nearly all pixels are black or clipped.
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
    """Random brightness, contrast and saturation of RGB stacks `[S * 3, H, W]` in [0, 1], all slices alike.

    MONAI has none for RGB; the maps are torchvision's.

    Args:
        keys: keys of the item to transform.
        amount: each of the three factors is drawn from 1 - amount to 1 + amount.
        prob: of doing anything.
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
    """Random views in [0, 1] of an RGB stack `[S * 3, H, W]`: skin has no up and no left.

    Mirrors in both axes, any rotation, zoom, small changes of brightness, contrast and saturation; what a rotation
    brings in from outside is the reflected picture.

    Args:
        keys: keys of the item to transform.
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

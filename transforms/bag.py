"""From a loaded image to the input of a 2D network: a bag of slices. Volumes for 3D networks are in `volumes`.

Between loading and the last transform an item is a MONAI 2D image `[S * C, H, W]` whose channels are its slices (times
windows or colours), so that MONAI's 2D transforms treat all slices of a study in the same way. The last transform makes
the bag `[S, C, H, W]`; a single image is a bag of one slice. The images of a study of several roles are a mapping from
roles to images until resizing gives them one size; then `joined` makes one stack of them.

Every volume is brought to one orientation: rows run from anterior to posterior, columns from the patient's right to
left, slices from inferior to superior (an axial slice is then seen as radiologists see it and as figures print it).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from monai.transforms import MapTransform, Orientation

from monai_rd.teacher_features import TEACHER_FEATURES
from monai_rd.teacher_image import TEACHER_IMAGE
from monai_rd.transforms.each import EachImaged

__all__ = ["ChannelsToBagd", "ResizeEachd", "SliceStackd", "bag_collate", "joined", "kept_meta", "luminance"]


class SliceStackd(EachImaged):
    """Turn an image `[C, X, Y]` or volume `[C, X, Y, Z]` into a stack of slices `[S, H, W]` in a fixed orientation.

    Rows run from anterior to posterior, columns from the patient's right to left, slices from inferior to superior.

    Args:
        keys: keys of the item to transform.
        slices: number S of slices taken from a volume, at the centres of S equal parts of it; a volume with fewer
            slices repeats some. A single image gives one slice. The frames of a cine are its slices.
        colour: keep colours: S RGB slices one after the other, `[S * 3, H, W]`; grey slices are repeated three times.
            By default colours become luminance (ITU-R BT.601). An alpha channel is dropped.

    Raises:
        ValueError: slices below 1, or another shape.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from monai_rd.transforms import SliceStackd
        >>> volume = MetaTensor(torch.rand(1, 64, 48, 30), affine=torch.eye(4))  # [C, X, Y, Z]
        >>> SliceStackd("image", slices=5)({"image": volume})["image"].shape  # [S, H, W]
        torch.Size([5, 48, 64])
    """

    def __init__(self, keys: KeysCollection, slices: int, colour: bool = False) -> None:
        super().__init__(keys)
        if slices < 1:
            raise ValueError(f"slices must be at least 1, got {slices}")
        self.slices, self.colour = slices, colour
        self._orient = Orientation(axcodes="LPS", labels=(("L", "R"), ("P", "A"), ("I", "S")))

    def _transform(self, image: MetaTensor) -> MetaTensor:
        values = _rgb(image.as_tensor()) if self.colour else luminance(image.as_tensor())
        if image.ndim == 4:
            volume = self._orient(MetaTensor(values, affine=image.affine)).as_tensor()  # to the left, back and top
            depth = volume.shape[-1]
            volume = volume[..., ((np.arange(self.slices) + 0.5) * depth / self.slices).astype(int)]
            stack = volume.permute(3, 0, 2, 1).flatten(0, 1)
        elif image.ndim == 3:
            stack = values.permute(0, 2, 1)
        else:
            raise ValueError(f"a volume [C, X, Y, Z] or an image [C, X, Y] is needed, got {list(image.shape)}")
        return MetaTensor(stack.contiguous(), meta=kept_meta(image))


def kept_meta(image: MetaTensor) -> dict[str, Any]:
    """Return what later transforms need of a loaded image's metadata: `intensity`, and `modality` if known."""
    known = {key: image.meta[key] for key in ("modality",) if key in image.meta}
    return {"intensity": image.meta.get("intensity", "arbitrary"), **known}


def luminance(image: torch.Tensor) -> torch.Tensor:
    """Return the luminance `[1, ...]` (ITU-R BT.601) of a grey, grey-alpha, RGB or RGBA image `[C, ...]`."""
    if image.shape[0] in (1, 2):
        return image[:1]
    weights = image.new_tensor([0.299, 0.587, 0.114]).view(3, *[1] * (image.ndim - 1))
    return (image[:3] * weights).sum(dim=0, keepdim=True)


def _rgb(image: torch.Tensor) -> torch.Tensor:
    """Return a grey, grey-alpha, RGB or RGBA image `[C, ...]` as RGB `[3, ...]`."""
    return image[:1].expand(3, *image.shape[1:]) if image.shape[0] in (1, 2) else image[:3]


class ResizeEachd(EachImaged):
    """Base class of transforms that give each image of an item one size and then make one of those of a study's roles.

    Args:
        keys: keys of the item to transform.
        size: spatial size of the result.
    """

    def __init__(self, keys: KeysCollection, size: Sequence[int]) -> None:
        super().__init__(keys)
        self.size = list(size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resize every key of the item."""
        made = super().__call__(data)
        several = {key: joined(value) for key, value in made.items() if key in self.keys and isinstance(value, Mapping)}
        return made | several


def joined(images: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Join the stacks `[S * C, H, W]` or windows `[W, D, H, W']` of a study's roles, one after the other.

    A role with fewer slices is repeated to the number of the largest, so that the mean over all slices is the mean over
    the roles; likewise the windows. Values and `meta["intensity"]` are kept, with the metadata of the first role.

    Raises:
        ValueError: the number of slices of a role is no divisor of the largest.
    """
    stacks = list(images.values())
    largest = max(map(len, stacks))
    if any(largest % len(one) for one in stacks):
        raise ValueError(f"roles of {[len(one) for one in stacks]} slices; give every volume the same number of slices")
    stack = torch.cat([_repeated(one.as_subclass(torch.Tensor), largest) for one in stacks])
    return MetaTensor(stack, meta=stacks[0].meta) if isinstance(stacks[0], MetaTensor) else stack


def _as_long(features: Mapping[str, torch.Tensor], slices: int) -> dict[str, torch.Tensor]:
    """Repeat teacher features of slices to `slices` slices; vectors of the whole item stay as they are."""
    return {name: _repeated(part, slices) if part.dim() > 1 else part for name, part in features.items()}


def _repeated(bag: Any, slices: int) -> Any:
    return bag.repeat(slices // len(bag), *[1] * (bag.dim() - 1))


class ChannelsToBagd(MapTransform):
    """Turn a stack `[S * C, H, W]` into the bag of three-channel slices `[S, 3, H, W]`.

    Three windows (or colours) of a slice become its channels, a single one is repeated three times. A volume
    `[1, D, H, W]` stays as it is.

    Args:
        keys: keys of the item to transform; missing keys are ignored.
        windows: number C of windows or colours per slice: 1 or 3.

    Raises:
        ValueError: another number of windows.

    Example:
        >>> import torch
        >>> from monai_rd.transforms import ChannelsToBagd
        >>> ChannelsToBagd("image")({"image": torch.rand(5, 64, 64)})["image"].shape
        torch.Size([5, 3, 64, 64])
    """

    def __init__(self, keys: KeysCollection, windows: int = 1) -> None:
        super().__init__(keys, allow_missing_keys=True)
        if windows not in (1, 3):
            raise ValueError(f"windows must be 1 or 3, got {windows}")
        self.windows = windows

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform every key of the item."""
        item = dict(data)
        for key in self.key_iterator(item):
            stack = item[key]
            if stack.ndim == 3:
                item[key] = stack.reshape(-1, self.windows, *stack.shape[1:]).expand(-1, 3, -1, -1).contiguous()
        return item


def bag_collate(items: Sequence[Mapping[str, Any]]) -> Any:
    """Collate items into a batch, as MONAI's `list_data_collate`, also where studies and single images are mixed.

    In a mixed batch the slices (or windows, of volumes) of all bags are repeated to the least common multiple of their
    numbers, which does not change their means. The list of labels of a multi-label item becomes one row of
    `[B, classes]`.

    Args:
        items: items with an `image` each: slices `[S, 3, H, W]` or windows `[S, D, H, W]`.
    """
    sizes = {len(item["image"]) for item in items}
    common, shown = math.lcm(*sizes), [name for name in ("image", TEACHER_IMAGE) if name in items[0]]
    if len(sizes) > 1:
        items = [{**item, **{name: _repeated(item[name], common) for name in shown}} for item in items]
        if TEACHER_FEATURES in items[0]:
            items = [{**item, TEACHER_FEATURES: _as_long(item[TEACHER_FEATURES], common)} for item in items]
    for name in shown:
        if len({type(item[name]) for item in items}) > 1:  # the black image of a `TolerantDataset` is of another type
            items = [{**item, name: item[name].as_subclass(torch.Tensor)} for item in items]
    if isinstance(items[0].get("label"), list):
        items = [{**item, "label": torch.tensor(item["label"])} for item in items]
    return list_data_collate(list(items))

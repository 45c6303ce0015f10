"""A study as a bag of slices, a single image as a bag of one, and a study as a whole for 3D networks.

Between loading and the last step an item is a MONAI 2D image whose channels are slices (times windows),
`[S * C, H, W]`: every MONAI transform of 2D images then treats all slices of a study alike. The last step gives the bag
`[S, C, H, W]`. For a 3D network an item is the volume `[1, D, H, W]` instead, in the same orientation, and stays it.

Orientation is one for all: rows run anterior to posterior, columns from the patient's right to left, slices from
inferior to superior (the radiological view of an axial slice, and the way figures are printed).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from monai.transforms import MapTransform, Orientation

from monai_rd.errors import UnsupportedImageError
from monai_rd.teacher_features import TEACHER_FEATURES
from monai_rd.teacher_image import TEACHER_IMAGE
from monai_rd.transforms.each import EachImaged

__all__ = ["ChannelsToBagd", "SliceStackd", "bag_collate", "luminance"]


class SliceStackd(EachImaged):
    """`[C, X, Y]` image or `[C, X, Y, Z]` volume to a stack of slices `[S, H, W]` in the one orientation.

    Args:
        keys: keys of the item to transform.
        slices: how many slices stand for a volume: spread evenly over it, at the middle of equal parts; a volume of
            fewer slices repeats some. An image gives one. The frames of a picture are its slices.
        colour: whether a slice keeps its colours: RGB slices one after the other, `[S * 3, H, W]`, grey ones three
            times the same. Otherwise colours become their luminance (ITU-R BT.601). An alpha channel is dropped.
        spatial_dims: 3 for the whole volume `[1, D, H, W]` in grey, whatever `slices` says.

    Raises:
        ValueError: slices below 1, other spatial dimensions, colour in 3D, or another shape.
        UnsupportedImageError: an image where a volume is wanted.
    """

    def __init__(self, keys: KeysCollection, slices: int, colour: bool = False, spatial_dims: int = 2) -> None:
        super().__init__(keys)
        if slices < 1:
            raise ValueError(f"slices must be at least 1, got {slices}")
        if spatial_dims not in (2, 3) or (colour and spatial_dims == 3):
            raise ValueError(f"spatial_dims must be 2, or 3 without colour, got {spatial_dims}")
        self.slices, self.colour, self.spatial_dims = slices, colour, spatial_dims
        self._orient = Orientation(axcodes="LPS", labels=(("L", "R"), ("P", "A"), ("I", "S")))

    def _transform(self, image: MetaTensor) -> MetaTensor:
        values = _rgb(image.as_tensor()) if self.colour else luminance(image.as_tensor())
        if image.ndim == 4:
            volume = self._orient(MetaTensor(values, affine=image.affine)).as_tensor()  # to the left, back and top
            if self.spatial_dims == 2:
                depth = volume.shape[-1]
                volume = volume[..., ((np.arange(self.slices) + 0.5) * depth / self.slices).astype(int)]
            stack = volume.permute(3, 0, 2, 1).flatten(0, 1)
        elif image.ndim == 3:
            if self.spatial_dims == 3:
                raise UnsupportedImageError(
                    "a single image was given to a 3D network, which needs volumes (DICOM series, NIfTI); take a 2D "
                    "student and teacher",
                    image.meta.get("series_uid"),
                )
            stack = values.permute(0, 2, 1)
        else:
            raise ValueError(f"a volume [C, X, Y, Z] or an image [C, X, Y] is needed, got {list(image.shape)}")
        known = {key: image.meta[key] for key in ("modality",) if key in image.meta}
        meta = {"intensity": image.meta.get("intensity", "arbitrary"), **known}
        return MetaTensor((stack[None] if self.spatial_dims == 3 else stack).contiguous(), meta=meta)


def luminance(image: torch.Tensor) -> torch.Tensor:
    """Grey `[1, ...]` of a grey, grey-alpha, RGB or RGBA image `[C, ...]`."""
    if image.shape[0] in (1, 2):
        return image[:1]
    weights = image.new_tensor([0.299, 0.587, 0.114]).view(3, *[1] * (image.ndim - 1))
    return (image[:3] * weights).sum(dim=0, keepdim=True)


def _rgb(image: torch.Tensor) -> torch.Tensor:
    """RGB `[3, ...]` of a grey, grey-alpha, RGB or RGBA image `[C, ...]`."""
    return image[:1].expand(3, *image.shape[1:]) if image.shape[0] in (1, 2) else image[:3]


def _as_long(features: Mapping[str, torch.Tensor], slices: int) -> dict[str, torch.Tensor]:
    """Repeat what the teacher made of a single slice; what has no slices, vectors of an item, stays as it is."""
    return {
        name: part.expand(slices, *part.shape[1:]) if part.dim() > 1 and len(part) == 1 else part
        for name, part in features.items()
    }


class ChannelsToBagd(MapTransform):
    """`[S * C, H, W]` to the bag `[S, 3, H, W]`: 3 windows a slice stay channels, a single one is repeated.

    A volume `[1, D, H, W]` stays as it is.

    Args:
        keys: keys of the item to transform; those that it has not are passed over.
        windows: C, how many windows, or colours, a slice has: 1 or 3.

    Raises:
        ValueError: another number of windows.
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
    """MONAI's collate function for items of which some are studies and some single images.

    Studies all have one number of slices; where a batch has both kinds, a single image is repeated to that number,
    which leaves the mean over its slices what it was. Volumes `[1, D, H, W]` are collated as they are. A multi-label
    item's list of labels becomes a row of `[B, classes]`.

    Raises:
        ValueError: bags of several sizes above one.
    """
    sizes = {len(item["image"]) for item in items}
    largest, shown = max(sizes), [name for name in ("image", TEACHER_IMAGE) if name in items[0]]
    if sizes - {1, largest}:
        raise ValueError(f"bags of {sorted(sizes)} slices in one batch; give every volume the same number of slices")
    if len(sizes) > 1:
        items = [{**item, **{name: item[name].expand(largest, -1, -1, -1) for name in shown}} for item in items]
        if TEACHER_FEATURES in items[0]:
            items = [{**item, TEACHER_FEATURES: _as_long(item[TEACHER_FEATURES], largest)} for item in items]
    for name in shown:
        if len({type(item[name]) for item in items}) > 1:  # the black image of a `TolerantDataset` and plain ones
            items = [{**item, name: item[name].as_subclass(torch.Tensor)} for item in items]
    if isinstance(items[0].get("label"), list):
        items = [{**item, "label": torch.tensor(item["label"])} for item in items]
    return list_data_collate(list(items))

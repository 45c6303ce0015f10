"""Base class and building blocks of the augmentations of all modalities.

Augmentations act in the plane of the slices: the windows `[W, D, H, W']` of a volume are treated as the stack
`[W * D, H, W']` of their slices and all slices get the same random change, so 2D and 3D networks of one modality are
trained on the same kind of views.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import get_track_meta, set_track_meta
from monai.transforms import Compose, MapTransform, RandAffined, ScaleIntensityRanged
from monai.utils import convert_to_tensor

__all__ = ["InPlaneAugmentation", "clip", "small_affine"]


class InPlaneAugmentation(Compose):
    """Compose random 2D transforms for stacks `[S * C, H, W]` and windows of volumes `[W, D, H, W']`.

    Outputs are plain tensors of the same shape: recording every transform in a MetaTensor takes as much time as the
    transforms themselves.

    Args:
        keys: keys of the item to transform.
        transforms: the chain, for images with two spatial dimensions.
    """

    def __init__(self, keys: KeysCollection, transforms: list[MapTransform]) -> None:
        super().__init__(transforms)
        self.keys = keys if isinstance(keys, (list, tuple)) else (keys,)

    def __call__(self, data: Mapping[Hashable, Any], *args: Any, **kwargs: Any) -> dict[Hashable, Any]:
        """Transform every key of the item; further arguments are passed on to `Compose`."""
        volumes = {key: data[key].shape[:2] for key in self.keys if data[key].ndim == 4}
        flat = dict(data) | {key: data[key].flatten(0, 1) for key in volumes}
        tracked = get_track_meta()
        set_track_meta(False)
        try:
            found = super().__call__(flat, *args, **kwargs)
        finally:
            set_track_meta(tracked)
        plain = {key: convert_to_tensor(found[key], track_meta=False) for key in self.keys}
        return found | plain | {key: plain[key].unflatten(0, windows) for key, windows in volumes.items()}


def small_affine(
    keys: KeysCollection, degrees: float, zoom: float, shift: float, prob: float = 0.5, padding: str = "border"
) -> RandAffined:
    """Return a random in-plane affine transform (rotation, zoom, shift).

    Args:
        keys: keys of the item to transform.
        degrees: largest rotation in either direction, in degrees.
        zoom: largest relative change of height and of width.
        shift: largest translation along height and along width, in pixels.
        prob: probability that the transform is applied.
        padding: padding outside the image: "border", "zeros" or "reflection".
    """
    return RandAffined(
        keys,
        prob=prob,
        rotate_range=float(torch.deg2rad(torch.tensor(degrees))),
        scale_range=(zoom, zoom),
        translate_range=(shift, shift),
        mode="bilinear",
        padding_mode=padding,
    )


def clip(keys: KeysCollection) -> ScaleIntensityRanged:
    """Return a transform that clips values to [0, 1]."""
    return ScaleIntensityRanged(keys, a_min=0, a_max=1, b_min=0, b_max=1, clip=True)

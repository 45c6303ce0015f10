"""Resizing of images as MONAI's antialiased `Resize` does it, in a fraction of the time.

Along each axis MONAI's result is a Gaussian of the image, followed by linear interpolation. Both are linear and the
axes are independent, so that the whole is one matrix product for each axis, and only what is kept is computed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from monai.data import MetaTensor
from monai.networks.layers import gaussian_1d
from torch import Tensor

from monai_rd.transforms.bag import ResizeEachd

__all__ = ["ResizeImaged"]


class ResizeImaged(ResizeEachd):
    """Resize images `[S * C, H, W]`, antialiased; the images of a study's roles become one stack (`joined`).

    The values are those of MONAI's `Resized(..., mode="bilinear", anti_aliasing=True)` but for rounding, in float32;
    the metadata stay as they are.

    Args:
        keys: keys of the item to transform.
        size: `[H, W]` of the result.

    Example:
        >>> import torch
        >>> from monai_rd.transforms import ResizeImaged
        >>> views = {"pa": torch.rand(1, 100, 90), "lateral": torch.rand(1, 80, 60)}
        >>> ResizeImaged("image", [64, 64])({"image": views})["image"].shape
        torch.Size([2, 64, 64])
    """

    def _transform(self, image: Any) -> Any:
        made = image.as_subclass(Tensor).float()
        sizes = zip((1, 2), made.shape[1:], self.size, strict=True)
        for axis, old, new in sorted(sizes, key=lambda one: one[2] / one[1]):  # the larger reduction first
            if old != new:
                weights = _weights(old, new, made.device)
                made = weights @ made if axis == 1 else made @ weights.T
        return MetaTensor(made, meta=dict(image.meta)) if isinstance(image, MetaTensor) else made


@lru_cache(maxsize=32)  # a training has few sizes, an archive of radiographs many, and theirs take megabytes
def _weights(old: int, new: int, device: torch.device) -> Tensor:
    """Return the weights `[new, old]` of the pixels of one axis; those outside of the image are 0 and missing."""
    kernel = gaussian_1d(torch.tensor(max(old / new - 1, 0) / 2)).double()
    places = ((torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5).clamp(0, old - 1)
    low = places.long()
    part, reach = (places - low)[:, None], torch.arange(len(kernel))
    weights = torch.zeros(new, old + len(kernel) - 1, dtype=torch.float64)
    weights.scatter_add_(1, low[:, None] + reach, (1 - part) * kernel)
    weights.scatter_add_(1, (low + 1).clamp(max=old - 1)[:, None] + reach, part * kernel)
    border = len(kernel) // 2
    return weights[:, border : border + old].float().to(device)

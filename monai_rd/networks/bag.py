"""Bags: slices or windows of a study are folded into the batch axis, and their features are unfolded again."""

from __future__ import annotations

from torch import Tensor

__all__ = ["fold", "unfold"]


def fold(images: Tensor, spatial_dims: int = 2) -> tuple[Tensor, int]:
    """Move the slices or windows of every bag into the batch axis.

    Args:
        images: single images `[B, C, H, W]` or bags of S slices `[B, S, C, H, W]`; 3D: volumes in S windows
            `[B, S, D, H, W]`.
        spatial_dims: 2 or 3.

    Returns:
        Images `[B * S, C, H, W]` or windows `[B * S, 1, D, H, W]`, and S (1 for single images).

    Raises:
        ValueError: a wrong number of dimensions.
    """
    if spatial_dims == 3:
        if images.dim() != 5:
            raise ValueError(f"volumes are [B, windows, D, H, W], got {images.dim()} dimensions")
        return images.flatten(0, 1).unsqueeze(1), images.shape[1]
    if images.dim() == 4:
        return images, 1
    if images.dim() != 5:
        raise ValueError(f"images are [B, C, H, W] or bags [B, S, C, H, W], got {images.dim()} dimensions")
    return images.flatten(0, 1), images.shape[1]


def unfold(features: Tensor, slices: int) -> Tensor:
    """Undo `fold`: reshape features `[B * S, ...]` to `[B, S, ...]`, with `slices` = S."""
    return features.unflatten(0, (-1, slices))

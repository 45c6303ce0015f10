"""Bags of slices: a study `[B, S, C, H, W]` is folded into a batch of images, and features are unfolded again."""

from __future__ import annotations

from torch import Tensor

__all__ = ["fold", "unfold"]


def fold(images: Tensor) -> tuple[Tensor, int]:
    """Move the slices of every bag into the batch axis.

    Args:
        images: single images `[B, C, H, W]` or bags of S slices `[B, S, C, H, W]`.

    Returns:
        Images `[B * S, C, H, W]`, and S (1 for single images).

    Raises:
        ValueError: the input has neither 4 nor 5 dimensions.
    """
    if images.dim() == 4:
        return images, 1
    if images.dim() != 5:
        raise ValueError(f"images are [B, C, H, W] or bags [B, S, C, H, W], got {images.dim()} dimensions")
    return images.flatten(0, 1), images.shape[1]


def unfold(features: Tensor, slices: int) -> Tensor:
    """Undo `fold`: reshape features `[B * S, ...]` of the slices to `[B, S, ...]`, with `slices` = S."""
    return features.unflatten(0, (-1, slices))

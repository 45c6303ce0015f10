"""A study as a bag of slices: `[B, S, C, H, W]` folded into a batch of images and back."""

from __future__ import annotations

from torch import Tensor

__all__ = ["fold", "unfold"]


def fold(images: Tensor) -> tuple[Tensor, int]:
    """Lay the slices of every bag into the batch.

    Args:
        images: single images `[B, C, H, W]` or bags of S slices `[B, S, C, H, W]`.

    Returns:
        Images `[B * S, C, H, W]` and S; a single image is a bag of one.

    Raises:
        ValueError: neither 4 nor 5 dimensions.
    """
    if images.dim() == 4:
        return images, 1
    if images.dim() != 5:
        raise ValueError(f"images are [B, C, H, W] or bags [B, S, C, H, W], got {images.dim()} dimensions")
    return images.flatten(0, 1), images.shape[1]


def unfold(features: Tensor, slices: int) -> Tensor:
    """Give features `[B * S, ...]` of folded slices their bag axis back: `[B, S, ...]`."""
    return features.unflatten(0, (-1, slices))

"""Explaining a student's prediction: Grad-CAM on its last feature map, and the probabilities of single slices.

Selvaraju et al., arXiv 1610.02391: with A_k the channels of a map and y the score of a class, Eq. 1 and 2,
L = ReLU(sum_k mean_positions(dy / dA_k) A_k). A softmax depends on the differences of logits only; for single-label
data y is therefore the class's logit minus the mean of the others, or the heat could vanish because all logits are low.
MONAI's `GradCAM` supports neither bags nor the tokens of a ViT, scales each image separately and leaves its hooks in
the network; on a single image and the same score both give the same map (a test checks that).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from monai_rd.inference.classifier import infer_features
from monai_rd.networks.levels import Level, as_map

if TYPE_CHECKING:
    from monai_rd.networks import Student

__all__ = ["Explanation", "explain", "grad_cam_level"]


class Explanation(NamedTuple):
    """A student's prediction for one item, with its explanation.

    Args:
        probabilities: probability of each class `[classes]`.
        chosen: the most probable class, which `heat` explains.
        heat: heat map `[S, H, W]`, for volumes `[S * D, H, W]`, in [0, 1]: 1 at the item's maximum, 0 where there is no
            evidence for the class. None if the student has no feature map.
        grid: size of the feature map, `(h, w)` or `(d, h, w)`: the true resolution of the heat map.
        slices: probabilities of each slice alone `[S, classes]`; None for volumes.
    """

    probabilities: Tensor
    chosen: int
    heat: Tensor | None
    grid: tuple[int, ...]
    slices: Tensor | None


def grad_cam_level(student: Student, image: Tensor) -> Level | None:
    """Choose the feature map for Grad-CAM: the one whose mean is f_s, else the deepest that the logits depend on.

    The patch tokens of a ViT's last block, for example, are not used if only its class token is read.

    Args:
        student: the student in eval mode.
        image: a batch of one, see `explain`.

    Returns:
        The level; None if the student's feature maps are not known.
    """
    level, levels = student.last_map, student.levels
    if level is not None or not levels:
        return level
    with torch.inference_mode(False), torch.enable_grad():
        features, outputs = _features_and_outputs(student, image, levels)
        score = student.classifier(features.mean(dim=1))[0, 0]
        gradients = torch.autograd.grad(score, outputs, materialize_grads=True)
    maps = [
        as_map(one, level, image.shape[-student.spatial_dims :]) for one, level in zip(gradients, levels, strict=True)
    ]
    reached = [level for level, found in zip(levels, maps, strict=True) if bool(found.any())]
    return reached[-1] if reached else None


def explain(student: Student, image: Tensor, level: Level | None, multi_label: bool = False) -> Explanation:
    """Run a student on one item and explain the most probable class by Grad-CAM.

    Args:
        student: the student in eval mode.
        image: a batch of one: image `[1, 3, H, W]`, bag `[1, S, 3, H, W]` or volume in S windows `[1, S, D, H, W]`.
        level: the result of `grad_cam_level`; None gives no heat map.
        multi_label: whether an image may have any number of classes.

    Raises:
        ValueError: a batch of more than one item.
    """
    if len(image) != 1:
        raise ValueError(f"one item is explained at a time, got a batch of {len(image)}")
    sides = tuple(image.shape[-student.spatial_dims :])
    levels = () if level is None else (level,)
    heat: Tensor | None = None
    grid: tuple[int, ...] = ()
    with torch.inference_mode(False), torch.enable_grad():
        features, outputs = _features_and_outputs(student, image, levels)
        logits = student.logits(features.mean(dim=1))
        chosen = int(logits.argmax())
        score = logits[0, chosen] if multi_label else (logits[0, chosen] * logits.shape[1] - logits.sum())
        for level, output in zip(levels, outputs, strict=True):
            gradient = torch.autograd.grad(score, output)[0]
            activation, gradient = (as_map(one, level, sides) for one in (output.detach(), gradient))
            heat, grid = _heat(activation, gradient, sides), tuple(activation.shape[2:])
    with torch.no_grad():
        found = infer_features(student, features, multi_label)
    return Explanation(found.study[0], chosen, heat, grid, None if found.slices is None else found.slices[0])


def _features_and_outputs(
    student: Student, image: Tensor, levels: Sequence[Level]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return slice features, and the levels' module outputs themselves, as gradients do not reach derived tensors."""
    outputs: dict[str, Tensor] = {}
    handles = [
        student.backbone.get_submodule(level.module).register_forward_hook(
            lambda _, __, output, path=level.module: outputs.__setitem__(path, _first(output))
        )
        for level in levels
    ]
    try:
        features = student.slice_features(image.clone().requires_grad_())  # a frozen student has gradients too
    finally:
        for handle in handles:
            handle.remove()
    return features, tuple(outputs[level.module] for level in levels)


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, (tuple, list)) else output


def _heat(activation: Tensor, gradient: Tensor, sides: tuple[int, ...]) -> Tensor:
    weights = gradient.flatten(2).mean(dim=2).view(*gradient.shape[:2], *[1] * len(sides))
    cam = (weights * activation).sum(dim=1, keepdim=True).relu()
    mode = "bilinear" if len(sides) == 2 else "trilinear"
    heat = F.interpolate(cam.float(), size=sides, mode=mode, align_corners=False)[:, 0]
    heat = heat if len(sides) == 2 else heat.flatten(0, 1)
    return heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny)

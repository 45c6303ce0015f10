"""Where a student looked: Grad-CAM on its last map, and what each slice of a study speaks for.

Selvaraju et al., arXiv 1610.02391: with A_k the channels of a map and z_c the logit of class c, Eq. 1 and 2,
L = ReLU(sum_k mean_positions(dz_c / dA_k) A_k). MONAI's `GradCAM` knows neither bags nor the tokens of a ViT, scales
each image for itself and leaves its hooks in the network; on a single image both give the same map (a test holds that).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from monai_rd.losses import class_probabilities
from monai_rd.networks.bag import fold, unfold
from monai_rd.networks.levels import Level, LevelReader, student_last_map, student_levels

if TYPE_CHECKING:
    from monai_rd.networks import Student

__all__ = ["Explanation", "explain", "grad_cam_level", "slice_probabilities"]


class Explanation(NamedTuple):
    """What a student says of one item, and why.

    Args:
        probabilities: `[classes]`.
        chosen: the class that `heat` is of, the most probable.
        heat: `[S, H, W]`, of volumes `[D, H, W]`: in [0, 1], 1 at the item's strongest place, 0 where nothing spoke
            for the class. None where the student has no map.
        grid: positions of the map `(h, w)`, of volumes `(d, h, w)`: how coarse the heat is.
        slices: probabilities by slice `[S, classes]`; None of volumes.
    """

    probabilities: Tensor
    chosen: int
    heat: Tensor | None
    grid: tuple[int, ...]
    slices: Tensor | None


def grad_cam_level(student: Student) -> Level | None:
    """The map that Grad-CAM is computed on: the one whose mean is f_s, or the deepest; None where there is none."""
    levels = student_levels(student)
    return student_last_map(student) or (levels[-1] if levels else None)


def slice_probabilities(student: Student, features: Tensor, multi_label: bool) -> Tensor:
    """What each slice would be taken for alone `[..., classes]`, from its features `[..., D]`.

    The student averages the features of slices before a linear classifier, so the logits of a study are the mean of
    those of its slices, exactly.
    """
    logits = student.classifier(features)
    return class_probabilities(logits.flatten(0, -2), multi_label).view(logits.shape)


def explain(student: Student, image: Tensor, level: Level | None, multi_label: bool = False) -> Explanation:
    """Run a student on one item and find what spoke for the class it chose.

    Args:
        student: in eval mode.
        image: a batch of one: image `[1, 3, H, W]`, bag `[1, S, 3, H, W]` or volume `[1, 1, D, H, W]`.
        level: of `grad_cam_level`.
        multi_label: an image may have any number of the classes.

    Raises:
        ValueError: not one item.
    """
    if len(image) != 1:
        raise ValueError(f"one item is explained at a time, got a batch of {len(image)}")
    images, slices = fold(image) if student.spatial_dims == 2 else (image, 1)
    levels = [] if level is None else [level]
    with torch.inference_mode(False), torch.enable_grad(), LevelReader(student.backbone, levels) as reader:
        features = student.features(images.clone().requires_grad_())  # a frozen student has gradients too
        maps = reader.take()
        logits = student.classifier(unfold(features, slices).mean(dim=1))
        chosen = int(logits.argmax())
        heat: Tensor | None = None
        grid: tuple[int, ...] = ()
        if maps:
            heat = _heat(maps[0], torch.autograd.grad(logits[0, chosen], maps[0])[0], tuple(images.shape[2:]))
            grid = tuple(maps[0].shape[2:])
    of_slices = slice_probabilities(student, features, multi_label).detach() if student.spatial_dims == 2 else None
    return Explanation(class_probabilities(logits.detach(), multi_label)[0], chosen, heat, grid, of_slices)


def _heat(activation: Tensor, gradient: Tensor, sides: tuple[int, ...]) -> Tensor:
    weights = gradient.flatten(2).mean(dim=2).view(*gradient.shape[:2], *[1] * len(sides))
    cam = (weights * activation.detach()).sum(dim=1, keepdim=True).relu()
    mode = "bilinear" if len(sides) == 2 else "trilinear"
    heat = F.interpolate(cam.float(), size=sides, mode=mode, align_corners=False)[:, 0]
    heat = heat if len(sides) == 2 else heat[0]
    return heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny)

"""Explaining a student's prediction: where it looked, by Grad-CAM or occlusion, and the probabilities of single slices.

Grad-CAM (Selvaraju et al., arXiv 1610.02391): with A_k the channels of the last map and y the score of a class, Eq. 1
and 2, L = ReLU(sum_k mean_positions(dy / dA_k) A_k). A softmax depends on the differences of logits only; for
single-label data y is therefore the class's logit minus the mean of the others, or the heat could vanish because all
logits are low. MONAI's `GradCAM` supports neither bags nor the tokens of a ViT, scales each image separately and leaves
its hooks in the network; on a single image and the same score both give the same map (a test checks that).

A map of fewer than 4 x 4 positions points nowhere: of 64 pixels a ResNet18 leaves 2 x 2. There, and where no map is
known, patches of the image are covered by its mean colour one by one, and the heat is the fall of y (occlusion, Zeiler
and Fergus, arXiv 1311.2901). `benchmarks/pointing.py` compares both on phantoms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from monai_rd.inference.classifier import infer_features
from monai_rd.networks.levels import Level, as_map

if TYPE_CHECKING:
    from monai_rd.networks import Student

__all__ = ["COARSEST", "METHODS", "Explanation", "explain", "grad_cam_level", "occlusion"]

COARSEST = 4  # positions a side of a map that is shown
POSITIONS = {2: 9, 3: 5}  # of occlusion a side, by dimensions; a patch is a quarter of the image wide
METHODS = {"Grad-CAM": "Grad-CAM, arXiv 1610.02391", "occlusion": "occlusion: where covering a patch hurts it most"}
_AT_ONCE = {2: 32, 3: 4}  # covered images in a batch, by dimensions
_MODES = {2: "bilinear", 3: "trilinear"}


class Explanation(NamedTuple):
    """A student's prediction for one item, with its explanation.

    Args:
        probabilities: probability of each class `[classes]`.
        chosen: the most probable class, which `heat` explains.
        place: the slice with the most evidence for it, among the S slices of a bag, or the S * D of a volume's windows:
            that with the highest probability, of a volume that with the most heat among those that show anything.
        heat: heat map `[H, W]` of this slice in [0, 1]: 1 at its maximum, 0 where there is no evidence for the class.
        method: how `heat` was made, one of `METHODS`.
        grid: positions of the map, `(h, w)` or `(d, h, w)`: the true resolution of the heat map.
        slices: probabilities of each slice alone `[S, classes]`; None for volumes.
        heat_by_slice: of volumes the mean heat of each slice `[S * D]`, 1 at its maximum; None for bags.
        heats: heat map of every slice `[S, H, W]`, of a volume `[S * D, H, W]`, all on one scale: 1 at the maximum of
            all; None unless asked for.
    """

    probabilities: Tensor
    chosen: int
    place: int
    heat: Tensor
    method: str
    grid: tuple[int, ...]
    slices: Tensor | None
    heat_by_slice: Tensor | None
    heats: Tensor | None = None


def grad_cam_level(student: Student, image: Tensor) -> Level | None:
    """Choose the feature map for Grad-CAM: the one whose mean is f_s, else the deepest that the logits depend on.

    The patch tokens of a ViT's last block, for example, are not used if only its class token is read.

    Args:
        student: the student in eval mode.
        image: a batch of one, see `explain`.

    Returns:
        The level; None if the student's feature maps are not known, or that one has fewer than 4 x 4 positions.
    """
    levels = student.levels if student.last_map is None else (student.last_map,)
    sides = tuple(image.shape[-student.spatial_dims :])
    with torch.inference_mode(False), torch.enable_grad():
        features, outputs = _features_and_outputs(student, image, levels)
        score = student.classifier(features.mean(dim=1))[0, 0]
        gradients = torch.autograd.grad(score, outputs, materialize_grads=True) if levels else ()
    maps = [as_map(one, level, sides) for one, level in zip(gradients, levels, strict=True)]
    known = student.last_map is not None
    reached = [(level, found) for level, found in zip(levels, maps, strict=True) if known or bool(found.any())]
    return reached[-1][0] if reached and min(reached[-1][1].shape[-2:]) >= COARSEST else None


def explain(
    student: Student,
    image: Tensor,
    level: Level | None,
    multi_label: bool = False,
    every: bool = False,
    between: Callable[[], None] = lambda: None,
) -> Explanation:
    """Run a student on one item and explain the most probable class.

    Args:
        student: the student in eval mode.
        image: a batch of one: image `[1, 3, H, W]`, bag `[1, S, 3, H, W]` or volume in S windows `[1, S, D, H, W]`.
        level: the map for Grad-CAM, see `grad_cam_level`; None for occlusion.
        multi_label: whether an image may have any number of classes.
        every: whether the heat maps of all slices are wanted, and not only of one; occlusion takes as much longer.
        between: called before each step of occlusion, which may take minutes of volumes; may raise to end it.

    Raises:
        ValueError: a batch of more than one item.
    """
    if len(image) != 1:
        raise ValueError(f"one item is explained at a time, got a batch of {len(image)}")
    sides = tuple(image.shape[-student.spatial_dims :])
    levels = () if level is None else (level,)
    with torch.inference_mode(False), torch.enable_grad():
        features, outputs = _features_and_outputs(student, image, levels)
        logits = student.logits(features.mean(dim=1))
        chosen = int(logits.argmax())
        gradients = torch.autograd.grad(_score(logits, chosen, multi_label)[0], outputs) if levels else ()
    with torch.no_grad():
        found = infer_features(student, features, multi_label)
    slices = None if found.slices is None else found.slices[0]
    parts = image if image.dim() == 4 else image[0]  # slices [S, 3, H, W] or windows [S, D, H, W]
    shown = None if slices is None else int(slices[:, chosen].argmax())
    first, end = (0, len(parts)) if every or shown is None else (shown, shown + 1)  # of the parts with maps
    if level is None:

        def of_class(covered: Tensor) -> Tensor:
            return _score(student.logits(student.slice_features(covered[:, None]).mean(dim=1)), chosen, multi_label)

        with torch.inference_mode():
            maps = [occlusion(of_class, part, len(sides), between) for part in parts[first:end]]
    else:
        activation, gradient = (as_map(one, level, sides) for one in (outputs[0].detach(), gradients[0]))
        weights = gradient.flatten(2).mean(dim=2).view(*gradient.shape[:2], *[1] * len(sides))
        maps = list((weights * activation).sum(dim=1).relu())[first:end]
    heat = F.interpolate(torch.stack(maps)[:, None].float(), size=sides, mode=_MODES[len(sides)])[:, 0]
    by_slice = None
    if shown is None:
        heat, all_slices = heat.flatten(0, 1), parts.flatten(0, 1).to(heat.device)
        by_slice = heat.mean(dim=(1, 2))
        empty = all_slices.amax(dim=(1, 2)) == all_slices.amin(dim=(1, 2))
        shown, by_slice = int(by_slice.masked_fill(empty, -1).argmax()), _to_one(by_slice)
    own, grid = _to_one(heat[shown - first]), tuple(maps[0].shape)
    method, heats = "occlusion" if level is None else "Grad-CAM", _to_one(heat) if every else None
    return Explanation(found.study[0], chosen, shown, own, method, grid, slices, by_slice, heats)


def occlusion(
    score: Callable[[Tensor], Tensor], image: Tensor, dims: int, between: Callable[[], None] = lambda: None
) -> Tensor:
    """Return how much a score falls where a patch of an image is covered by the image's mean, at least 0.

    Args:
        score: of a batch of images `[N, *image.shape]`, gives `[N]`.
        image: a slice `[3, H, W]` or a volume `[D, H, W]`.
        dims: number of its spatial dimensions, the last ones.
        between: see `explain`.

    Returns:
        A map of 9 x 9 positions of a slice, 5 x 5 x 5 of a volume, from border to border.
    """
    sides, count = image.shape[-dims:], POSITIONS[dims]
    mean = image.mean(dim=tuple(range(-dims, 0)), keepdim=True)

    def covered(position: tuple[int, ...]) -> Tensor:
        centres = [(step + 0.5) * side / count for step, side in zip(position, sides, strict=True)]
        patch: list[Any] = [
            slice(max(round(centre - side / 8), 0), round(centre + side / 8))
            for centre, side in zip(centres, sides, strict=True)
        ]
        made = image.clone()
        made[(..., *patch)] = mean
        return made

    positions, whole, falls = list(product(range(count), repeat=dims)), score(image[None]), []
    for first in range(0, len(positions), _AT_ONCE[dims]):
        between()
        falls.append(whole - score(torch.stack([covered(one) for one in positions[first : first + _AT_ONCE[dims]]])))
    return torch.cat(falls).relu().view([count] * dims)


def _score(logits: Tensor, chosen: int, multi_label: bool) -> Tensor:
    """Return the score `[B]` of a class; for single-label data its logit against the mean of the others, scaled."""
    return logits[:, chosen] if multi_label else logits[:, chosen] * logits.shape[1] - logits.sum(dim=1)


def _to_one(heat: Tensor) -> Tensor:
    return heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny)


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

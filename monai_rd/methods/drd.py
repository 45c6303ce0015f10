r"""Deep Reprogramming Distillation (DRD), arXiv 2605.04447: RD at every stage of the student.

Second-hand: only the paper's abstract and a reader's note on the rest were read. Known from the note: a projector of
three convolutions for each of N coarse stages; the reprogrammed map is fed into the student's next stage, which gives
"hybrid" logits; and the terms of the loss, with $\alpha$ and $\beta$ falling linearly from 1. What the note leaves open
was decided here and is marked below as ours.

With the student $F_s = h_i \circ l_i$ cut after its stage $i$, and the teacher's map $T_i$ of the nearest stride,

$$r_i = \phi_i(T_i),\quad z_i = g(h_i(r_i))$$
$$L = \mathrm{CE}(y, z_s) + \alpha \sum_i \mathrm{CE}(y, z_i) + \beta \sum_i \mathrm{KL}(z_i \| z_s)
+ \sum_i L_\mathrm{CKA}(r_i, l_i(x))$$
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from monai_rd.losses import CKALoss, Estimator, KLDistillationLoss
from monai_rd.methods.base import Method, Step, gather_batch, linear
from monai_rd.methods.maps import average_pool, convolution
from monai_rd.networks import FrozenFoundationModel, Level, Reads, Student
from monai_rd.networks.levels import pair_levels
from monai_rd.networks.reprogramming import conv_norm

__all__ = ["DeepReprogrammingDistillation"]


class _Projector(nn.Module):
    """phi_i: maps a teacher's feature map to the channels, size and value range (signed or not) of a student's map."""

    def __init__(self, teacher: Level, student: Level, width: int, dims: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *conv_norm(teacher.channels, width, 1, dims),
            *conv_norm(width, width, 3, dims),
            convolution(width, student.channels, 1, dims),
        )
        self.last = nn.Identity() if student.signed else nn.ReLU()
        self.mode = "bilinear" if dims == 2 else "trilinear"

    def forward(self, maps: Tensor, sides: Sequence[int]) -> Tensor:
        smaller = [min(pair) for pair in zip(maps.shape[2:], sides, strict=True)]
        made = self.layers(average_pool(maps, smaller))
        if smaller != list(sides):
            made = F.interpolate(made, size=list(sides), mode=self.mode, align_corners=False)
        return self.last(made)


def _as_output(maps: Tensor, level: Level, output: Tensor) -> Tensor:
    """Convert maps `[N, C, ...]` to the layout of `output`; always a copy, as later layers may write to it in place."""
    if level.layout == "channels last":
        return maps.movedim(1, -1).clone()
    if level.layout == "tokens":
        return torch.cat([output[:, : level.prefix], maps.flatten(2).transpose(1, 2)], dim=1)
    return maps.clone()


@contextmanager
def _injected(backbone: nn.Module, level: Level, replacement: Tensor) -> Iterator[None]:
    """Replace the output of a level's module while a backbone runs.

    The layers before it run in eval mode and without gradient, as their result is not used: they change no statistics
    and draw no random numbers. The layers after it run as in the student's own forward pass, with gradient and batch
    statistics, but BatchNorm's running statistics, which the deployed student uses, are not updated.
    """
    modes = {one: one.training for one in backbone.modules()}
    tracked = {one: one.track_running_stats for one in modes if isinstance(one, _BatchNorm)}

    def replace(_: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        torch.set_grad_enabled(True)
        for one, mode in modes.items():
            one.training = mode
        return _as_output(replacement, level, output)

    handle = backbone.get_submodule(level.module).register_forward_hook(replace)
    try:
        backbone.eval()
        for norm in tracked:
            norm.track_running_stats = False
        with torch.no_grad():  # on exit it restores the grad mode that `replace` changed
            yield
    finally:
        handle.remove()
        for one, mode in modes.items():
            one.training = mode
        for norm, tracks in tracked.items():
            norm.track_running_stats = tracks


class DeepReprogrammingDistillation(Method):
    """Deep reprogramming distillation (DRD), with one stage for each feature map of the student.

    The student's layers after a stage are applied by running the student again with that map replaced, so any student
    with known maps can be used. Each stage costs one more forward pass of the student in training (without gradient up
    to its map) and nothing at inference. The gradient of a hybrid's cross entropy goes into the projector, the stages
    after it and g.

    Ours, where the note is silent: the projectors' width and layers (1x1, 3x3, 1x1 convolutions, BatchNorm and ReLU
    after the first two, ReLU after the last if the student's map has no negative values); maps are resized to the
    student's map size by average pooling or linear interpolation; CKA compares means over positions and slices, as in
    RD, with the constant weight 1; KL has T = 1 and gradient to both sides, as in RD.

    Args:
        alpha: weight of the hybrids' cross entropy in the first and in the last epoch, linear in between.
        beta: weight of KL in the first and in the last epoch, linear in between.
        cka: weight of CKA.
        temperature: temperature T of KL.
        estimator: CKA's estimator, "biased" or "unbiased".
        width: number of channels inside the projectors.

    Raises:
        ValueError: a network whose feature maps cannot be read, or an invalid value for `CKALoss` or
            `KLDistillationLoss`.
    """

    def __init__(
        self,
        student: Student,
        teacher: FrozenFoundationModel,
        labels: Tensor,
        *,
        alpha: tuple[float, float] = (1.0, 0.0),
        beta: tuple[float, float] = (1.0, 0.0),
        cka: float = 1.0,
        temperature: float = 1.0,
        estimator: Estimator = "biased",
        width: int = 256,
    ) -> None:
        super().__init__(student, teacher, labels)
        pairs = pair_levels(student.levels, teacher.levels)
        self.student_levels, theirs = zip(*pairs, strict=True)
        self.reads = Reads(levels=theirs)
        self.projectors = nn.ModuleList(_Projector(other, mine, width, self.spatial_dims) for mine, other in pairs)
        self.kl, self.cka = KLDistillationLoss(temperature, self.multi_label), CKALoss(estimator)
        self.alpha, self.beta, self.cka_weight = alpha, beta, cka

    def weights(self, progress: float) -> dict[str, float]:
        """Return alpha and beta, interpolated linearly, and the weight of CKA."""
        alpha, beta = linear(self.alpha, progress), linear(self.beta, progress)
        return {"hybrid_ce": alpha, "kl": beta, "cka": self.cka_weight}

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the terms `hybrid_ce`, `kl` and `cka`, each summed over the stages."""
        batch = len(step.student.logits)
        terms: dict[str, list[Tensor]] = {"hybrid_ce": [], "kl": [], "cka": []}
        for level, mine, wanted, projector in zip(
            self.student_levels, step.student.maps, step.teacher_features.maps, self.projectors, strict=True
        ):
            weight = next(projector.parameters())
            reprogrammed = projector(wanted.to(weight.dtype), mine.shape[2:])
            with _injected(step.network.backbone, level, reprogrammed):
                hybrid = step.network(step.student.image)
            terms["hybrid_ce"].append(step.criterion(hybrid, step.target))
            terms["kl"].append(self.kl(step.student.logits, hybrid))
            terms["cka"].append(self.cka(*(gather_batch(_pooled(one, batch)) for one in (mine, reprogrammed))))
        return {name: torch.stack(values).sum() for name, values in terms.items()}


def _pooled(maps: Tensor, batch: int) -> Tensor:
    """Average over positions and slices in float32: `[B * S, C, ...]` to `[B, C]`."""
    return maps.float().flatten(2).mean(dim=2).unflatten(0, (batch, -1)).mean(dim=1)

r"""Knowledge distillation via N-to-one representation matching (NORM), arXiv 2305.13803.

Two linear layers are added after the student's last map $S$: one expands it to N times the teacher's channels, the
other contracts it again, with a residual connection. Each of the N parts of the expanded map learns the teacher's
map $T$:

$$E = \mathrm{BN}(W_e S),\quad S' = S + \mathrm{BN}(W_c E),\quad
L_\mathrm{NORM} = \sum_{n=1}^{N} \mathrm{MSE}(E_n, T)$$

The block is linear, and so are the mean over positions and slices and the classifier $g(f) = Wf + b$ after it. So the
paper merges the trained block into $g$, at no cost at inference: with $S' = (I + A) S + c$,

$$W' = W (I + A),\qquad b' = b + W c$$
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.methods.base import Method, Step
from monai_rd.methods.maps import average_pool, fold_slices, last_student_map, teacher_map_channels
from monai_rd.networks import FrozenFoundationModel, Level, Reads, Student
from monai_rd.networks.reprogramming import conv_norm

__all__ = ["NToOneMatching"]

_SCHEDULE = ((10 / 240, 0.1), (20 / 240, 0.5), (180 / 240, 1.0), (210 / 240, 0.5))  # factor up to this progress


class _WithBlock(nn.Module):
    """A backbone with NORM's block between its last map and the pooling.

    The features are the mean of that map, so those of $S'$ are the backbone's own features plus the mean of what the
    block adds. The backbone itself is not modified.

    Args:
        network: the student's own backbone, from images to features `[B, C]`.
        level: its last map.
        wide: number of channels of E.
        dims: number of spatial dimensions, 2 or 3.
    """

    def __init__(self, network: nn.Module, level: Level, wide: int, dims: int) -> None:
        super().__init__()
        width = level.channels
        self.network = network
        self.expand = conv_norm(width, wide, 1, dims, relu=False)
        self.contract = conv_norm(wide, width, 1, dims, relu=False)
        self._map: Tensor | None = None
        network.get_submodule(level.module).register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._map = output

    def forward(self, image: Tensor) -> Tensor:
        pooled = self.network(image)
        last, self._map = self._map, None  # if a module runs several times, the last output is used
        assert last is not None
        return pooled + self.contract(self.expand(last)).flatten(2).mean(dim=2)


def _affine(layer: nn.Sequential) -> tuple[Tensor, Tensor, Tensor]:
    """Return a 1x1 convolution with its BatchNorm in eval mode as scale * (weight @ x) + shift, in float64."""
    convolved: Any = layer[0]
    norm: Any = layer[1]
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return convolved.weight.double().flatten(1), scale, norm.bias.double() - norm.running_mean.double() * scale


class NToOneMatching(Method):
    """NORM: `prepare` adds the block to the student, `deployable` merges it into the classifier.

    The student that is trained, validated and saved in `last.pt` has the block; `model.pt` has the plain student with
    the same logits, up to rounding. The method itself has no trainable parts. The reference code does not merge: with
    N = 8 and a ResNet-50 teacher it leaves 17 M parameters in a ResNet-18 that has 11 M.

    If the teacher's map is larger, it is max-pooled as in the reference code's branch for CIFAR. If the student's is
    larger, E is average-pooled; the reference max-pools it, in its branch for ImageNet, which also sums over all maps
    given by both sides. The teacher's map is its tap (its output features), so stored features can be used. For bags,
    each slice counts as one image.

    The reference code also normalises all logits over the classes and multiplies them by 2.5 before cross entropy, and
    weights cross entropy by 1/16 to 1/2 on CIFAR and by 1/8 for a MobileNet on ImageNet; neither is done here. Its
    schedule for the term is an option. Without that recipe NORM is fragile: RD's Table 3 has it as low as 54.8.

    Args:
        parts: N.
        weight: weight of the term.
        schedule: multiply the weight by 0.1, 0.5, 1, 0.5 and 0.1 up to 10/240, 20/240, 180/240, 210/240 and the end of
            the training, as the reference code does.

    Raises:
        ValueError: fewer than 1 part, a student whose features are not the mean of a map, or a teacher that gives
            vectors.
    """

    def __init__(
        self,
        student: Student,
        teacher: FrozenFoundationModel,
        labels: Tensor,
        *,
        parts: int = 8,
        weight: float = 1.0,
        schedule: bool = False,
    ) -> None:
        super().__init__(student, teacher, labels)
        if parts < 1:
            raise ValueError(f"parts must be at least 1, got {parts}")
        channels, self.level = teacher_map_channels(teacher, "norm"), last_student_map(student, "norm")
        self.student_levels = (Level("expand", parts * channels, self.level.stride, 1.0, signed=True),)
        self.reads = Reads(tap=True)
        self.parts, self.weight, self.schedule = parts, weight, schedule

    def prepare(self, student: Student) -> Student:
        """Add the block after the student's last map."""
        student.backbone = _WithBlock(student.backbone, self.level, self.student_levels[0].channels, self.spatial_dims)
        student.stages = [f"network.{path}" for path in student.stages]
        return student

    @torch.no_grad()
    def deployable(self, student: Student) -> dict[str, Tensor]:
        """Return the plain student's state dict, with the block (in eval mode) merged into the classifier."""
        block, classifier = student.backbone, student.classifier
        assert isinstance(block, _WithBlock)
        widen, scale, shift = _affine(block.expand)
        narrow, back_scale, back_shift = _affine(block.contract)
        weight = classifier.weight.double()
        through = weight * back_scale @ narrow  # [classes, N * C]: small products only
        bias = classifier.bias.double() + weight @ back_shift + through @ shift
        added = ("backbone.expand.", "backbone.contract.")
        state = {
            key.replace("backbone.network.", "backbone.", 1): value
            for key, value in student.state_dict().items()
            if not key.startswith(added)
        }
        folded = {"weight": weight + through * scale @ widen, "bias": bias}
        return state | {f"classifier.{name}": value.to(classifier.weight.dtype) for name, value in folded.items()}

    def weights(self, progress: float) -> dict[str, float]:
        """Return the weight, multiplied by the reference code's schedule if `schedule` is set."""
        factor = next((factor for end, factor in _SCHEDULE if progress < end), 0.1) if self.schedule else 1.0
        return {"norm": self.weight * factor}

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the term `norm`, the sum of the N parts' mean squared errors."""
        (expanded,), wanted = step.student.maps, fold_slices(step.teacher_features.tap, self.spatial_dims)
        with torch.autocast(expanded.device.type, enabled=False):
            sides = [min(pair) for pair in zip(expanded.shape[2:], wanted.shape[2:], strict=True)]
            expanded, wanted = average_pool(expanded.float(), sides), wanted.float()
            if list(wanted.shape[2:]) != sides:
                pool = F.adaptive_max_pool2d if self.spatial_dims == 2 else F.adaptive_max_pool3d
                wanted = pool(wanted, sides)
            parts = expanded.unflatten(1, (self.parts, -1))
            return {"norm": (parts - wanted.unsqueeze(1)).square().mean() * self.parts}

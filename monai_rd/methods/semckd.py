r"""Semantic calibration for cross-layer distillation (SemCKD), arXiv 2012.03236.

An attention learns, for each sample, which of the teacher's maps teaches which of the student's maps. With $G_i$ and
$H_j$ the $B \times B$ Gram matrices of a batch's flattened maps $S_i$ of the student and $T_j$ of the teacher (one row
per sample), and small networks $q_i$, $k_j$ whose outputs have length 1,

$$a_{bij} = \mathrm{softmax}_j\bigl(q_i(G_i[b]) \cdot k_j(H_j[b])\bigr),\qquad
L_\mathrm{SemCKD} = \frac{1}{B\,|S|} \sum_{b,i,j} a_{bij}\,\mathrm{MSE}\bigl(T_j[b], P_{ij}(S_i[b])\bigr)$$
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.methods.base import Method, Step
from monai_rd.methods.maps import convolution, shrink_to_common
from monai_rd.networks import FrozenFoundationModel, Reads, Student
from monai_rd.networks.levels import some_levels
from monai_rd.networks.reprogramming import conv_norm

__all__ = ["SemanticCalibration"]


def _projector(inputs: int, middle: int, outputs: int, dims: int) -> nn.Sequential:
    return nn.Sequential(
        *conv_norm(inputs, middle, 1, dims),
        *conv_norm(middle, middle, 3, dims),
        convolution(middle, outputs, 1, dims),
    )


def _embedding(batch_size: int) -> nn.Sequential:
    """Return the network from a row of a Gram matrix `[B]` to a query or key `[B / 4]`."""
    return nn.Sequential(
        nn.Linear(batch_size, batch_size // 2), nn.ReLU(inplace=True), nn.Linear(batch_size // 2, batch_size // 4)
    )


class SemanticCalibration(Method):
    """SemCKD between all maps of the student and all maps of the teacher.

    Every pair of maps has a projector of 1x1, 3x3 and 1x1 convolutions. In the paper its hidden layers are twice as
    wide as the teacher's map, which for networks for 224 pixels means hundreds of millions of parameters: with a
    ResNet-18 student, 854 M for a ResNet-50 teacher, 374 M for a DenseNet-121, 365 M for a ViT-B. Here they are a
    quarter of the teacher's width (19, 9 and 8 M); `width_factor=2` gives the paper's.

    The authors add KD in all of their experiments (their script has `-r 1 -a 1 -b 400`, the weights of cross entropy,
    KD and SemCKD). Here it is added to cross entropy alone, like every method, so the teacher needs no logits.

    The attention depends on the position of an item in its batch, so every batch must have the size given here
    (`drop_last`), also after resuming. Under DDP each process has the Gram matrices of its own batch. A bag of slices
    is one sample: its row covers all its slices, and its error is their mean. The attention passes gradients to the
    student, as the squared error does.

    Args:
        batch_size: B of every training batch (in one process), at least 8; queries and keys have B / 4 numbers.
        width_factor: width of a projector's hidden layers as a multiple of the teacher's channels.
        weight: weight of the term; the paper has 50 for images of 224 pixels, 400 for those of 32.

    Raises:
        ValueError: no batch size or one below 8, a factor not above 0, or a network whose feature maps cannot be read.
    """

    def __init__(
        self,
        student: Student,
        teacher: FrozenFoundationModel,
        labels: Tensor,
        *,
        batch_size: int | None = None,
        width_factor: float = 0.25,
        weight: float = 50.0,
    ) -> None:
        super().__init__(student, teacher, labels)
        self.student_levels, teaching = tuple(some_levels(student.levels)), tuple(some_levels(teacher.levels))
        self.reads, self.constant_weights = Reads(levels=teaching), {"semckd": weight}
        if batch_size is None:
            raise ValueError(
                "the method 'semckd' has layers as wide as a batch: give build_method the batch_size of the training"
            )
        if batch_size < 8:
            raise ValueError(f"the method 'semckd' needs batches of at least 8, got batch_size {batch_size}")
        if not width_factor > 0:
            raise ValueError(f"width_factor must be above 0, got {width_factor}")
        self.projectors = nn.ModuleList(
            nn.ModuleList(
                _projector(
                    one.channels, max(round(width_factor * other.channels), 1), other.channels, self.spatial_dims
                )
                for other in teaching
            )
            for one in self.student_levels
        )
        self.queries = nn.ModuleList(_embedding(batch_size) for _ in self.student_levels)
        self.keys = nn.ModuleList(_embedding(batch_size) for _ in teaching)
        self.batch_size = batch_size

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the term `semckd`.

        Raises:
            ValueError: the batch size is not the one that the method was built for.
        """
        batch = len(step.student.logits)
        if batch != self.batch_size:
            raise ValueError(
                f"the method 'semckd' was built for batches of {self.batch_size}, got {batch}: set its option "
                "batch_size to that of the training, and leave incomplete batches out (drop_last)"
            )
        teaching = step.teacher_features.maps
        errors = []
        for maps, row in zip(step.student.maps, self.projectors, strict=True):
            for wanted, projector in zip(teaching, row, strict=True):  # type: ignore[call-overload]  # a ModuleList
                mine, theirs = shrink_to_common(maps, wanted)
                projected = projector(mine)
                with torch.autocast(projected.device.type, enabled=False):
                    squares = (projected.float() - theirs.float()).square()
                    errors.append(squares.reshape(batch, -1).mean(dim=1))
        with torch.autocast(step.student.logits.device.type, enabled=False):
            attention = self._attention(step.student.maps, teaching)
            return {
                "semckd": (attention.flatten(1) * torch.stack(errors, dim=1)).sum(dim=1).mean() / len(step.student.maps)
            }

    def _attention(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Attention of the S student maps over the T teacher maps `[B, S, T]`; it sums to 1 over T."""
        queries, keys = (
            torch.stack(
                [F.normalize(embed(self._gram(one)), dim=1) for one, embed in zip(maps, embeddings, strict=True)], dim=1
            )
            for maps, embeddings in ((student, self.queries), (teacher, self.keys))
        )
        return (queries @ keys.transpose(1, 2)).softmax(dim=2)

    def _gram(self, maps: Tensor) -> Tensor:
        """Gram matrix of a batch's maps `[B, B]`, in float32 because the sums exceed float16's largest number."""
        flat = maps.float().reshape(self.batch_size, -1)
        return flat @ flat.T

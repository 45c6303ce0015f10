r"""Semantic calibration for cross-layer distillation (SemCKD), arXiv 2012.03236.

Which of the teacher's maps teaches which of the student's is learnt, for each sample. With $G_i$ and $H_j$ the
$B \times B$ Gram matrices of a batch's flattened maps $S_i$ of the student and $T_j$ of the teacher, one row a sample,
and small networks $q_i$, $k_j$ whose outputs have length 1,

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
    """A row of a Gram matrix to a query or key."""
    return nn.Sequential(
        nn.Linear(batch_size, batch_size // 2), nn.ReLU(inplace=True), nn.Linear(batch_size // 2, batch_size // 4)
    )


class SemanticCalibration(Method):
    """SemCKD between all maps of the student and all of the teacher.

    There is a projector for every pair of maps, 1x1 - 3x3 - 1x1. The paper makes the middle twice as wide as the
    teacher's map, which at the widths of networks for 224 pixels is hundreds of millions of parameters: to ResNet-18
    854 M from a ResNet-50, 374 M from a DenseNet-121, 365 M from a ViT-B. Here the middle is a quarter of the teacher's
    width (19, 9 and 8 M); `width_factor=2` gives the paper's.

    The authors train with KD beside it in all of their experiments (their script has `-r 1 -a 1 -b 400`, the weights of
    cross entropy, KD and SemCKD). Here it stands beside cross entropy alone, as every method does, and its teacher
    needs no logits.

    The place of an item in its batch is an input of the attention, so every batch must have the size given here
    (`drop_last`), also after a resume. Under DDP each process has the Gram matrices of its own batch. A bag of slices
    is one sample: its row is over all its slices, its error their mean. The attention takes gradients into the student,
    as the squared error does.

    Args:
        batch_size: B of every training batch (of one process), at least 8; queries and keys have B / 4 numbers.
        width_factor: width of a projector's middle as a multiple of the teacher's channels.
        weight: of the term; 50 is the paper's for images of 224 pixels, 400 for those of 32.

    Raises:
        ValueError: no batch size or one below 8, a factor not above 0, or a network without maps that could be read.
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
        """The term `semckd`.

        Raises:
            ValueError: a batch of another size than the method was built for.
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
        """How much each of the student's maps is taught by each of the teacher's: `[B, S, T]`, over T a sum of 1."""
        queries, keys = (
            torch.stack(
                [F.normalize(embed(self._gram(one)), dim=1) for one, embed in zip(maps, embeddings, strict=True)], dim=1
            )
            for maps, embeddings in ((student, self.queries), (teacher, self.keys))
        )
        return (queries @ keys.transpose(1, 2)).softmax(dim=2)

    def _gram(self, maps: Tensor) -> Tensor:
        """Inner products of a batch's maps `[B, B]`, in float32: their sums pass float16's largest number."""
        flat = maps.float().reshape(self.batch_size, -1)
        return flat @ flat.T

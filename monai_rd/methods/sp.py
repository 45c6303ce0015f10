r"""Similarity-preserving distillation: Tung & Mori, ICCV 2019, arXiv 1907.09682.

With the row-normalised similarities $G$ of `losses.similarity`, the paper's loss for a batch of $n$ is
$\lVert G_t - G_s \rVert_F^2 / n^2$. As rows have length 1, this is at most $2 / n$ if no feature is negative: the
larger the batch, the weaker the method. Here the loss is

$$L_\mathrm{SP} = \frac{1}{64\,n}\,\lVert G_t - G_s \rVert_F^2$$

which equals the paper's for batches of 64, the size for which the weight 3000 is known to work (RepDistiller), and is
as strong for any other batch size and any number of processes.
"""

from __future__ import annotations

from torch import Tensor

from monai_rd.losses.similarity import similarity_loss
from monai_rd.methods.base import Method, Step, gather_batch
from monai_rd.networks import FrozenFoundationModel, Reads, Student

__all__ = ["SimilarityPreserving"]

_BATCH = 64  # batch size for which the weight 3000 was chosen


class SimilarityPreserving(Method):
    """SP between the student's last map (or its pooled features if it has no such map) and the teacher's tap.

    A row is one item: the slices of a study, like the positions of a map, are concatenated in it. So the loss has the
    same scale for images and studies, and slices are compared with the slices at the same place. The batch is the
    global batch of all processes. The method has no trainable parts.

    With the weight 3000 the term is at most 94 if no feature is negative.

    Args:
        weight: weight of the term, constant over the training.
    """

    def __init__(
        self, student: Student, teacher: FrozenFoundationModel, labels: Tensor, *, weight: float = 3000.0
    ) -> None:
        super().__init__(student, teacher, labels)
        level = student.last_map
        self.student_levels = () if level is None else (level,)
        self.reads, self.constant_weights = Reads(tap=True), {"sp": weight}

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the term `sp`, computed from the map `[B * S, C, h, w]` and the teacher's tap."""
        ours = step.student.maps[0] if step.student.maps else step.student.pooled
        mine, theirs = (
            gather_batch(features.reshape(len(step.student.pooled), -1))
            for features in (ours, step.teacher_features.tap)
        )
        return {"sp": similarity_loss(mine, theirs) * len(mine) / _BATCH}

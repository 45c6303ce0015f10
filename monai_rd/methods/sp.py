r"""Similarity-preserving distillation: Tung & Mori, ICCV 2019, arXiv 1907.09682.

With the row-normalised similarities $G$ of `losses.similarity`, the paper's loss of a batch of $n$ is
$\lVert G_t - G_s \rVert_F^2 / n^2$. As rows have length 1 that is at most $2 / n$ where no feature is negative: the
larger the batch, the weaker the method. Here it is

$$L_\mathrm{SP} = \frac{1}{64\,n}\,\lVert G_t - G_s \rVert_F^2$$

which is the paper's in batches of 64, those that the weight 3000 is known to suit (RepDistiller's), and as strong as
there in any other batch and over any number of processes.
"""

from __future__ import annotations

from torch import Tensor

from monai_rd.losses.similarity import similarity_loss
from monai_rd.methods.base import Method, Step, gather_batch
from monai_rd.networks import FrozenFoundationModel, Reads, Student

__all__ = ["SimilarityPreserving"]

_BATCH = 64  # that the weight 3000 is for


class SimilarityPreserving(Method):
    """SP on the student's last map, or its pooled features where there is none, against what the teacher gives.

    A row is one labelled item: a study's slices, like the positions of a map, stand behind one another in it. So the
    loss has one scale for images and studies, and slices are compared with those at their place. The batch is that of
    all processes. It trains nothing of its own.

    Times 3000 the term is at most 94 where no feature is negative.

    Args:
        weight: of the term, constant over the training.
    """

    def __init__(
        self, student: Student, teacher: FrozenFoundationModel, labels: Tensor, *, weight: float = 3000.0
    ) -> None:
        super().__init__(student, teacher, labels)
        level = student.last_map
        self.student_levels = () if level is None else (level,)
        self.reads, self.constant_weights = Reads(tap=True), {"sp": weight}

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Term `sp`, of the map `[B * S, C, h, w]` and the teacher's tap."""
        ours = step.student.maps[0] if step.student.maps else step.student.pooled
        mine, theirs = (
            gather_batch(features.reshape(len(step.student.pooled), -1))
            for features in (ours, step.teacher_features.tap)
        )
        return {"sp": similarity_loss(mine, theirs) * len(mine) / _BATCH}

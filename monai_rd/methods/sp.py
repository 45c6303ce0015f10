"""Similarity-preserving distillation: Tung & Mori, ICCV 2019, arXiv 1907.09682; formula in `losses.similarity`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from monai_rd.losses.similarity import similarity_loss
from monai_rd.methods.base import Method, Step, gather_batch
from monai_rd.networks.features import Reads
from monai_rd.networks.levels import Level, student_last_map

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel, Student

__all__ = ["SimilarityPreserving"]


class SimilarityPreserving(Method):
    """SP on the student's last map, or its pooled features where there is none, against what the teacher gives.

    A row is one labelled item: a study's slices, like the positions of a map, stand behind one another in it. So the
    loss has one scale for images and studies, and slices are compared with those at their place. The batch is that of
    all processes. It trains nothing of its own.

    The loss is at most 2 / B where no feature is negative, so the weight means less in a larger batch: times 3000 at
    most 188 at 32, 94 at 64.

    Args:
        level: the student's last map; None for its pooled features.
        weight: of the term, constant over the training.
    """

    def __init__(self, level: Level | None = None, *, weight: float = 3000.0) -> None:
        super().__init__(Reads(tap=True), [] if level is None else [level])
        self.weight = weight

    @classmethod
    def build(
        cls, student: Student, teacher: FrozenFoundationModel, labels: Tensor, **options: Any
    ) -> SimilarityPreserving:
        """Build it on this student's last map."""
        return cls(student_last_map(student), **options)

    def weights(self, progress: float) -> dict[str, float]:
        """The weight, the same in all epochs."""
        return {"sp": self.weight}

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Term `sp`, of the map `[B * S, C, h, w]` and the teacher's tap."""
        ours = step.student.maps[0] if step.student.maps else step.student.pooled
        rows = (features.reshape(len(step.student.pooled), -1) for features in (ours, step.taught.tap))
        return {"sp": similarity_loss(*(gather_batch(features) for features in rows))}

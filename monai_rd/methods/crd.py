r"""Contrastive representation distillation (CRD), arXiv 1910.10699.

One linear layer each maps the student's and the teacher's features to embeddings $v$ of length 1. Two memory banks hold
an embedding $u$ of every training item. The loss makes an item's student embedding distinguish the teacher's bank entry
of the same item (positive) from those of K items of other classes (negatives), and vice versa. With $n$ items, and $Z$
set once to $n$ times the mean of the first batch's exponentials,

$$P(v, u) = \frac{e^{v \cdot u/\tau}}{Z},\qquad
L(v, u) = -\log\frac{P(v, u^+)}{P(v, u^+) + K/n} - \sum_{k=1}^{K} \log\frac{K/n}{P(v, u_k^-) + K/n},\qquad
L_\mathrm{CRD} = \overline{L(v_s, u_t)} + \overline{L(v_t, u_s)}$$
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from monai_rd.methods.base import Method, Step, gather_batch
from monai_rd.networks import FrozenFoundationModel, Reads, Student
from monai_rd.processes import world_size

__all__ = ["ContrastiveDistillation"]

_EPS = 1e-7


class ContrastiveDistillation(Method):
    """CRD with the item itself as positive ("exact") and negatives of other classes, drawn without replacement.

    The reference code does the same if there are K items of other classes (its data set draws them with
    `numpy.random.choice`; its alias tables are for the case without given negatives). It differs in K: there K is
    16,384 for any data set, drawn with replacement if there are fewer; here K is at most the number of items outside
    the largest class, so all items of a batch have the same number of negatives.
    For multi-label data, where "another class" means little, all other items can be negatives. Banks and Z are buffers,
    so a resumed run continues exactly. Embeddings and scores are computed in float32 (e^(1/0.07) is 1.6e6, beyond
    float16's largest number).

    Memory in float32, with n items and batches of B: 2 * n * `width` numbers for the banks, and in a step about as many
    again and 8 * B * n for scores and draws: 30 MB for n = 10,000 and B = 32, where the reference gathers 537 MB of
    negatives for any n.

    Negatives are drawn from torch's global random state. Under DDP every process scores its own items; the banks are
    updated with the items of all processes.

    Args:
        negatives: largest K.
        width: width of the embeddings.
        temperature: tau.
        momentum: share of the old value that a bank entry keeps when it is updated.
        weight: weight of the term.

    Raises:
        ValueError: all items are of one class, `negatives` is below 1, or the temperature is not above 0.
    """

    takes_unlabelled = False  # an item without a label has no known negatives
    takes_mixed = False  # the banks hold one embedding for each single image

    labels: Tensor
    student_bank: Tensor
    teacher_bank: Tensor
    normaliser: Tensor

    def __init__(
        self,
        student: Student,
        teacher: FrozenFoundationModel,
        labels: Tensor,
        *,
        negatives: int = 16384,
        width: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
        weight: float = 0.8,
    ) -> None:
        super().__init__(student, teacher, labels)
        if negatives < 1 or not temperature > 0:
            raise ValueError(f"negatives is at least 1, temperature above 0; got {negatives}, {temperature}")
        others = len(labels) - (1 if self.multi_label else int(labels.bincount().max()))
        if others < 1:
            raise ValueError("the method 'crd' needs negatives: items of at least two classes in the training list")
        self.negatives = min(negatives, others)
        self.reads, self.constant_weights = Reads(pooled=True), {"crd": weight}
        self.student_embedding = nn.Linear(student.feature_dim, width)
        self.teacher_embedding = nn.Linear(teacher.channels, width)
        self.register_buffer("labels", labels, persistent=False)
        for side in ("student", "teacher"):
            self.register_buffer(f"{side}_bank", F.normalize(torch.randn(len(labels), width), dim=1))
        self.register_buffer("normaliser", torch.zeros(2))  # Z of student and teacher; 0: not set yet
        self._normalised = False  # whether the normaliser is known to be set
        self.temperature, self.momentum = temperature, momentum

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the term `crd`; in training mode the banks are then updated with the batch.

        Raises:
            ValueError: the batch has no indices of its items in the training list.
        """
        if step.indices is None:
            raise ValueError(
                "the method 'crd' remembers every item: batches need its place in the training list as 'index', which "
                "DataList.numbered gives"
            )
        with torch.autocast(step.student.pooled.device.type, enabled=False):
            mine = F.normalize(self.student_embedding(step.student.pooled.float()), dim=1)
            theirs = F.normalize(self.teacher_embedding(step.teacher_features.pooled.float()), dim=1)
            compared = torch.cat([step.indices[:, None], self._draw(step.indices)], dim=1)
            # A copy: the banks are changed below, before the backward pass needs the old values.
            scores = torch.stack(
                [
                    (v @ bank.clone().T / self.temperature).gather(1, compared)
                    for v, bank in ((mine, self.teacher_bank), (theirs, self.student_bank))
                ]
            ).exp()
            if not self._normalised:  # checked once, as it synchronises with the device
                if not self.normaliser.any():
                    self.normaliser.copy_(_mean_over_ranks(scores.detach().mean(dim=(1, 2)) * len(self.labels)))
                self._normalised = True
            loss = self._contrast(scores / self.normaliser[:, None, None])
        if self.training:
            self._remember(mine.detach(), theirs.detach(), step.indices)
        return {"crd": loss}

    def _draw(self, indices: Tensor) -> Tensor:
        """Draw K different items of other classes for each item; returns their indices `[B, K]`."""
        every = torch.arange(len(self.labels), device=indices.device)
        same = indices[:, None] == every if self.multi_label else self.labels[indices][:, None] == self.labels
        draws = torch.rand(same.shape, device=indices.device).masked_fill(same, -1.0)
        return draws.topk(self.negatives, dim=1).indices

    def _contrast(self, scores: Tensor) -> Tensor:
        """Compute the loss of both directions from P `[2, B, 1 + K]`, with the positive first."""
        noise = self.negatives / len(self.labels)
        positive, negative = scores[..., 0], scores[..., 1:]
        log_likelihood = (positive / (positive + noise + _EPS)).log() + (noise / (negative + noise + _EPS)).log().sum(
            dim=2
        )
        return -log_likelihood.mean(dim=1).sum()

    @torch.no_grad()
    def _remember(self, mine: Tensor, theirs: Tensor, indices: Tensor) -> None:
        indices = gather_batch(indices)
        for bank, seen in ((self.student_bank, mine), (self.teacher_bank, theirs)):
            moved = self.momentum * bank[indices] + (1 - self.momentum) * gather_batch(seen)
            bank[indices] = F.normalize(moved, dim=1)


def _mean_over_ranks(value: Tensor) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(value)
        value = value / world_size()
    return value

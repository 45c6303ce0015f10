"""RD by other loops than MONAI's trainer: in plain PyTorch, in torchdistill's box and, of logits, by timm's task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.data import Dataset
from torch import Tensor, nn
from torch.nn import functional as F
from work import Turn, Work, optimizer

from monai_rd.methods import parameter_groups
from monai_rd.methods.rd import ReprogrammingDistillation
from monai_rd.networks import Student

__all__ = ["plain_loop", "timm_task", "torchdistill_box"]


def by_hand(
    work: Work, plain: Dataset, step: Callable[[Tensor, Tensor], Tensor], update: Callable[[Tensor], object]
) -> Turn:
    """Training by a loop over batches: `step` gives the loss of images and labels, `update` does the rest."""
    loader = work.loader(plain)

    def turn() -> None:
        for batch in loader:
            image, target = (batch[key].to(work.device, non_blocking=True) for key in ("image", "label"))
            with work.autocast():
                loss = step(image, target)
            update(loss)

    return turn


def update_by(adam: torch.optim.Optimizer) -> Callable[[Tensor], None]:
    """The rest of a step in plain PyTorch."""

    def update(loss: Tensor) -> None:
        adam.zero_grad()
        loss.backward()
        adam.step()

    return update


def rd_loss(
    network: Student, method: ReprogrammingDistillation, f_s: Tensor, z_s: Tensor, tap: Tensor, y: Tensor
) -> Tensor:
    """Eq. 3 of the paper with alpha = beta = 1."""
    f_t = method.phi(tap)
    z_t = network.classifier(f_t)
    return F.cross_entropy(z_s, y) + F.cross_entropy(z_t, y) + method.kl(z_s, z_t) + method.cka(f_s, f_t)


def plain_loop(work: Work, plain: Dataset) -> Turn:
    """The same by PyTorch alone."""
    network = work.network()
    method, teacher = work.method(network), work.teacher
    assert teacher is not None
    adam = optimizer(parameter_groups(network, method))

    def step(image: Tensor, target: Tensor) -> Tensor:
        f_s = network.features(image)
        return rd_loss(network, method, f_s, network.classifier(f_s), teacher(image), target)

    return by_hand(work, plain, step, update_by(adam))


def torchdistill_box(work: Work, plain: Dataset) -> Turn:
    """The same by torchdistill's distillation box, which trains whatever belongs to its student: phi is put there."""
    from torchdistill.core.distillation import get_distillation_box

    class StudentAndPhi(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student = work.network()
            self.method = work.method(self.student)

        def forward(self, image: Tensor) -> Tensor:
            return self.student(image)

    both = StudentAndPhi()

    class Loss(nn.Module):
        def forward(self, student: Any, teacher: Any, target: Tensor) -> Tensor:
            f_s, z_s, tap = student["student.classifier"]["input"], student["."]["output"], teacher["."]["output"]
            return rd_loss(both.student, both.method, f_s, z_s, tap, target)

    box = get_distillation_box(
        work.teacher,
        both,
        {},
        {
            "num_epochs": 1,
            "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
            "student": {"forward_proc": "forward_batch_only", "forward_hook": {"input": ["student.classifier"]}},
            "criterion": {
                "key": "WeightedSumLoss",
                "kwargs": {"sub_terms": {"rd": {"criterion": Loss(), "weight": 1.0}}},
            },
            "optimizer": {"key": "AdamW", "kwargs": {"lr": 1e-3, "fused": True}},
        },
        work.device,
        None,
        False,
        1,
    )
    box.pre_epoch_process()
    return by_hand(work, plain, box.forward_process, box.post_forward_process)


def timm_task(work: Work, plain: Dataset) -> Turn:
    """Distillation of logits by timm's task, from the teacher's own head."""
    from timm.task import DistillationTeacher, LogitDistillationTask

    assert work.teacher is not None
    network: Any = work.network()
    # What the task asks a student of timm's; ours normalises its images itself.
    network.num_classes, network.in_chans = 2, 3
    network.pretrained_cfg = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    vit: Any = work.teacher.backbone
    task = LogitDistillationTask(
        network,
        DistillationTeacher(vit.network, device=work.device),
        nn.CrossEntropyLoss(),
        device=work.device,
        verbose=False,
    )
    adam = optimizer(network.parameters())

    def step(image: Tensor, target: Tensor) -> Tensor:
        return task(image[:, 0], target)["loss"]  # a bag of one is an image

    task.train()
    return by_hand(work, plain, step, update_by(adam))

"""Methods that look beyond their own batch, or run the student twice, under DDP in two processes (gloo)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from monai_rd.methods import Method, build_method
from monai_rd.methods.base import Step
from monai_rd.methods.crd import ContrastiveDistillation
from tests.methods.steps import Head, ends, learnt, small_student, step, taught, tiny_teacher
from tests.processes import in_two_processes


def crd() -> tuple[ContrastiveDistillation, Tensor, Tensor, Tensor]:
    """CRD with all items of the other class as negatives, so that nothing of it is random; its batch."""
    torch.manual_seed(0)
    method = ContrastiveDistillation(*ends(5, 4, labels=torch.arange(8) % 2), width=3)
    return method, torch.randn(4, 4), torch.randn(4, 5, 2, 2), torch.tensor([5, 0, 3, 2])


def crd_steps(method: nn.Module, pooled: Tensor, tap: Tensor, index: Tensor) -> None:
    for _ in range(2):  # in the second the banks are those of the first
        method.zero_grad()
        g: Any = nn.Identity()
        method(Step(learnt(pooled, g), taught(tap), Head(g), index % 2, index))["crd"].backward()


class Pair(nn.Module):
    """Student and method behind one DDP each, as a bundle has them, in one step."""

    def __init__(self, distributed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student, self.teacher = small_student("small"), tiny_teacher()
        self.method: Method = build_method("drd", self.student, self.teacher, [0, 1], {"width": 8, "cka": 0.0})
        for module in [*self.student.modules(), *self.method.modules()]:
            if isinstance(module, nn.BatchNorm2d):  # its batch is that of a process: out of the comparison
                module.eval()
        self.network: Any = DistributedDataParallel(self.student) if distributed else self.student

    def gradients(self, image: Tensor, target: Tensor) -> dict[str, Tensor]:
        own = F.cross_entropy(self.network(image), target)
        terms = step(self.method, self.student, self.teacher, image, target)
        (own + terms["hybrid_ce"] + terms["kl"]).backward()
        return {name: p.grad for name, p in self.student.named_parameters() if p.grad is not None}


def _rank(rank: int, folder: Path) -> None:
    method, pooled, tap, index = crd()
    mine = slice(2 * rank, 2 * rank + 2)
    wrapped = DistributedDataParallel(method)
    crd_steps(wrapped, pooled[mine], tap[mine], index[mine])
    found = {"state": method.state_dict(), "grads": [p.grad for p in method.parameters()]}
    torch.manual_seed(3)
    image, target = torch.rand(8, 3, 32, 32), torch.arange(8) % 2
    half = slice(4 * rank, 4 * rank + 4)
    torch.save(found | {"drd": Pair(True).gradients(image[half], target[half])}, folder / f"{rank}.pt")


@pytest.mark.slow
def test_two_processes_are_one_with_the_whole_batch(tmp_path: Path) -> None:
    """CRD's banks, Z and gradients; DRD's gradients of the student, whose layers take part in several passes."""
    in_two_processes(_rank, tmp_path)
    method, pooled, tap, index = crd()
    crd_steps(method, pooled, tap, index)
    torch.manual_seed(3)
    image, target = torch.rand(8, 3, 32, 32), torch.arange(8) % 2
    wanted = Pair(False).gradients(image, target)
    assert wanted
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["state"], dict(method.state_dict()))
        torch.testing.assert_close(found["grads"], [p.grad for p in method.parameters()])
        torch.testing.assert_close(found["drd"], wanted)

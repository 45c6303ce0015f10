"""How much faster students are trained on a CPU with the convolutions of small maps as matrix products.

One training step of a student alone, with the convolutions of PyTorch and with ours, in turn.

    python benchmarks/small_maps.py --threads 1            # five minutes
    python benchmarks/small_maps.py --threads 1 --students timm:repvgg_a0 --sides 96
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from timing import in_turn, machine, middle, ratios
from torch.nn import functional as F

from monai_rd.networks import Student, for_training
from monai_rd.networks.small_maps import leave_small_maps_to_torch


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", default=["resnet18", "timm:resnet34"])
    parser.add_argument("--sides", nargs="+", type=int, default=[64, 96, 128], help="rows and columns of an image")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(
        "student", "pixels", "precision", "PyTorch, s", "ours, s", "times as fast", title=f"n = {options.rounds}"
    )
    for name in options.students:
        for side in options.sides:
            for amp in (False, True):
                steps = {
                    way: partial(_step, *_training(name, way), side, options.batch, amp) for way in ("plain", "ours")
                }
                taken = in_turn(steps, options.rounds)
                table.add_row(
                    name,
                    str(side),
                    "bfloat16" if amp else "float32",
                    *(middle(taken[way]) for way in steps),
                    middle(ratios(taken["plain"], taken["ours"])),
                )
    console = Console(width=130)
    console.print(machine(torch.device("cpu"), options.threads))
    console.print(table)


def _training(name: str, way: str) -> tuple[Student, torch.optim.Optimizer]:
    torch.manual_seed(0)
    student = for_training(Student(name))
    if way == "plain":
        leave_small_maps_to_torch(student)
    return student, torch.optim.AdamW(student.parameters(), fused=True)


def _step(student: Student, optimizer: torch.optim.Optimizer, side: int, batch: int, amp: bool) -> None:
    images, labels = torch.rand(batch, 3, side, side), torch.arange(batch) % 2
    with torch.autocast("cpu", enabled=amp):
        loss = F.cross_entropy(student(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


if __name__ == "__main__":
    main()

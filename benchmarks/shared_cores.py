"""How fast a training step is where other programs use the cores too, with idle threads that sleep soon.

PyTorch's threads wait for each other many times in a step. Meanwhile they spin, on a core that another thread may be
waiting for, for 300,000 turns before they sleep, or as many as `GOMP_SPINCOUNT` says. Each round is a new process, with
one busy process for each core or none.

    python benchmarks/shared_cores.py            # three minutes
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from contextlib import ExitStack
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from timing import in_turn, machine, middle, ratios

from monai_rd.processes import cores

SECONDS = 5
STEPS = f"""
import time, torch, torchvision
student = torchvision.models.resnet18().to(memory_format=torch.channels_last)
images = torch.rand(32, 3, 64, 64)
def step():
    student(images).square().sum().backward()
step()
began, steps = time.perf_counter(), 0
while time.perf_counter() < began + {SECONDS}:
    step()
    steps += 1
print((time.perf_counter() - began) / steps)
"""


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    table = Table(
        "cores", "default, s a step", "10,000 turns, s a step", "times as fast", title=f"n = {options.rounds}"
    )
    for busy in (False, True):
        steps: dict[str, list[float]] = {"": [], "10000": []}
        with ExitStack() as ended:
            for _ in range(cores() if busy else 0):
                other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                ended.callback(other.wait)
                ended.callback(other.kill)
            in_turn({turns: partial(_measure, turns, steps[turns]) for turns in steps}, options.rounds)
        spinning, sleeping = (found[1:] for found in steps.values())  # without the round that warms up
        each = (middle(spinning), middle(sleeping), middle(ratios(spinning, sleeping)))
        table.add_row("shared with as many busy processes" if busy else "alone", *each)
    console = Console(width=130)
    console.print(machine(torch.device("cpu"), cores()))
    console.print(table)


def _measure(turns: str, found: list[float]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if turns:
        environment["GOMP_SPINCOUNT"] = turns
    ran = subprocess.run([sys.executable, "-c", STEPS], env=environment, check=True, capture_output=True, text=True)
    found.append(float(ran.stdout))


if __name__ == "__main__":
    main()

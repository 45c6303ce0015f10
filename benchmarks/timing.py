"""What the benchmarks share: turns in interleaved rounds, medians of the rounds' ratios, the machine, peak memory."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch


def arguments(doc: str | None, rounds: int, size: int) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--size", type=int, default=size, help="rows and columns of an image")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--teacher", default="vit_base_patch16_224", help="timm's name of a ViT; its weights are random"
    )
    return parser


def in_turn(
    turns: Mapping[str, Callable[[], object]], rounds: int, device: torch.device | None = None
) -> dict[str, list[float]]:
    """Let everybody have a turn in every round, so that the machine's moods meet all of them alike.

    The order moves on by one from round to round; a round before the first one warms up and is not counted.

    Returns:
        Seconds of each round's turn, by name.
    """
    names = list(turns)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            synchronise(device)
            began = time.perf_counter()
            turns[name]()
            synchronise(device)
            if number:
                times[name].append(time.perf_counter() - began)
    return times


def synchronise(device: torch.device | None) -> None:
    """Wait until a GPU has done what it was asked for."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """One time over another, round by round."""
    return [one / other for one, other in zip(over, under, strict=True)]


def middle(values: Sequence[float], form: str = "{:.2f}") -> str:
    """The median with the quartiles around it; alone where there is nothing between them to tell."""
    low, median, high = (form.format(one) for one in np.percentile(values, [25, 50, 75]))
    return median if low == high else f"{median} \\[{low}, {high}]"  # the backslash is rich's, and is not printed


def machine(device: torch.device, threads: int) -> str:
    """What the numbers were measured on."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    where = f"{name}, {os.cpu_count()} cores, {threads} threads, torch {torch.__version__}"
    return f"{torch.cuda.get_device_name(device)}, {where}" if device.type == "cuda" else where


def in_child(script: str | Path, *words: object) -> dict[str, Any]:
    """Run a script in a process of its own, whose memory is that of its work alone, and read its last line as JSON.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run([sys.executable, str(script), *map(str, words)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{Path(script).name} {' '.join(map(str, words))} ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found

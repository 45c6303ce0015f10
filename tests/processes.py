"""New processes that need not import torch and MONAI again, which takes seconds: copies of one that has."""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.multiprocessing import start_processes  # type: ignore[attr-defined]

PRELOADED = [
    "monai.bundle",
    "monai_rd.cache",
    "monai_rd.datasets",
    "monai_rd.handlers",
    "monai_rd.networks",
    "torch.distributed",
    "torchvision",
]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)


def run_module(name: str, *words: str, cwd: Path, output: Path, timeout: float = 300) -> int:
    """Do what `python -m NAME WORDS` does; what it prints goes to a file. Gives the exit code."""
    process = CONTEXT.Process(target=_module, args=(name, words, cwd, output, dict(os.environ)))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{name} {' '.join(words)}: more than {timeout} s\n{output.read_text()}")
    return process.exitcode


def _module(name: str, words: tuple[str, ...], cwd: Path, output: Path, environment: dict[str, str]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [name, *words]
    sys.path.insert(0, str(cwd))
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def in_two_processes(work: Callable[..., None], folder: Path, *args: Any) -> None:
    """Call `work(rank, folder, *args)` in two processes with a gloo group."""
    start_processes(_rank, (work, folder, *args), nprocs=2, start_method="forkserver")


def _rank(rank: int, work: Callable[..., None], folder: Path, *args: Any) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    work(rank, folder, *args)
    gc.collect()  # what still refers to the group keeps its threads alive, which may end a process by SIGABRT
    dist.destroy_process_group()

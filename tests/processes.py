"""New processes that need not import torch and MONAI again, which takes seconds: copies of one that has."""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.multiprocessing import start_processes

PRELOADED = [
    "fire",
    "imagecodecs",
    "imagehash",
    "monai.bundle",
    "monai_rd.adapters",
    "monai_rd.bundle",
    "monai_rd.cache",
    "monai_rd.card",
    "monai_rd.cli.app",
    "monai_rd.datasets.collecting",
    "monai_rd.dicom.codecs",
    "monai_rd.handlers",
    "monai_rd.networks",
    "monai_rd.phantoms",
    "monai_rd.report",
    "pydicom.sr.codedict",
    "timm",
    "torch.distributed",
    "torchvision",
]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)


def start_module(name: str, *words: str, cwd: Path, output: Path, **environment: str) -> BaseProcess:
    """Start what `python -m NAME WORDS` does; what it prints goes to a file."""
    process = CONTEXT.Process(target=_module, args=(name, words, cwd, output, {**os.environ, **environment}))
    process.start()
    return process


def run_module(
    name: str, *words: str, cwd: Path, output: Path, timeout: float = 300, processes: int = 1
) -> list[int | None]:
    """Do what `python -m NAME WORDS` does; what it prints goes to a file.

    Of several processes each is told what torchrun would tell it, and prints to a file of its own: `output` with its
    number behind. Gives the exit codes.
    """
    ranks = [{}] if processes == 1 else list(_ranks(processes))
    files = [output.with_name(output.name + rank.get("RANK", "")) for rank in ranks]
    started = [
        start_module(name, *words, cwd=cwd, output=file, **rank) for file, rank in zip(files, ranks, strict=True)
    ]
    end = time.monotonic() + timeout
    for one in started:
        one.join(max(0.0, end - time.monotonic()))
    if late := [file for file, one in zip(files, started, strict=True) if one.exitcode is None]:
        for one in started:
            one.kill()
        raise TimeoutError(f"{name} {' '.join(words)}: more than {timeout} s\n{late[0].read_text()}")
    return [one.exitcode for one in started]


def kill_module_at(line: str, name: str, *words: str, cwd: Path, output: Path, timeout: float = 300) -> None:
    """Do what `python -m NAME WORDS` does, and have it killed by the system as soon as a line begins so."""
    process, end = start_module(name, *words, cwd=cwd, output=output), time.monotonic() + timeout
    while not (output.is_file() and any(told.startswith(line) for told in output.read_text().splitlines())):
        if not process.is_alive() or time.monotonic() > end:
            process.kill()
            raise RuntimeError(f"{name} {' '.join(words)}: no line '{line}'\n{output.read_text()}")
        time.sleep(0.01)
    process.kill()
    process.join()


def _ranks(count: int) -> Iterator[dict[str, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}
    common["LOCAL_WORLD_SIZE"] = str(count)
    for number in range(count):
        yield {**common, "RANK": str(number), "LOCAL_RANK": str(number)}


def _module(name: str, words: tuple[str, ...], cwd: Path, output: Path, environment: dict[str, str]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # what the fork server has loaded may have asked for it
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

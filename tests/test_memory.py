from __future__ import annotations

import os
import platform
import resource
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
import torch

from monai_rd.memory import give_back_freed_memory, keep_freed_memory
from tests.processes import CONTEXT

LARGE = 64 << 20  # bytes, beyond what glibc ever keeps by itself

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")


def _steps() -> int:
    """Pages that ten allocations of a large block need, one after another."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(LARGE // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _measure(told: Queue[tuple[bool, int, int, int, int]]) -> None:
    plain, changed, kept = _steps(), keep_freed_memory(), _steps()
    full = _resident()
    give_back_freed_memory()
    told.put((changed, plain, kept, full, _resident()))


def _in_a_process_of_its_own() -> tuple[bool, int, int, int, int]:
    told = CONTEXT.Queue()
    process = CONTEXT.Process(target=_measure, args=(told,))
    process.start()
    found: tuple[bool, int, int, int, int] = told.get(timeout=60)
    process.join()
    return found


@pytest.mark.skipif(
    any(name in os.environ for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")),
    reason="the environment says how the C library allocates",
)
def test_blocks_are_used_again_and_given_back_in_the_end() -> None:
    changed, plain, kept, full, after = _in_a_process_of_its_own()
    assert changed
    one = LARGE // resource.getpagesize()
    assert plain > 9 * one
    assert kept < 3 * one  # a small block may lie in the way of the second
    assert full - after > 0.9 * LARGE


def test_what_the_environment_says_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert not keep_freed_memory()

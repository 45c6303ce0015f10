"""The processes of a (distributed) training run and their share of the machine; without torchrun, one process."""

from __future__ import annotations

import os
from collections.abc import Callable

from torch import distributed as dist

__all__ = ["cores", "decided_by_rank_zero", "derived_seed", "local_world_size", "own_cores", "rank", "world_size"]


def rank() -> int:
    """Return the rank of this process; the process of rank 0 writes all files."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def local_world_size() -> int:
    """Return the number of processes that torchrun started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_cores() -> int:
    """Return this process's share of the CPU cores among the processes on this machine, at least one."""
    return max(cores() // local_world_size(), 1)


def decided_by_rank_zero(decide: Callable[[], bool]) -> bool:
    """Return the decision of rank 0 in all processes: each sees other data, but all must do the same.

    Args:
        decide: called in rank 0 only.
    """
    answer = [rank() == 0 and decide()]
    if world_size() > 1:
        dist.broadcast_object_list(answer)
    return answer[0]


def derived_seed(seed: int, number: int, part: int) -> int:
    """Return a seed for one epoch, round or step of a run, in one of its parts.

    Prime factors keep the results of neighbouring seeds and numbers apart.

    Args:
        seed: seed of the run.
        number: number of the epoch, round or step.
        part: number of the part, such as the rank of a process.
    """
    return (seed * 1_000_003 + number * 1009 + part) % 2**31

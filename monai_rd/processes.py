"""The group of processes that a training runs in, and what of the machine is each one's; a single one is a group."""

from __future__ import annotations

import os
from collections.abc import Callable

from torch import distributed as dist

__all__ = ["cores", "decided_by_rank_zero", "derived_seed", "local_world_size", "own_cores", "rank", "world_size"]


def rank() -> int:
    """This process's number in the group; 0 is the one that writes."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def local_world_size() -> int:
    """How many of them torchrun started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_cores() -> int:
    """Of them this process's share among those of its group on this machine, at least one."""
    return max(cores() // local_world_size(), 1)


def decided_by_rank_zero(decide: Callable[[], bool]) -> bool:
    """What the first process decides: each sees another part of the data, and all must do the same."""
    answer = [rank() == 0 and decide()]
    if world_size() > 1:
        dist.broadcast_object_list(answer)
    return answer[0]


def derived_seed(seed: int, number: int, part: int) -> int:
    """A seed for the epoch, round or step `number` of a run, for one of its parts, such as a process.

    Primes keep those of neighbouring seeds and numbers apart.
    """
    return (seed * 1_000_003 + number * 1009 + part) % 2**31

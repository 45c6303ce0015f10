"""The group of processes that a training runs in; a single process is a group of one."""

from __future__ import annotations

from torch import distributed as dist

__all__ = ["rank", "world_size"]


def rank() -> int:
    """This process's number in the group; 0 is the one that writes."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

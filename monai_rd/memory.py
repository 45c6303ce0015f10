"""How much memory this process could still take, and what becomes of memory that it frees.

The first as Linux and its control groups (containers, batch systems) say, the second as the GNU C library allows.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from pathlib import Path

__all__ = ["available_memory", "give_back_freed_memory", "keep_freed_memory"]

# mallopt(3); both values are ints.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process could take without swapping or being killed for it.

    The least of what the machine has left (MemAvailable) and what every control group above the process, of version 1
    or 2, has left of its limit; file contents that a group could drop count as left.

    Args:
        root: where `proc` and `sys` lie.

    Returns:
        None where the system does not say: on macOS and Windows.
    """
    return min((*_of_the_machine(root), *_of_the_groups(root)), default=None)


def keep_freed_memory() -> bool:
    """Let the GNU C library keep large blocks that were freed, for the next step.

    By itself it gives a tensor of some MB back to the system as soon as it is freed. The next step asks for as much
    again, and the system fills each page of 4 kB with zeros anew, when it is first touched: a tenth to a quarter of the
    time of a training step on a CPU. The peak grows by some percent (docs/guide/speed.md).

    Returns:
        Whether something was changed: not with another C library, nor where `MALLOC_MMAP_THRESHOLD_` or
        `MALLOC_TRIM_THRESHOLD_` is set in the environment, which is respected.
    """
    if not _glibc() or any(name in os.environ for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")):
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(option, _LARGEST) == 1 for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))


def give_back_freed_memory() -> None:
    """Give the system what is kept: after something large that will not be needed again."""
    if _glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _of_the_machine(root: Path) -> Iterator[int]:
    for name, size in _pairs(root / "proc/meminfo"):
        if name == "MemAvailable:":
            yield int(size) * 1024


def _of_the_groups(root: Path) -> Iterator[int]:
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            place, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            place = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        yield from _left(place, *names)
        for part in path.strip("/").split("/"):  # a container sees its own group as the root, and its path not at all
            place /= part
            yield from _left(place, *names)


def _left(place: Path, limit_file: str, usage_file: str, droppable: str) -> Iterator[int]:
    if not (place / limit_file).is_file():
        return
    limit = (place / limit_file).read_text().strip()
    if limit != "max":
        used = int((place / usage_file).read_text())
        yield max(int(limit) - used + int(dict(_pairs(place / "memory.stat")).get(droppable, 0)), 0)


def _pairs(path: Path) -> list[tuple[str, str]]:
    """The first two words of every line of a file, none where there is no file."""
    lines = path.read_text().splitlines() if path.is_file() else ()
    return [(words[0], words[1]) for words in map(str.split, lines) if len(words) > 1]


def _glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"

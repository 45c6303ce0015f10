"""Available memory, as Linux and its control groups (containers, batch systems) report it, and reuse of freed memory.

Reuse of freed memory is controlled through the GNU C library.
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
    """Return how many bytes this process can still allocate without swapping or being killed.

    This is the minimum of the machine's available memory (MemAvailable) and of what remains of the limit of every
    control group (version 1 or 2) of the process. File caches that a group can drop count as free.

    Args:
        root: folder that contains `proc` and `sys`.

    Returns:
        Bytes; None where the system does not report it (macOS and Windows).
    """
    return min((*_machine_memory(root), *_cgroup_memory(root)), default=None)


def keep_freed_memory() -> bool:
    """Let the GNU C library keep large freed blocks for reuse in the next training step.

    By default it returns a tensor of some MB to the system as soon as it is freed. The next step allocates as much
    again, and the system has to zero each page of 4 kB at its first use: a tenth to a quarter of the time of a training
    step on a CPU. The peak memory grows by some percent (docs/guide/speed.md).

    Returns:
        Whether the setting was changed. It is not with another C library, or if `MALLOC_MMAP_THRESHOLD_` or
        `MALLOC_TRIM_THRESHOLD_` is set in the environment.
    """
    if not _glibc() or any(name in os.environ for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")):
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(option, _LARGEST) == 1 for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))


def give_back_freed_memory() -> None:
    """Return freed memory to the system, for use after something large that is not needed again."""
    if _glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _machine_memory(root: Path) -> Iterator[int]:
    for name, size in _pairs(root / "proc/meminfo"):
        if name == "MemAvailable:":
            yield int(size) * 1024


def _cgroup_memory(root: Path) -> Iterator[int]:
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
        yield from _remaining(place, *names)
        for part in path.strip("/").split("/"):  # a container sees its own group as the root, and its path not at all
            place /= part
            yield from _remaining(place, *names)


def _remaining(place: Path, limit_file: str, usage_file: str, droppable: str) -> Iterator[int]:
    if not (place / limit_file).is_file():
        return
    limit = (place / limit_file).read_text().strip()
    if limit != "max":
        used = int((place / usage_file).read_text())
        yield max(int(limit) - used + int(dict(_pairs(place / "memory.stat")).get(droppable, 0)), 0)


def _pairs(path: Path) -> list[tuple[str, str]]:
    """Return the first two words of every line of a file, none if there is no file."""
    lines = path.read_text().splitlines() if path.is_file() else ()
    return [(words[0], words[1]) for words in map(str.split, lines) if len(words) > 1]


def _glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"

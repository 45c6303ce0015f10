"""Windows's rules for a process that imports this first, as far as Linux can be given them.

No `fcntl` and what else is not there; no rename onto or removal of a file that this process has open or mapped; no name
with characters that NTFS refuses; no session or file descriptors for a started process; only `spawn`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

REFUSED = set('<>:"|?*\\')


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """Takes what Windows's does."""

    def __init__(self, *words: Any, **options: Any) -> None:
        unknown = {"pass_fds", "preexec_fn", "start_new_session", "process_group"} & options.keys()
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))}: not supported on Windows platforms")
        super().__init__(*words, **options)

    def kill(self) -> None:
        os.kill(self.pid, 9)

    terminate = kill


def in_use() -> set[str]:
    """Files that this process has open or mapped."""
    found = set()
    for one in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{one}"))
        except OSError:  # the descriptor of this very listing
            continue
    with open("/proc/self/maps", encoding="utf-8") as maps:
        found |= {line.split(maxsplit=5)[-1].rstrip("\n") for line in maps}
    return found


def refuse(event: str, given: tuple[Any, ...]) -> None:
    if event in ("os.rename", "os.remove"):
        paths = given[:2] if event == "os.rename" else given[:1]
        held = {os.path.realpath(os.fsdecode(path)) for path in paths} & in_use()
        if held:
            raise PermissionError(13, "The process cannot access the file because it is being used", min(held))
    elif event in ("open", "os.mkdir") and isinstance(given[0], (str, bytes)):
        name = Path(os.fsdecode(given[0])).name
        writes = event == "os.mkdir" or (isinstance(given[1], str) and set(given[1]) & set("wax+"))
        if writes and (set(name) & REFUSED or name.endswith((".", " "))):
            raise OSError(22, "Invalid argument", name)


os.environ.setdefault("USERNAME", "somebody")
for module in ("fcntl", "grp", "pwd", "resource"):
    sys.modules[module] = None  # type: ignore[assignment]
for place, name in ((os, "killpg"), (os, "getpgid"), (os, "setsid"), (os, "sched_getaffinity"), (signal, "SIGKILL")):
    delattr(place, name)
subprocess.Popen = Popen  # type: ignore[misc]
multiprocessing.set_start_method("spawn", force=True)
sys.addaudithook(refuse)

"""One walk through folders for all that look for data, so that all of them see the same files."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import NamedTuple

__all__ = ["Walk", "folders_in", "is_system_name", "walk"]

# What systems, storage devices and programs keep beside data, in lower case; names with a dot before them go anyway.
_SYSTEM_NAMES = frozenset(
    (
        *("__macosx", "icon\r", "network trash folder", "temporary items"),  # macOS
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "recycler"),  # Windows
        *("system volume information", "lost+found", "__pycache__"),
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),  # Synology, QNAP
    )
)


class Walk(NamedTuple):
    """What lies in a folder.

    Attributes:
        files: sorted by path, each once, however many links lead to it. Paths can carry names: keep them out of logs.
        unreadable: what is there by name alone, sorted: folders that cannot be opened, links that lead nowhere or in a
            circle, and pipes, sockets and devices, which are never opened.
    """

    files: list[Path]
    unreadable: list[Path]


def is_system_name(name: str) -> bool:
    """Tell whether a file or folder of this name belongs to a system or a program and is no data.

    Hidden names (with a dot before them, which AppleDouble files and `.ipynb_checkpoints` have), what macOS, Windows
    and storage devices keep beside data, what an office program locks a file with, and an editor's backups.
    """
    return name.startswith((".", "~$")) or name.endswith("~") or name.lower() in _SYSTEM_NAMES


def walk(folder: str | os.PathLike[str], below: bool = True) -> Walk:
    """List the files in a folder, without what `is_system_name` tells.

    Links are followed, those to folders once each place: what a link leads to is left out where it was listed already,
    and where it holds `folder` itself. A file's own path comes before those of links to it.

    Args:
        folder: where to look; its own name does not count.
        below: whether its subfolders are walked too; else links to folders and folders are passed over.

    Returns:
        What lies there. It never raises: a folder that cannot be opened is among the unreadable, `folder` too.
    """
    start = os.path.realpath(folder)
    found: dict[str, Path] = {}  # by their real paths
    linked: list[tuple[str, Path]] = []
    unreadable: list[Path] = []
    entered: set[str] = set()
    folders, links = [(os.fspath(folder), start)], deque[tuple[str, str]]()
    while folders or links:
        where, real = folders.pop() if folders else links.popleft()
        if real in entered:
            continue
        entered.add(real)
        try:
            with os.scandir(where) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            unreadable.append(Path(where))
            continue
        for entry in inside:
            if is_system_name(entry.name):
                continue
            link, (is_folder, is_file) = entry.is_symlink(), _kind(entry)
            target = os.path.realpath(entry.path) if link else os.path.join(real, entry.name)
            if is_folder:
                if below and not link:
                    folders.append((entry.path, target))
                elif below and os.path.commonpath([start, target]) != target:
                    links.append((entry.path, target))
            elif not is_file:
                unreadable.append(Path(entry.path))
            elif link:
                linked.append((target, Path(entry.path)))
            else:
                found[target] = Path(entry.path)
    for target, path in sorted(linked):
        found.setdefault(target, path)
    return Walk(sorted(found.values()), sorted(unreadable))


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Tell whether an entry is a folder and whether it is a file, neither where a link leads in a circle."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:
        return False, False


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, links to some among them, sorted, without what `is_system_name` tells.

    Raises:
        OSError: it cannot be opened.
    """
    return [path for path in sorted(folder.iterdir()) if not is_system_name(path.name) and os.path.isdir(path)]

"""The one function that lists files in folders, so that all parts of the project see the same files."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import NamedTuple

__all__ = ["Walk", "folders_in", "is_system_name", "walk"]

# Files and folders that systems, storage devices and programs keep next to data, in lower case, without hidden names.
_SYSTEM_NAMES = frozenset(
    (
        *("__macosx", "icon\r", "network trash folder", "temporary items"),  # macOS
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "recycler"),  # Windows
        *("system volume information", "lost+found", "__pycache__"),
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),  # Synology, QNAP
    )
)


class Walk(NamedTuple):
    """The files found in a folder, as returned by `walk`.

    Attributes:
        files: files sorted by path, each once, however many links lead to it. Paths may contain patients' names: keep
            them out of logs.
        unreadable: sorted paths of folders that cannot be opened, of broken or circular links, and of pipes, sockets
            and devices, which are never opened.

    Example:
        >>> from pathlib import Path
        >>> from monai_rd.walk import walk
        >>> Path("study").mkdir()
        >>> for name in ("1.dcm", "2.dcm", "Thumbs.db"):
        ...     _ = Path("study", name).write_text("")
        >>> [path.name for path in walk("study").files]
        ['1.dcm', '2.dcm']
    """

    files: list[Path]
    unreadable: list[Path]


def is_system_name(name: str) -> bool:
    """Return whether a file or folder of this name belongs to a system or a program and is not data.

    These are hidden names (with a leading dot, such as AppleDouble files and `.ipynb_checkpoints`), files of macOS,
    Windows and storage devices, lock files of office programs, and backups of editors.
    """
    return name.startswith((".", "~$")) or name.endswith("~") or name.lower() in _SYSTEM_NAMES


def walk(folder: str | os.PathLike[str], below: bool = True) -> Walk:
    """List the files in a folder, except those that `is_system_name` recognises.

    Links are followed. Each target is listed once: by its own path if it lies in the folder, else by that of the first
    link. A link to a folder that contains `folder` is ignored.

    Args:
        folder: the folder; its own name is not checked.
        below: walk subfolders (and links to folders) too.

    Returns:
        The files. Nothing is raised: a folder that cannot be opened, also `folder` itself, is listed as unreadable.
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
    """Return whether an entry is a folder and whether it is a file; neither for a circular link."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:
        return False, False


def folders_in(folder: Path) -> list[Path]:
    """Return the subfolders of a folder and links to folders, sorted, except those that `is_system_name` recognises.

    Raises:
        OSError: the folder cannot be opened.
    """
    return [path for path in sorted(folder.iterdir()) if not is_system_name(path.name) and os.path.isdir(path)]

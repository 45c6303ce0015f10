"""Files: kinds by suffix, one that must be there, writing that leaves no halves, names that are no patient's."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import secrets
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "DICOM_SUFFIXES",
    "IMAGE_SUFFIXES",
    "ITK_SUFFIXES",
    "NIFTI_SUFFIXES",
    "READ_SUFFIXES",
    "VOLUME_SUFFIXES",
    "DiskFullError",
    "anonymous",
    "atomic_path",
    "atomic_write",
    "content_hash",
    "data_file",
    "error_text",
    "existing_file",
    "free_space",
    "known_hash",
    "link_or_copy",
    "no_room",
    "open_file",
    "sha256",
    "size_in_words",
    "unread_kind",
]

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")  # a file named so and not DICOM is damaged, not something else
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")  # the pixels of .mhd and .nhdr are in files that these name
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
READ_SUFFIXES = (*IMAGE_SUFFIXES, *VOLUME_SUFFIXES)
# Known to hold images, and not read. Of formats in two files it is the one with the pixels.
_UNREAD_SUFFIXES = (
    *(".webp", ".gif", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".j2c", ".jpx", ".jpf", ".jls", ".jxl", ".jfif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".psd", ".exr", ".pcx", ".ico", ".dng", ".cr2", ".nef", ".arw"),
    *(".mnc", ".mgh", ".mgz", ".img", ".brik", ".rec", ".mif", ".nia", ".gipl", ".vtk", ".vti", ".npy", ".npz"),
    *(".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".czi", ".lif", ".nd2", ".vsi", ".oib", ".oif", ".qptiff"),
    *(".avi", ".mp4", ".m4v", ".mov", ".mkv", ".mpg", ".mpeg", ".wmv", ".webm"),
    *(".zip", ".tar", ".tgz", ".7z", ".rar"),
)
_HEADER_BYTES = 1 << 16  # in which the text of a MetaImage or NRRD header ends
_NAMED_DATA = re.compile(rb"^[ \t]*(?:ElementDataFile[ \t]*[=:]|data ?file:)[ \t]*(\S.*?)\s*$", re.MULTILINE)
# What compression, and a copy or download that did not end, put after a name.
_AFTER = (".gz", ".bz2", ".xz", ".zst", ".lzma", ".part", ".partial", ".crdownload", ".filepart", ".download", ".tmp")


def unread_kind(path: Path) -> str:
    """Tell by its name whether a file holds images and is not read.

    Returns:
        Its suffix in lower case, such as ".webp" or ".dcm.gz"; "" where it is read or nothing is known of it.
    """
    name = path.name.lower()
    if name.endswith(READ_SUFFIXES):
        return ""
    stem, last = os.path.splitext(name)
    if last in _AFTER:
        inner = next((end for end in (*DICOM_SUFFIXES, *READ_SUFFIXES, *_UNREAD_SUFFIXES) if stem.endswith(end)), "")
        return inner and inner + last
    return last if last in _UNREAD_SUFFIXES else ""


def open_file(path: str | os.PathLike[str]) -> io.FileIO:
    """Open a file to read its bytes, and nothing but a file: a pipe would be waited for.

    Raises:
        OSError: it cannot be opened, or is none.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP), os.fspath(path))
    return io.FileIO(os.fspath(path), "rb")


_NO_ROOM = {
    getattr(errno, "EDQUOT", errno.ENOSPC): "your share of the disk (quota) is used up",
    errno.EFBIG: "the file would be larger than the system allows",
    errno.ENOSPC: "the disk is full",  # after the quota, which not every system knows
}


class DiskFullError(OSError):
    """There is no room for a file; the message says which, how much is free and what to do."""


def existing_file(path: str | os.PathLike[str]) -> Path:
    """Give back `path`.

    Raises:
        FileNotFoundError: it is no file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return Path(path)


@contextmanager
def atomic_path(path: Path, others: bool = True) -> Iterator[Path]:
    """Give a path beside `path` to write to: it takes `path`'s place if the block ends well, and goes if not.

    So a killed run, and a full disk, leave the old file or the new one.

    Args:
        path: of the file.
        others: whether other processes may write the same file at the same time: the last one's stays. Where a lock
            says that nobody does, a killed run's half has the one name and goes with the next.

    Raises:
        DiskFullError: the block failed because there is no room for the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp" if others else f"{path.name}.tmp")
    try:
        yield beside
        os.replace(beside, path)
    except Exception as error:
        if reason := no_room(error):
            beside.unlink(missing_ok=True)  # before it is measured what is free
            raise DiskFullError(
                f"{path} could not be written: {reason} ({size_in_words(free_space(path.parent))} free). Make room, or "
                "choose another folder; what was there before is as it was"
            ) from error
        raise
    finally:
        beside.unlink(missing_ok=True)


def no_room(error: BaseException | None) -> str:
    """Why a disk takes no more, if that is what an error or one behind it says; else "".

    Libraries wrap it: PyTorch's own error tells of a wrong position in the file, that of safetensors is text.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # what is raised again out of its own wrapper is a ring
        seen.add(id(error))
        found = re.search(r"os error (\d+)", str(error))
        number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
        if number in _NO_ROOM:
            return _NO_ROOM[number]
        if isinstance(error, sqlite3.OperationalError) and "disk is full" in str(error):
            return _NO_ROOM[errno.ENOSPC]
        error = error.__cause__ or error.__context__
    return ""


def error_text(error: BaseException) -> str:
    """What to tell people of an error: its own words, but where the disk is full, ours."""
    reason = "" if isinstance(error, DiskFullError) else no_room(error)
    return f"{reason}: a file could not be written; make room, and start again" if reason else str(error)


def atomic_write(text: str, path: Path, others: bool = True) -> None:
    """Write a text file atomically, its line ends as they are in `text`; `others` as in `atomic_path`."""
    with atomic_path(path, others) as beside:
        beside.write_text(text, encoding="utf-8", newline="")


def link_or_copy(file: Path, path: Path) -> None:
    """Let `path` be the same file, or a copy where the disk cannot do that, at once or not at all."""
    with atomic_path(path) as beside:
        try:
            os.link(file, beside)
        except OSError:
            shutil.copyfile(file, beside)


def free_space(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, whether it is there yet or not."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def size_in_words(size: float) -> str:
    """A number of bytes as people read it, such as "1.2 GB" (decimal units)."""
    name, unit = next(((name, unit) for name, unit in (("GB", 1e9), ("MB", 1e6)) if size >= unit), ("kB", 1e3))
    return f"{size / unit:.1f} {name}"


def data_file(header: Path) -> Path | None:
    """The file that holds the voxels of a MetaImage or NRRD header; None where they follow the header itself.

    Such a pair (.mhd and .raw, .nhdr and .raw.gz) is one image: all that tells images by their content takes both.

    Raises:
        ValueError: the header names another place than one file beside it.
    """
    if not header.name.lower().endswith(ITK_SUFFIXES):
        return None
    with open_file(header) as file:
        text = re.split(rb"\r?\n\r?\n", file.read(_HEADER_BYTES), maxsplit=1)[0]
    named = _NAMED_DATA.search(text)
    if named is None or named[1].upper() == b"LOCAL":
        return None
    name = named[1].decode("utf-8", "surrogateescape")
    if re.search(r"[/\\\x00]", name) or not (header.parent / name).is_file():
        raise ValueError("the header names no file beside it for its voxels")
    return header.parent / name


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, 64 hex digits; of a header whose voxels lie in a file beside it, of both."""
    try:
        beside = data_file(path)
    except ValueError:  # which is refused when it is read
        beside = None
    digest = hashlib.sha256()
    for part in (path, beside):
        if part is not None:
            with open_file(part) as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def content_hash(path: Path) -> str:
    """The first 12 hex digits of a file's SHA-256: a name for it that holds no patient's."""
    return sha256(path)[:12]


def known_hash(path: Path) -> str:
    """The `content_hash` of a file, "" where it cannot be read: whoever loads it says why."""
    try:
        return content_hash(path)
    except OSError:
        return ""


def anonymous(path: Path) -> str:
    """Name an image file without its path or name, which may hold a patient's."""
    ends = sorted(READ_SUFFIXES, key=len, reverse=True)
    kind = next((end for end in ends if path.name.lower().endswith(end)), "data")
    digest = known_hash(path)
    return f"a {kind} file" + (f" (sha256 {digest}...)" if digest else "")

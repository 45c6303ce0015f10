"""Files: suffixes of known formats, atomic writing, hashes, and descriptions that do not name a patient."""

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
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    "remove_unfinished",
    "sha256",
    "size_in_words",
    "unread_kind",
    "write_new",
]

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")  # a file with such a suffix that is not DICOM counts as damaged
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")  # .mhd and .nhdr name a separate file with the voxels
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
READ_SUFFIXES = (*IMAGE_SUFFIXES, *VOLUME_SUFFIXES)
# Image formats that are not supported. For formats with two files, the suffix of the file with the pixels.
_UNREAD_SUFFIXES = (
    *(".webp", ".gif", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".j2c", ".jpx", ".jpf", ".jls", ".jxl", ".jfif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".psd", ".exr", ".pcx", ".ico", ".dng", ".cr2", ".nef", ".arw"),
    *(".mnc", ".mgh", ".mgz", ".img", ".brik", ".rec", ".mif", ".nia", ".gipl", ".vtk", ".vti", ".npy", ".npz"),
    *(".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".czi", ".lif", ".nd2", ".vsi", ".oib", ".oif", ".qptiff"),
    *(".avi", ".mp4", ".m4v", ".mov", ".mkv", ".mpg", ".mpeg", ".wmv", ".webm"),
    *(".zip", ".tar", ".tgz", ".7z", ".rar"),
)
_UNFINISHED = re.compile(r"\.[0-9a-f]{8}\.tmp$")  # the end of a name that `atomic_path` makes unique
_DAY = 86_400.0  # seconds
_HEADER_BYTES = 1 << 16  # longest MetaImage or NRRD header
_NAMED_DATA = re.compile(rb"^[ \t]*(?:ElementDataFile[ \t]*[=:]|data ?file:)[ \t]*(\S.*?)\s*$", re.MULTILINE)
# Suffixes appended by compression, or by an unfinished copy or download.
_AFTER = (".gz", ".bz2", ".xz", ".zst", ".lzma", ".part", ".partial", ".crdownload", ".filepart", ".download", ".tmp")


def unread_kind(path: Path) -> str:
    """Return the suffix of a file in an image format that is not supported.

    Returns:
        The suffix in lower case, such as ".webp" or ".dcm.gz"; "" if the format is supported or unknown.
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
    """Open a regular file for reading bytes; a pipe, which could block, is refused.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP), os.fspath(path))
    return io.FileIO(os.fspath(path), "rb")


_NO_ROOM = {
    getattr(errno, "EDQUOT", errno.ENOSPC): "your share of the disk (quota) is used up",
    errno.EFBIG: "the file would be larger than the system allows",
    errno.ENOSPC: "the disk is full",  # last, to win where the system has no EDQUOT
}


class DiskFullError(OSError):
    """The disk has no space for a file; the message names the file, the free space and a remedy."""


def existing_file(path: str | os.PathLike[str]) -> Path:
    """Return `path` after checking that it is an existing file.

    Raises:
        FileNotFoundError: it is not.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return Path(path)


@contextmanager
def atomic_path(path: Path, others: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it replaces `path` if the block succeeds and is deleted otherwise.

    A killed run or a full disk therefore leaves either the old file or the complete new one.

    Args:
        path: path of the final file.
        others: other processes may write the same file at the same time (the last one wins), so the temporary name is
            unique. False, for callers that hold a lock, gives a fixed name: the remains of a killed run are then
            overwritten by the next.

    Raises:
        DiskFullError: the block failed because the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp" if others else f"{path.name}.tmp")
    try:
        yield beside
        os.replace(beside, path)
    except Exception as error:
        if reason := no_room(error):
            beside.unlink(missing_ok=True)  # before the free space is measured
            raise DiskFullError(
                f"{path} could not be written: {reason} ({size_in_words(free_space(path.parent))} free). Make room, or "
                "choose another folder; what was there before is as it was"
            ) from error
        raise
    finally:
        beside.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Delete what killed writers of `atomic_path` have left in a folder.

    A file of an atomic write that has not changed for a day is theirs: a living one writes its file in seconds. Other
    files are left alone, also such with the suffix .tmp.
    """
    for file in folder.glob("*.tmp"):
        with suppress(OSError):  # another process was faster
            if _UNFINISHED.search(file.name) and time.time() - file.stat().st_mtime > _DAY:
                file.unlink()


def no_room(error: BaseException | None) -> str:
    """Return why the disk accepts no more data if an error, or one of its causes, says so; else "".

    Libraries wrap the system's error: PyTorch reports a wrong file position, safetensors puts it into a text.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # an error raised again from its own wrapper makes a cycle
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
    """Return the message of an error for users; if the disk is full, a message of our own."""
    reason = "" if isinstance(error, DiskFullError) else no_room(error)
    return f"{reason}: a file could not be written; make room, and start again" if reason else str(error)


def atomic_write(text: str, path: Path, others: bool = True) -> None:
    """Write a UTF-8 text file atomically, with line ends unchanged; `others` as in `atomic_path`."""
    with atomic_path(path, others) as beside:
        beside.write_text(text, encoding="utf-8", newline="")


def write_new(text: str, path: Path) -> None:
    """Write a UTF-8 text file that must not exist yet; of several machines that share the disk, one succeeds.

    The file appears with its whole text, except on file systems without hard links, where it may be seen empty.

    Raises:
        FileExistsError: it exists.
    """
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        beside.write_text(text, encoding="utf-8", newline="")
        try:
            os.link(beside, path)
        except OSError:
            if beside.stat().st_nlink == 2:  # a network disk may do it and say that it failed
                return
            with open(path, "x", encoding="utf-8", newline="") as file:
                file.write(text)
    finally:
        beside.unlink(missing_ok=True)


def link_or_copy(file: Path, path: Path) -> None:
    """Make `path` a hard link to `file`, or a copy if the file system has no hard links; atomic."""
    with atomic_path(path) as beside:
        try:
            os.link(file, beside)
        except OSError:
            shutil.copyfile(file, beside)


def free_space(folder: Path) -> int:
    """Return the free space in bytes on the disk of a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def size_in_words(size: float) -> str:
    """Return a number of bytes as text in decimal units, such as "1.2 GB"."""
    name, unit = next(((name, unit) for name, unit in (("GB", 1e9), ("MB", 1e6)) if size >= unit), ("kB", 1e3))
    return f"{size / unit:.1f} {name}"


def data_file(header: Path) -> Path | None:
    """Return the separate file with the voxels of a MetaImage or NRRD header; None if they follow the header itself.

    Such a pair (.mhd and .raw, .nhdr and .raw.gz) is one image, so hashes of its content cover both files.

    Raises:
        ValueError: the header names something other than a single file in the same folder.
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
    """Return the SHA-256 of a file's content, 64 hex digits; for a header with a separate voxel file, of both."""
    try:
        beside = data_file(path)
    except ValueError:  # reported when the image is read
        beside = None
    digest = hashlib.sha256()
    for part in (path, beside):
        if part is not None:
            with open_file(part) as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def content_hash(path: Path) -> str:
    """Return the first 12 hex digits of a file's SHA-256, an identifier that cannot name a patient."""
    return sha256(path)[:12]


def known_hash(path: Path) -> str:
    """Return the `content_hash` of a file, "" if it cannot be read (which its loader reports)."""
    try:
        return content_hash(path)
    except OSError:
        return ""


def anonymous(path: Path) -> str:
    """Return a description of an image file by suffix and hash, as its path may contain a patient's name."""
    ends = sorted(READ_SUFFIXES, key=len, reverse=True)
    kind = next((end for end in ends if path.name.lower().endswith(end)), "data")
    digest = known_hash(path)
    return f"a {kind} file" + (f" (sha256 {digest}...)" if digest else "")

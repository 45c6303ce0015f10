"""What the page accepts of a browser, and the error with which it refuses anything else."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits", "RefusedError"]


class RefusedError(ValueError):
    """What a browser sent is refused; the message is for the person there, and quotes nothing of what was sent.

    Attributes:
        status: of the HTTP answer.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """Limits of an upload, and of all uploads together.

    Attributes:
        sent: bytes of an upload as sent.
        unpacked: bytes of an upload in all, with those of its zip files unpacked.
        ratio: of a zip file, how many times its size it may unpack to; below `small` bytes in all it is not looked at.
        small: see `ratio`; empty parts of an image pack to almost nothing.
        files: files of an upload, with those in its zip files.
        uploads: uploads that are kept at a time, of all people together.
        free: bytes of the disk that stay free.
        seconds: how long an upload that nobody looks at is kept.

    Example:
        >>> from monai_rd.serve.limits import Limits
        >>> Limits().files
        20000
    """

    sent: int = 2 * 10**9
    unpacked: int = 4 * 10**9
    ratio: int = 200
    small: int = 100 * 10**6
    files: int = 20_000
    uploads: int = 20
    free: int = 10**9
    seconds: float = 3600

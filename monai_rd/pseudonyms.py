"""Names for patients that are no names: keyed hashes, stable within a project, not reversible without its key.

A plain hash of a patient's ID is no pseudonym: IDs are short, and whoever has the hash tries them all. With a secret
key of the project (HMAC-SHA-256, RFC 2104) one cannot, and two projects with two keys cannot be linked.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
from pathlib import Path

from monai_rd.text import comparable, decode

__all__ = ["KEY_FILE", "patient_pseudonym", "project_key", "study_pseudonym"]

logger = logging.getLogger(__name__)

KEY_FILE = "monai_rd.key"


def project_key(path: str | os.PathLike[str] = KEY_FILE) -> bytes:
    """Read a project's key; make it where there is none.

    Args:
        path: the key file, 64 hex digits, readable by its owner only.

    Raises:
        ValueError: the file holds no key.
    """
    file = Path(path)
    if not file.exists():
        _make_key(file)
    text = file.read_text(errors="replace").strip()
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(
            f"'{file}' is not a key of this project (64 hex digits). Give another file, or remove it to have a new "
            "key made; pseudonyms then change."
        )
    return bytes.fromhex(text)


def _make_key(file: Path) -> None:
    """Write a key whole, and no other where another process has made one meanwhile."""
    whole = file.with_name(f"{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        with os.fdopen(os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(secrets.token_hex(32) + "\n")
        try:
            os.link(whole, file)
        except FileExistsError:
            return
        except OSError:  # a disk without links
            if file.exists():
                return
            os.rename(whole, file)
    finally:
        whole.unlink(missing_ok=True)
    logger.info("made the project's key '%s': pseudonyms depend on it; keep it, and never pass it on with them", file)


def patient_pseudonym(patient_id: bytes | str, key: bytes) -> str:
    """Return 16 hex digits for a patient's ID, "" for an empty one.

    Args:
        patient_id: as in a sheet or a DICOM header; bytes are taken for UTF-8, else Latin-1. What `comparable` finds
            the same is one patient, in whatever encoding it was stored.
        key: of the project.
    """
    told = comparable(decode(patient_id, "utf-8") if isinstance(patient_id, bytes) else patient_id)
    raw = told.encode("utf-8", "surrogatepass")  # a path may hold what is no text
    return hmac.new(key, b"patient:" + raw, "sha256").hexdigest()[:16] if raw else ""


def study_pseudonym(study_uid: str, key: bytes) -> str:
    """Return what stands for the patient of a study without patient ID: the smallest group that is surely one."""
    return hmac.new(key, b"study:" + study_uid.encode(), "sha256").hexdigest()[:16]

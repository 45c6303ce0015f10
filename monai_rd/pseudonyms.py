"""Pseudonyms of patients: keyed hashes, stable within a project and not reversible without its key.

A plain hash of a patient's ID is not a pseudonym: IDs are short, so that all of them can be tried. A secret key of the
project (HMAC-SHA-256, RFC 2104) prevents this, and projects with different keys cannot be linked.
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
    """Read the key of a project; if there is no key file, create one.

    Args:
        path: path of the key file, which holds 64 hex digits and is created readable by its owner only.

    Returns:
        The key, 32 bytes.

    Raises:
        ValueError: the file does not hold a key.
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
    """Write a new key atomically, unless another process has created one in the meantime."""
    whole = file.with_name(f"{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        with os.fdopen(os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(secrets.token_hex(32) + "\n")
        try:
            os.link(whole, file)
        except FileExistsError:
            return
        except OSError:  # a file system without links
            if file.exists():
                return
            os.rename(whole, file)
    finally:
        whole.unlink(missing_ok=True)
    logger.info("made the project's key '%s': pseudonyms depend on it; keep it, and never pass it on with them", file)


def patient_pseudonym(patient_id: bytes | str, key: bytes) -> str:
    """Return the pseudonym of a patient, 16 hex digits; "" for an empty ID.

    Args:
        patient_id: ID as in a table or a DICOM header; bytes are decoded as UTF-8, else as Latin-1. IDs that are equal
            by `comparable` are one patient, whatever their encoding.
        key: key of the project, see `project_key`.
    """
    told = comparable(decode(patient_id, "utf-8") if isinstance(patient_id, bytes) else patient_id)
    raw = told.encode("utf-8", "surrogatepass")  # a path may hold bytes that are not valid text
    return hmac.new(key, b"patient:" + raw, "sha256").hexdigest()[:16] if raw else ""


def study_pseudonym(study_uid: str, key: bytes) -> str:
    """Return a pseudonym, 16 hex digits, for the patient of a study without patient ID, from the study's UID."""
    return hmac.new(key, b"study:" + study_uid.encode(), "sha256").hexdigest()[:16]

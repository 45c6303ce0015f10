"""DICOM JSON (PS3.18 annex F), as far as answers of an archive need it: nothing in them is trusted."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["results_of", "store_response", "text_of", "value_of"]

_STORED, _FAILED, _NAME, _REASON = "00081199", "00081198", "00081155", "00081197"


def results_of(body: bytes, key: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the results of a search, each with its UID in the attribute `key`.

    Raises:
        ValueError: the body is not DICOM JSON, or a result has no UID.
    """
    read = _json(body)
    found = read if isinstance(read, list) else [read]  # some services send a single result without a list
    uids = [value_of(one, key) for one in found]
    if not all(isinstance(uid, str) and uid for uid in uids):
        raise ValueError("no DICOM JSON")
    return list(zip(uids, found, strict=True))


def text_of(found: Any, tag: str) -> str:
    """Return the first value of an attribute as text, "" if there is none or it cannot be read."""
    try:
        return str(value_of(found, tag) or "")
    except ValueError:
        return ""


def value_of(found: Any, tag: str) -> Any:
    """Return the first value of an attribute, None if there is none.

    Raises:
        ValueError: not DICOM JSON.
    """
    return next(iter(_values(found, tag)), None)


def store_response(body: bytes) -> tuple[set[str], dict[str, int]]:
    """Return the UIDs that a store response lists as stored, and the failure reasons of others, by UID."""
    stored: set[str] = set()
    failed: dict[str, int] = {}
    try:
        read = _json(body)
        one = read[0] if isinstance(read, list) and read else read
        stored = {str(value_of(item, _NAME)) for item in _values(one, _STORED)}
        for item in _values(one, _FAILED):
            reason = value_of(item, _REASON)
            failed[str(value_of(item, _NAME))] = reason if isinstance(reason, int) else 0x0110  # "processing failure"
    except ValueError:
        pass  # XML, a web page, nothing: the archive is queried instead
    return stored, failed


def _values(found: Any, tag: str) -> list[Any]:
    """Return the values of an attribute in DICOM JSON (PS3.18 annex F), [] if there are none.

    Raises:
        ValueError: not DICOM JSON.
    """
    element = found.get(tag, {}) if isinstance(found, dict) else None
    values = element.get("Value") or [] if isinstance(element, dict) else None
    if not isinstance(values, list):
        raise ValueError("no DICOM JSON")
    return values


def _json(body: bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: the text is not JSON, or nested too deeply.
    """
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("too deep") from None

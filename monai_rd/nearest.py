"""Suggestions for misspelt words in error messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["did_you_mean"]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'NEAREST'?)", or "" if no known word resembles the given one."""
    names = {str(name).lower(): str(name) for name in known}
    found = get_close_matches(word.lower(), names, n=1)
    return f" (did you mean '{names[found[0]]}'?)" if found else ""

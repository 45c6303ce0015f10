"""Names of transfer syntaxes, and hints on those that are not supported."""

from __future__ import annotations

from pydicom.uid import UID

__all__ = ["syntax_hint", "syntax_name"]

# Syntaxes of the standard (PS3.6 A-1) that are newer than the table of pydicom 3.0.
_YOUNG = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}
# Hints on the content, by words in the name of a syntax.
_HINTS = {
    "it holds video, not images": ("MPEG", "HEVC", "Video"),
    "it names a server that has the pixels, which are not in the file": ("JPIP",),
    "it holds sound or text, not images": ("Audio", "MIME", "XML"),
}


def syntax_name(syntax: str) -> str:
    """Return the name of a transfer syntax; if it has none, a description such as "private syntax" or "no syntax"."""
    known = UID(syntax)
    if known.is_transfer_syntax and not known.is_private:
        return known.name
    if syntax in _YOUNG or syntax.startswith("1.2.840.10008."):
        return _YOUNG.get(syntax, "a syntax of the standard under an unknown number")
    return "private syntax" if syntax else "no syntax"


def syntax_hint(syntax: str) -> str:
    """Return a hint on a transfer syntax that is not supported, followed by ": ", or "" if there is none."""
    name = syntax_name(syntax)
    hints = (hint for hint, words in _HINTS.items() if any(word in name for word in words))
    private = "it is no standard transfer syntax" if name == "private syntax" else ""
    found = next(hints, private)
    return f"{found}: " if found else ""

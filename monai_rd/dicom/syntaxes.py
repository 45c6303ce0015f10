"""Transfer syntaxes by name, and what is known of those that are not read."""

from __future__ import annotations

from pydicom.uid import UID

__all__ = ["syntax_hint", "syntax_name"]

# Of the standard (PS3.6 A-1), and younger than the table of pydicom 3.0.
_YOUNG = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}
# What words in a name tell of the content.
_HINTS = {
    "it holds video, not images": ("MPEG", "HEVC", "Video"),
    "it names a server that has the pixels, which are not in the file": ("JPIP",),
    "it holds sound or text, not images": ("Audio", "MIME", "XML"),
}


def syntax_name(syntax: str) -> str:
    """Return the name of a transfer syntax; of one that has none whether it is private, and of none at all that."""
    known = UID(syntax)
    if known.is_transfer_syntax and not known.is_private:
        return known.name
    if syntax in _YOUNG or syntax.startswith("1.2.840.10008."):
        return _YOUNG.get(syntax, "a syntax of the standard under an unknown number")
    return "private syntax" if syntax else "no syntax"


def syntax_hint(syntax: str) -> str:
    """Return what is known of a transfer syntax that is not read, with a colon and a blank behind it, or ""."""
    name = syntax_name(syntax)
    hints = (hint for hint, words in _HINTS.items() if any(word in name for word in words))
    private = "it is no standard transfer syntax" if name == "private syntax" else ""
    found = next(hints, private)
    return f"{found}: " if found else ""

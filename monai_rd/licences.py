"""Licences of what a student is made of: what a text says of commercial use, and what several together say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["CommercialUse", "Origin", "commercial_use_of", "hub_licence", "licences_in_words", "strictest"]

CommercialUse = Literal["allowed", "unverified", "unknown", "forbidden"]

# Licences without conditions on the field of use, by their identifier on the Hugging Face Hub, and other spellings.
_FREE = (
    *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "unlicense", "zlib"),
    *("cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "pddl", "odc-by", "bsl-1.0", "wtfpl"),
)
_SPELLINGS = {
    "apache": "apache-2.0",
    "apache-2": "apache-2.0",
    "apache-license-2.0": "apache-2.0",
    "apache-license-version-2.0": "apache-2.0",
    "mit-license": "mit",
    "bsd-3": "bsd-3-clause",
    "bsd-2": "bsd-2-clause",
    "cc0": "cc0-1.0",
}
# Further identifiers of the Hub, of licences with conditions.
_CONDITIONAL = (
    *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
    *("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
    *("gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "openrail", "creativeml-openrail-m"),
)
_FORBIDS = re.compile(r"(^|-)nc(-|$)|non-?commercial|no-commercial-use|research-only|academic(?!-free)")
_NOT_STATED = re.compile(r"|unknown|none|not stated.*|not told.*", re.IGNORECASE)


@dataclass(frozen=True)
class Origin:
    """Something that a student is made of, such as its teacher's weights: where it comes from, under which licence.

    Args:
        what: such as "teacher weights".
        name: its name.
        licence: as stated; "" if none is known.
        source: where it comes from: an address, or words; "" if it is not known.
        stated_by: who states the licence; "" if nobody does.
        commercial_use: "allowed"; "forbidden"; "unverified": terms of its own, or a licence that nobody checked;
            "unknown": no licence is known.
        terms: further conditions of use.
        sha256: of the file, 64 hex digits; "" if it is not one file.
        hub: "owner/name" of its model repository on the Hugging Face Hub; "" if there is none.

    Example:
        >>> from monai_rd.licences import Origin
        >>> Origin("teacher weights", "vit.onnx", "CC BY-NC 4.0").commercial_use
        'forbidden'
    """

    what: str
    name: str
    licence: str = ""
    source: str = ""
    stated_by: str = ""
    commercial_use: CommercialUse = "unknown"
    terms: str = ""
    sha256: str = ""
    hub: str = ""

    def __post_init__(self) -> None:
        if self.commercial_use == "unknown":
            object.__setattr__(self, "commercial_use", commercial_use_of(self.licence))

    @property
    def told(self) -> dict[str, Any]:
        """The fields as a JSON object, with the identifier of the licence on the Hub."""
        return {**asdict(self), "licence_id": hub_licence(self.licence)}


def hub_licence(licence: str) -> str:
    """Return the identifier of a licence on the Hugging Face Hub; "other" for one that it does not list, or "unknown".

    Example:
        >>> from monai_rd.licences import hub_licence
        >>> hub_licence("CC BY-NC-ND 4.0"), hub_licence("DINOv3 License"), hub_licence("")
        ('cc-by-nc-nd-4.0', 'other', 'unknown')
    """
    if _NOT_STATED.fullmatch(licence.strip()):
        return "unknown"
    slug = _slug(licence)
    slug = _SPELLINGS.get(slug, slug)
    return slug if slug in (*_FREE, *_CONDITIONAL) else "other"


def commercial_use_of(licence: str) -> CommercialUse:
    """Return what the text of a licence's name says of commercial use, see `Origin`.

    A text that is no known licence is "unverified": only its reader can tell.
    """
    if _NOT_STATED.fullmatch(licence.strip()):
        return "unknown"
    if _FORBIDS.search(_slug(licence)):
        return "forbidden"
    return "allowed" if hub_licence(licence) in _FREE else "unverified"


def strictest(origins: Sequence[Origin]) -> CommercialUse:
    """Return what several origins together say of commercial use: what one forbids is forbidden."""
    order: tuple[CommercialUse, ...] = ("forbidden", "unknown", "unverified")
    return next((use for use in order if any(one.commercial_use == use for one in origins)), "allowed")


def licences_in_words(origins: Sequence[Origin]) -> str:
    """Return in a line what the licences of weights say of commercial use, the strictest first.

    Example:
        >>> from monai_rd.licences import Origin, licences_in_words
        >>> licences_in_words([Origin("teacher weights", "a", "MIT"), Origin("teacher weights", "b.onnx")])
        'no licence is known of teacher weights b.onnx: ask their owner before any use'
    """
    if not origins:
        return "no weights of others were used"
    told = {
        "forbidden": "commercial use is forbidden by the licence of {}",
        "unknown": "no licence is known of {}: ask their owner before any use",
        "unverified": "read the terms of {} before any use: they are special, or were not checked",
    }
    found = []
    for use, words in told.items():
        named = [_named(one) for one in origins if one.commercial_use == use]
        if named:
            found.append(words.format(" and ".join(named)))
    return "; ".join(found) or f"commercial use is allowed by the licence of {' and '.join(map(_named, origins))}"


def _named(origin: Origin) -> str:
    return f"{origin.what} {origin.name}" + (f" ({origin.licence})" if hub_licence(origin.licence) != "unknown" else "")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")

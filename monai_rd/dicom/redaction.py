"""Text of DICOM headers: decoding by character set, and redaction of free text that could identify the patient."""

from __future__ import annotations

import calendar
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache

from pydicom._dicom_dict import DicomDictionary
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.dataset import Dataset

from monai_rd.dicom.values import element_of, items, parts, tag_of
from monai_rd.text import decode

__all__ = ["IDENTIFYING", "Identity", "decoded", "identity_of", "redacted", "redacted_code"]

_IDS = ("PatientID", "OtherPatientIDs", "MedicalRecordLocator", "AdmissionID", "AccessionNumber")
_MORE_IDS = "OtherPatientIDsSequence"  # its items have a PatientID
_NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ResponsiblePerson")
# All other attributes of DICOM that hold names of persons.
_OTHERS = tuple(entry[4] for entry in DicomDictionary.values() if entry[0] == "PN" and entry[4] not in _NAMES)
_BIRTH = "PatientBirthDate"
IDENTIFYING = (*_IDS, _MORE_IDS, *_NAMES, *_OTHERS, _BIRTH)
_FIELDS = {
    tag_of(keyword): field  # field of `Identity`
    for field, keywords in (("ids", _IDS), ("names", _NAMES), ("births", (_BIRTH,)), ("others", _OTHERS))
    for keyword in keywords
}

_DEFAULT_REPERTOIRE = "iso8859"  # pydicom's encoding for a missing or unknown character set
_DELIMITERS = {ord(c) for c in "\\^=\r\n\t\f"}  # characters that end a code extension, PS3.5 6.1.2.5.3
_LIGATURES = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "æ": "ae", "œ": "oe"})
# Context groups (PS3.16) of words that are not names: body parts, modalities, segmented structures; and further words.
_CONTEXT_GROUPS, _MORE_WORDS = (4, 29, 4030, 4031, 7151), ("case", "covid", "tumor", "tumour")


@dataclass(frozen=True, slots=True)
class Identity:
    """Identifying values of a header (patient, family, staff), kept in memory only and never shown.

    Attributes:
        ids: IDs and accession numbers.
        names: names of the patient and the patient's family in DICOM's form (``family^given``).
        births: dates of birth, YYYYMMDD.
        others: names of physicians and operators; devices sometimes write words such as "CT" instead.
    """

    ids: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    births: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "Identity(...)"


def decoded(dataset: Dataset, keyword: str | int) -> str:
    """Return the text of an element, decoded by the file's SpecificCharacterSet (PS3.3 C.12.1.1.2), "" if absent.

    Bytes that do not fit the character set, or have none, are decoded as UTF-8, else as Latin-1, so that the same bytes
    always give the same text.
    """
    try:
        element = element_of(dataset, keyword)
        value = element.value if element is not None else None
        if not isinstance(value, bytes):
            return _composed("\\".join(map(str, value)) if isinstance(value, list) else str(value or ""))
        if value.isascii() and b"\x1b" not in value:
            return _composed(value.decode("ascii"))
        return _composed(_decoded(value, parts(dataset, "SpecificCharacterSet")))
    except Exception:  # an undecodable value counts as absent
        return ""


def _decoded(value: bytes, character_sets: Sequence[str]) -> str:
    encodings = convert_encodings(list(character_sets))
    if b"\x1b" in value and len(encodings) > 1:
        with suppress(UnicodeError, LookupError):
            found = decode_bytes(value, encodings, _DELIMITERS)
            if "\ufffd" not in found:
                return found
    return decode(value, *(name for name in encodings[:1] if name != _DEFAULT_REPERTOIRE), "utf-8")


def _composed(value: str) -> str:
    return unicodedata.normalize("NFC", value).strip(" \0")


def identity_of(dataset: Dataset) -> Identity:
    """Return the identifying values of a header."""
    found = defaultdict[str, list[str]](list)
    for tag in _FIELDS.keys() & dataset.keys():
        found[_FIELDS[tag]] += filter(None, decoded(dataset, tag).split("\\"))
    with suppress(Exception):  # a damaged sequence counts as absent
        found["ids"] += filter(None, [decoded(item, "PatientID") for item in items(dataset, _MORE_IDS)])
    return Identity(**{field: tuple(told) for field, told in found.items()})


# ------------------------------------------------------------------------------------------------------ redaction


@lru_cache(4096)
def redacted(value: str, who: Identity) -> str:
    """Return a text with names, IDs and dates of birth replaced by `***`.

    An ID is replaced as a whole, however its parts are joined, and in each of its parts, except for words that describe
    images: with the ID ``PANCREAS_0001`` "Pancreas" is kept and "0001" replaced. Names match with and without accents.
    """
    hidden = [False] * len(value)
    patterns = _patterns(who)
    for spelt_out in (False, True):
        folded, places = _folded(value, spelt_out)
        for pattern in patterns:
            for match in pattern.finditer(folded):
                for place in places[match.start() : match.end()]:
                    hidden[place] = True
    shown = "".join("\0" if hide else c for hide, c in zip(hidden, value, strict=True))
    return re.sub("\0+", "***", shown)


def redacted_code(value: str, who: Identity) -> str:
    """Return a code redacted as by `redacted`, but keep codes of DICOM, such as CT or CHEST, even if they are names."""
    found = redacted(value, who)
    if found == value or value in _modalities() or set(_words(value.casefold())) <= _vocabulary():
        return value
    return found


@cache
def _modalities() -> frozenset[str]:
    from pydicom.sr.codedict import Collection

    return frozenset(code.value for code in Collection("CID33").concepts.values())


def _folded(value: str, spelt_out: bool) -> tuple[str, list[int]]:
    """Return a text without case and accents (ü as u, or spelt out as ue), and each letter's original position."""
    folded, places = "", []
    for place, character in enumerate(value):
        one = character.casefold()
        one = one.translate(_LIGATURES) if spelt_out else one
        one = "".join(c for c in unicodedata.normalize("NFKD", one) if not unicodedata.combining(c))
        folded += one
        places += [place] * len(one)
    return folded, places


@lru_cache(256)
def _patterns(who: Identity) -> tuple[re.Pattern[str], ...]:
    found: set[str] = set()
    for spelt_out in (False, True):
        for value in who.ids:
            found |= set(_id_patterns(_folded(value, spelt_out)[0]))
        for part in _name_parts(who.names, spelt_out):
            # A part with digits is a pseudonym in place of a name, and matched like an ID.
            found |= set(_id_patterns(part) if re.search(r"\d", part) else map(_name_pattern, _words(part)))
        for part in _name_parts(who.others, spelt_out):
            found |= {_name_pattern(word) for word in _words(part) if len(word) >= 4 and word not in _vocabulary()}
    for value in who.births:
        found |= set(_date_patterns(value))
    return tuple(re.compile(pattern) for pattern in sorted(found) if pattern)


def _name_parts(names: Sequence[str], spelt_out: bool) -> Iterator[str]:
    """Yield family, given and middle names in every script (PS3.5 6.2.1.1), without prefixes and suffixes ("Mr")."""
    for name in names:
        for group in _folded(name, spelt_out)[0].split("="):
            yield from group.split("^")[:3]


def _words(value: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", value)


def _name_pattern(word: str) -> str:
    """Return a pattern for a name: anywhere if it has four letters or more, else as a whole word; "" for an initial."""
    if len(word) < 2 and word.isascii():
        return ""
    found = re.escape(word)
    return found if len(word) >= 4 or not word.isascii() else rf"(?<![^\W\d_]){found}(?![^\W\d_])"


def _id_patterns(value: str) -> Iterator[str]:
    """Yield patterns for an ID and its parts."""
    runs = re.findall(r"[^\W\d_]+|\d+", value)
    if len("".join(runs)) < 2:
        return
    yield r"(?<![^\W_])" + r"[\W_]*".join(map(re.escape, runs)) + r"(?![^\W_])"
    for run in runs:
        if run.isdecimal():
            if len(run) >= 3:
                significant = run.lstrip("0")
                yield rf"(?<!\d){'0*' + significant if len(significant) >= 3 else run}(?!\d)"
        elif len(run) >= 3 and run not in _vocabulary():
            yield _name_pattern(run)


def _date_patterns(value: str) -> Iterator[str]:
    """Yield patterns for the usual ways to write a date (YYYYMMDD)."""
    if not re.fullmatch(r"\d{8}", value) or not 1 <= int(value[4:6]) <= 12:
        return
    year, month, day = value[:4], value[4:6], value[6:]
    number, gap = int(month), r"[\W_]{0,2}"
    name = f"(?:{calendar.month_name[number]}|{calendar.month_abbr[number]})".casefold()
    short = [f"0?{int(part)}" for part in (month, day)]
    edges = r"(?<!\d){}(?!\d)"
    for months, days in ((month, day), short, (name, short[1])):
        between = gap if months != short[0] else r"[\W_]{1,2}"
        for order in ((year, months, days), (days, months, year), (months, days, year)):
            yield edges.format(between.join(order))
    for order in ((day, month, year[2:]), (month, day, year[2:]), (year[2:], month, day)):
        yield edges.format(gap.join(order))


@cache
def _vocabulary() -> frozenset[str]:
    """Return the words of DICOM's attribute names and codes for image content, which are not names of persons."""
    from pydicom.sr.codedict import Collection  # takes a tenth of a second, and is only needed if an ID has words

    told = [entry[2] for entry in DicomDictionary.values()]
    for group in _CONTEXT_GROUPS:
        told += [code.meaning for code in Collection(f"CID{group}").concepts.values()]
    return frozenset(word for words in (*told, *_MORE_WORDS) for word in re.findall(r"[a-z]{3,}", words.casefold()))

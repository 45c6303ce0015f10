"""Advice on paths and IDs that match nothing: tries the usual changes that programs make; never applies them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import combinations, product
from urllib.parse import unquote

__all__ = ["near_ids", "near_paths", "path_advice", "would_match"]

# At most this many values are tried; more would not change the advice.
_TRIED = 1000
# What happens in programs that read an ID column as numbers.
_NUMBERS = ("without .0", "written out, not as 4.7E+03", "with leading zeros")

# What may have happened to a path, in the order in which it is undone; both sides are normalised.
_PATH_WAYS: Mapping[str, Callable[[str], str]] = {
    "with %20 and the like as what they stand for": unquote,
    "with accents stored in the other way (Unicode NFC, NFD)": lambda path: unicodedata.normalize("NFC", path),
    "in other case": str.casefold,
    "without .0": lambda path: re.sub(r"(?<=\d)\.0+(?=\.[A-Za-z]|$)", "", path),
    "with another ending, or with one": lambda path: re.sub(
        r"(?<=[^/])(\.nii\.gz|\.[A-Za-z][A-Za-z0-9]{0,4})$", "", path
    ),
    "with leading zeros": lambda path: re.sub(r"(?<!\d)0+(?=\d)", "", path),
}


def _whole(path: str) -> list[str]:
    return [path]


def _ends(path: str) -> list[str]:
    """List a path without its first folder, without its first two folders, and so on."""
    parts = path.split("/")
    return ["/".join(parts[first:]) for first in range(1, len(parts))]


def _name(path: str) -> list[str]:
    return [path.rstrip("/").rpartition("/")[2]]


# Which parts of a path, and of the known paths, are compared.
_PLACES: Mapping[str, tuple[Callable[[str], list[str]], Callable[[str], list[str]]]] = {
    "": (_whole, _whole),
    "without the folders before it that are not in dataset_dir": (_ends, _whole),
    "with the folders of dataset_dir before it": (_whole, _ends),
    "by the file's name alone, in another folder": (_name, _name),
}


def near_paths(values: Iterable[str], known: Collection[str]) -> dict[str, str]:
    """Find the changes that would make paths match.

    Args:
        values: paths that match nothing; only the first thousand are tried.
        known: paths that they could mean, such as those of the files that exist.

    Returns:
        For each path that would match exactly one known path: the change, in words.
    """
    given = {value.replace("\\", "/"): value for value in set(list(values)[:_TRIED])}
    left, how = set(given), dict[str, tuple[str, ...]]()
    wanted = {_name(_undone(value, _PATH_WAYS))[0] for value in left}
    # Paths that match after some of the changes have the same file name after all of them.
    candidates = [path for path in known if _name(_undone(path, _PATH_WAYS))[0] in wanted]
    at_work = [way for way, undo in _PATH_WAYS.items() if any(undo(path) != path for path in (*left, *candidates))]
    for steps, (place, (of_value, of_known)) in product((0, 1, 2, 3), _PLACES.items()):
        for ways in combinations(at_work, steps - bool(place)) if steps or not place else ():
            counts = Counter(end for path in candidates for end in of_known(_undone(path, ways)))
            hits = {value for value in left if any(counts[end] == 1 for end in of_value(_undone(value, ways)))}
            how |= dict.fromkeys(hits, (*ways, *filter(None, [place])))
            left -= hits
    slashes = {value: ("with / in place of \\",) if "\\" in given[value] else () for value in how}
    return {given[value]: _in_words(slashes[value] + ways) for value, ways in how.items()}


def path_advice(values: Iterable[str], known: Collection[str]) -> str:
    """Summarise `near_paths` as the end of a sentence; "" where nothing would match."""
    counts = Counter(near_paths(values, known).values())
    return "".join(f"; {count} would match {how}" for how, count in counts.items())


def _undone(path: str, ways: Iterable[str]) -> str:
    for way in ways:
        path = _PATH_WAYS[way](path)
    return path


def _digits(value: str) -> list[str]:
    """Write out a number that is given as 4.711E+03."""
    written = re.fullmatch(r"(\d)(?:[.,](\d+))?[eE]\+?(\d+)", value)
    if not written or len(written[2] or "") > int(written[3]):
        return []
    return [(written[1] + (written[2] or "")).ljust(1 + int(written[3]), "0")]


# The original forms that an ID may have had before a program or a person changed it.
_ID_WAYS: Mapping[str, Callable[[str], Iterable[str]]] = {
    "without .0": lambda value: re.findall(r"^(\d+)\.0+$", value),
    "written out, not as 4.7E+03": _digits,
    "with leading zeros": lambda value: (
        [value.zfill(width) for width in range(len(value) + 1, 17)] if value.isdecimal() else []
    ),
    "without leading zeros": lambda value: [value.lstrip("0")] if value[:1] == "0" else [],
    "in other case": lambda value: [value.upper(), value.lower()],
    "without quotes": lambda value: [value.strip("'\"`´ ")],
    "without what follows ^": lambda value: [value.partition("^")[0]],
    "with other separators or none": lambda value: (
        [re.sub(r"[\s_./-]+", by, value) for by in ("-", "_", " ", ".", "/", "")]
    ),
}


def near_ids(values: Iterable[str], is_known: Callable[[str], bool]) -> dict[str, str]:
    """Find the changes that would make IDs match; see `near_paths`.

    Args:
        values: IDs that match nothing.
        is_known: whether an ID exists; a function, because known IDs are stored as hashes only.
    """
    found: dict[str, str] = {}
    for value in set(list(values)[:_TRIED]):
        for ways in (*((way,) for way in _ID_WAYS), *combinations(_ID_WAYS, 2)):
            candidates = [value]
            for way in ways:
                candidates = [each for one in candidates for each in _ID_WAYS[way](one) if each != one]
            if any(map(is_known, filter(None, candidates))):
                found[value] = _in_words(ways)
                break
    return found


def _in_words(ways: Iterable[str]) -> str:
    advice = ": store the column as text" if set(ways) & set(_NUMBERS) else ""
    return " and ".join(ways) + advice


def would_match(found: Mapping[str, str], rows: Mapping[int, str]) -> dict[str, list[int]]:
    """Group the rows whose values would match by the change that is needed."""
    by_way: dict[str, list[int]] = {}
    for row, value in rows.items():
        if value in found:
            by_way.setdefault(found[value], []).append(row)
    return by_way

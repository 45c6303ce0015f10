"""Checks of the settings that users give a bundle (overrides): is the key read by the config, does the value fit?

MONAI silently adds any key to a config and parses every command-line value as Python: a folder named `20240131` becomes
a number, `None` becomes None, and `data#1` becomes `data`. Here paths and names are kept as they were typed.
"""

from __future__ import annotations

import csv
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from monai_rd.nearest import did_you_mean

__all__ = [
    "JSON_WORDS",
    "OF_RUN",
    "OverrideError",
    "ids_read",
    "overridden",
    "parsed",
    "refuse_unread",
    "settled",
    "switch",
    "typed_arguments",
    "unread_ids",
    "written",
]

_REFERENCE = re.compile(r"[@%](\w+(?:(?:#|::)\w+)*)")
_EXPRESSIONS = ("$", "@", "%")  # first characters of text that MONAI evaluates
_ENTRIES = {"imports", "initialize", "run", "finalize"}
_OF_TRACKING = {"tracking_uri", "experiment_name", "run_name", "save_execute_config"}  # MONAI's own, for tracking
OF_RUN = ("run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file")
JSON_WORDS = {"true": True, "false": False, "null": None}
_NOTHING = ("None", "none", "null")


class OverrideError(ValueError):
    """A key that nothing in the config reads, or a value that does not fit its key."""


# ---------------------------------------------------------------------------------------------------------- the keys


def _strings(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    for part in config.values() if isinstance(config, Mapping) else config if isinstance(config, (list, tuple)) else ():
        yield from _strings(part)


def ids_read(config: Any) -> set[str]:
    """Return the ids that expressions and references of a config read, with `#` between levels."""
    return {found.replace("::", "#") for text in _strings(config) for found in _REFERENCE.findall(text)}


def unread_ids(
    config: Mapping[str, Any], entries: Iterable[str] = (), own: Mapping[str, Any] | None = None
) -> list[str]:
    """Return the ids of a config that have no effect, because no expression reads them.

    Args:
        config: content of MONAI's `ConfigParser`.
        entries: ids that are run from outside, in addition to MONAI's own. Lists of expressions count as such ids too;
            ids that begin with an underscore are ignored.
        own: the unchanged config of the bundle; ids that it reads are accepted too.
    """
    read, known = ids_read([config, own]), _ENTRIES | _OF_TRACKING | set(entries)
    return [name for name, value in config.items() for name in _unread(name, value, read) if name not in known]


def _unread(name: str, value: Any, read: set[str]) -> Iterator[str]:
    """Yield the id if it is not read, or the unread ids in it if it is a table; arguments of components are skipped."""
    steps = isinstance(value, list) and value and all(isinstance(one, str) and one[:1] == "$" for one in value)
    if name in read or name.startswith("_") or steps:
        return
    if not any(one.startswith(f"{name}#") for one in read):
        yield name
    elif isinstance(value, Mapping) and "_target_" not in value:
        for key, part in value.items():
            if not (
                isinstance(part, Mapping) and "_target_" in part
            ):  # such as the trainer, which evaluate.json leaves
                yield from _unread(f"{name}#{key}", part, read)


def refuse_unread(unread: Sequence[str], read: Iterable[str]) -> None:
    """Raise an error if there are ids that nothing reads.

    Args:
        unread: the ids, see `unread_ids`.
        read: the ids that are read, for suggestions.

    Raises:
        OverrideError: there are some; the message suggests the most similar known id.
    """
    if unread:
        heads = {name.partition("#")[0] for name in read} | set(read)
        told = "; ".join(f"{name}{did_you_mean(name, {*heads, *OF_RUN})}" for name in unread)
        raise OverrideError(f"nothing reads --{told}. The bundle's docs/README.md lists what may be set")


# --------------------------------------------------------------------------------------------------------- the values


def typed_arguments(words: Sequence[str] | None = None) -> dict[str, str]:
    """Return the option values of a MONAI command line by key, as they were typed.

    Args:
        words: the arguments after the command's name; by default those of this process if it is a MONAI bundle command,
            else none.
    """
    if words is None:
        if Path(sys.argv[0]).parts[-3:] != ("monai", "bundle", "__main__.py"):
            return {}
        words = sys.argv[1:]
    found: dict[str, str] = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word == "--":
            break
        key, equals, value = word.lstrip("-").partition("=")
        if word.startswith("--") and (equals or not following.startswith("--")):
            found[key.replace("-", "_")] = value if equals else following
    return found


def written(value: Any) -> Any:
    """Return a value escaped for a config, so that MONAI, which replaces `#` by `::` in texts, returns it unchanged."""
    if isinstance(value, str) and "#" in value and not value.startswith(_EXPRESSIONS):
        return "$" + repr(value).replace("#", "\\x23").replace("@", "\\x40")
    return [written(one) for one in value] if isinstance(value, (list, tuple)) else value


def overridden(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Any:
    """Return a config with overrides applied, as MONAI's `ConfigParser`.

    Args:
        config: content of a bundle's JSON config; it is not changed.
        overrides: values by id, with `#` between levels.

    Raises:
        OverrideError: nothing reads an id, or a value does not fit its key.
    """
    from monai.bundle import ConfigParser

    parser = ConfigParser(deepcopy(dict(config)))  # which it changes
    for key, value in {**overrides, **settled(overrides, {})}.items():
        try:
            parser[key] = written(value)
        except (KeyError, ValueError, IndexError):  # a parent level does not exist
            refuse_unread([key], ids_read(config))
    refuse_unread(unread_ids(parser.config, own=config), ids_read([parser.config, config]))
    return parser


def settled(config: Mapping[str, Any], typed: Mapping[str, str]) -> dict[str, Any]:
    """Return the known settings of a config, checked and converted to the types that they need.

    Args:
        config: values by key; unknown settings and expressions are ignored, MONAI handles them.
        typed: values as typed on the command line, see `typed_arguments`.

    Returns:
        The known settings that have a value, or are None where that is allowed.

    Raises:
        OverrideError: a value does not fit its key.
    """
    found: dict[str, Any] = {}
    for key in (key for key in config if key in _KINDS):
        value, word = config[key], typed.get(key)
        if isinstance(value, str) and value.startswith(_EXPRESSIONS) and (word is None or word == value):
            continue
        if word is not None and (word in _NOTHING or not isinstance(value, str)):
            value = parsed(word)
        if value is None or value in _NOTHING:
            if key in _OPTIONAL:
                found[key] = None
                continue
            value = word or value
            if value is None:
                continue
        found[key] = _KINDS[key](key, value, word)
    return found


def parsed(word: str) -> Any:
    """Return a command-line value as MONAI (by Fire) parses it: as a Python literal if possible, else as text."""
    from fire.parser import DefaultParseValue  # type: ignore[import-untyped]

    return DefaultParseValue(word)


def switch(value: Any) -> bool:
    """Convert a command-line value to bool; MONAI leaves "true" and "false" as strings, which are both truthy.

    Raises:
        ValueError: the value is neither.
    """
    read = JSON_WORDS.get(value.lower(), value) if isinstance(value, str) else value
    if not isinstance(read, (bool, int)):
        raise ValueError(f"true or false is needed, got {value!r}")
    return bool(read)


def _wrong(key: str, value: Any, needed: str) -> OverrideError:
    given = "no value" if value is True else repr(value)
    return OverrideError(f"--{key}: {needed} is needed, got {given}")


def _text(key: str, value: Any, word: str | None) -> str:
    quoted = word is not None and word[:1] == word[-1:] and word[:1] in ("'", '"') and len(word) > 1
    if word is not None and not quoted:
        value = word
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value.strip():
        raise _wrong(key, value, "text (a name or a path)")
    return value


def _texts(key: str, value: Any, word: str | None) -> list[str]:
    if word is not None and not (isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)):
        inside = word[1:-1] if word[:1] + word[-1:] in ("[]", "()") else word
        quote = "'" if "'" in inside else '"'
        value = [one.strip() for one in next(csv.reader([inside], quotechar=quote, skipinitialspace=True), [])]
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) and one for one in value):
        raise _wrong(key, value, "a list of names, such as \"['clear','covid']\",")
    return list(value)


def _sources(key: str, value: Any, word: str | None) -> str | list[str]:
    several = isinstance(value, (list, tuple)) or (word is not None and word[:1] + word[-1:] == "[]")
    return _texts(key, value, word) if several else _text(key, value, word)


def _list(key: str, value: Any, word: str | None) -> list[Any]:
    found = [value] if isinstance(value, str) and value else value
    if not isinstance(found, (list, tuple)) or not found:
        raise _wrong(key, value, "a list")
    return list(found)


def _table(key: str, value: Any, word: str | None) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise _wrong(key, value, f'a table, such as "{{{_EXAMPLES[key]}}}",')
    return dict(value)


def _options(key: str, value: Any, word: str | None) -> dict[str, Any]:
    """Read a table whose values "true", "false" and "null", left as strings by the command line, are converted."""
    given = _table(key, value, word)
    return {name: JSON_WORDS.get(one, one) if isinstance(one, str) else one for name, one in given.items()}


def _tables(key: str, value: Any, word: str | None) -> dict[str, Any] | list[dict[str, Any]]:
    return [_options(key, o, None) for o in value] if isinstance(value, (list, tuple)) else _options(key, value, word)


def _switch(key: str, value: Any, word: str | None) -> bool:
    try:
        return switch(value)
    except ValueError:
        raise _wrong(key, value, "true or false") from None


def _number(key: str, value: Any, word: str | None) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise _wrong(key, value, "a number above 0")
    return value


def _share(key: str, value: Any, word: str | None) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise _wrong(key, value, "a share from 0 to below 1")
    return value


def _count(least: int) -> Callable[[str, Any, str | None], int]:
    def read(key: str, value: Any, word: str | None) -> int:
        whole = value
        if isinstance(value, str) and re.fullmatch(r"\d+", value):  # 007 is not a number in Python
            whole = int(value)
        if isinstance(value, float) and value.is_integer():  # 1e3
            whole = int(value)
        if isinstance(whole, bool) or not isinstance(whole, int) or whole < least:
            raise _wrong(key, value, f"a whole number of at least {least}")
        return whole

    return read


def _lengths(key: str, value: Any, word: str | None) -> list[float]:
    found = re.split(r"[\s,x]+", value.strip()) if isinstance(value, str) else value
    try:
        numbers = [float(one) for one in found]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 3 or not all(math.isfinite(one) and one > 0 for one in numbers):
        raise _wrong(key, value, 'three lengths in mm (x, y, z), such as "1.5 1.5 3",')
    return numbers


def _operating_point(key: str, value: Any, word: str | None) -> str:
    from monai_rd.operating_point import check_operating_point

    asked = _text(key, value, word)
    try:
        check_operating_point(asked, 2, multi_label=False)
    except ValueError as error:
        raise OverrideError(f"--{error}") from None
    return asked


def _conformal_groups(key: str, value: Any, word: str | None) -> str:
    from monai_rd.conformal_groups import check_conformal_groups

    asked = _text(key, value, word)
    try:
        check_conformal_groups(asked)
    except ValueError as error:
        raise OverrideError(f"--{error}") from None
    return asked


def _device(key: str, value: Any, word: str | None) -> Any:
    import torch

    try:
        found = torch.device(value)
    except (RuntimeError, TypeError):
        raise _wrong(key, value, "a device, such as cpu or cuda:0,") from None
    if found.type == "cuda" and not (found.index or 0) < torch.cuda.device_count():
        raise OverrideError(f"--{key} {value}: there is no such device here; leave --{key} out to take what there is")
    return value


_EXAMPLES = {
    "policy": "'MISSING_SLICES': 'skip'",
    "series_rule": "'modality': 'CT'",
    "method_options": "'temperature': 4",
    "adapter_options": "'rank': 4",
    "teacher_options": "'channel_order': 'BGR', 'tap': 'layer3'",
    "licences": "'teacher': 'MIT'",
}
_PLACES = ("bundle_root", "output_dir", "dataset_dir", "data_list", "cache_dir", "features_dir", "adapters_dir")
_NAMES = (
    *("teacher", "teacher_checkpoint", "student", "student_weights", "method", "adapter", "model_selection"),
    *("criterion", "class_weights", "region"),
)
_SWITCHES = ("report_page", "augment_on_device", "amp", "resume", "labelled", "multi_label", "n4", "phantom", "cutmix")
_COUNTS = (
    *("image_size", "teacher_size", "slices", "batch_size"),
    *("max_epochs", "total_epochs", "epoch_steps", "adapter_epochs", "val_interval"),
)
_KINDS: dict[str, Callable[[str, Any, str | None], Any]] = {
    **dict.fromkeys((*_PLACES, *_NAMES), _text),
    **dict.fromkeys(_SWITCHES, _switch),
    **dict.fromkeys(_COUNTS, _count(1)),
    **dict.fromkeys(("feature_views", "num_workers", "seed"), _count(0)),
    **dict.fromkeys(("policy", "series_rule", "licences"), _table),
    **dict.fromkeys(("method_options", "adapter_options"), _options),
    "teacher_options": _tables,
    **dict.fromkeys(("num_classes", "cross_fit"), _count(2)),
    "learning_rate": _number,
    "class_names": _texts,
    "unlabelled": _sources,
    "unlabelled_share": _share,
    "windows": _list,
    **dict.fromkeys(("spacing", "field", "teacher_spacing", "view_spacing"), _lengths),
    "device": _device,
    "operating_point": _operating_point,
    "conformal_groups": _conformal_groups,
}
_OPTIONAL = {
    *("data_list", "adapters_dir", "teacher_checkpoint", "teacher_options", "student_weights", "adapter"),
    *("class_names", "num_classes", "series_rule", "unlabelled", "epoch_steps", "teacher_size", "cross_fit"),
    *("class_weights", "image_size", "slices", "spacing", "field", "teacher_spacing", "view_spacing"),
    *("operating_point", "conformal_groups", "licences"),
}

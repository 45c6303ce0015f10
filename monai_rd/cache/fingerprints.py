"""Hashes by which cached results are found: of transforms by their settings, of items by the bytes of their files."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import random
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache, partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from monai_rd.errors import reading_files
from monai_rd.files import data_file, sha256
from monai_rd.walk import walk

if TYPE_CHECKING:
    from monai.data import Dataset

__all__ = ["READING", "Source", "describe", "files_of", "fingerprint", "item_key", "transforms_fingerprint"]

Source = str | Path | Sequence[str] | Mapping[str, "str | Path | Sequence[str]"]

_PACKAGE = __name__.partition(".")[0]

# The packages (without subpackages) whose code decides the result of reading and preparing an image.
READING = (_PACKAGE, f"{_PACKAGE}.dicom", f"{_PACKAGE}.images", f"{_PACKAGE}.transforms")

# Random states and thread-local values are not settings of a transform.
_NOT_SETTINGS = (np.random.RandomState, np.random.Generator, torch.Generator, random.Random, threading.local)


def fingerprint(value: Any) -> str:
    """Return the SHA-256 (hex) of `describe(value)`."""
    return hashlib.sha256(json.dumps(describe(value), sort_keys=True).encode()).hexdigest()


def transforms_fingerprint(dataset: Dataset) -> str:
    """Return the fingerprint of a data set's transforms: its `transform_fingerprint` if it has one, else computed now.

    Raises:
        TypeError: see `describe`.
    """
    return getattr(dataset, "transform_fingerprint", None) or fingerprint(dataset.transform)


def describe(value: Any, _above: tuple[int, ...] = ()) -> Any:
    """Describe a transform, or a chain of transforms, and all its settings as a JSON-serialisable value.

    Objects are described by their class, the code or the version of its package, and all their attributes; functions
    by their code, closures and defaults. Random states are left out. A chain must be described before it is used,
    because some transforms keep the numbers that they drew last.

    Raises:
        TypeError: an object in it has neither attributes nor code to describe it by.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if id(value) in _above:
        return {"above": len(_above) - _above.index(id(value))}
    inside = (*_above, id(value))
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)):
        array = np.ascontiguousarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
        content = hashlib.sha256(array.tobytes()).hexdigest()
        return {"array": content, "shape": list(array.shape), "dtype": str(array.dtype)}
    if isinstance(value, Mapping):
        return {"map": sorted(([describe(k, inside), describe(v, inside)] for k, v in value.items()), key=json.dumps)}
    if isinstance(value, (set, frozenset)):
        return {"set": sorted((describe(one, inside) for one in value), key=json.dumps)}
    if type(value) in (list, tuple):
        return [describe(one, inside) for one in value]
    if isinstance(value, Enum):
        return {"enum": f"{_name(type(value))}.{value.name}"}
    if isinstance(value, (torch.dtype, torch.device, np.dtype, Path, slice, range, bytes)):
        return {type(value).__name__: str(value)}
    if isinstance(value, np.ufunc):
        return {"ufunc": value.__name__}
    if isinstance(value, type):
        return {"class": _name(value), "code": _code_of(value)}
    if isinstance(value, partial):
        return {"partial": [describe(part, inside) for part in (value.func, value.args, value.keywords)]}
    if isinstance(value, MethodType):
        return {"method": value.__func__.__qualname__, "of": describe(value.__self__, inside)}
    if isinstance(value, FunctionType):
        return _describe_function(value, inside)
    if isinstance(value, BuiltinFunctionType):
        return {"function": f"{value.__module__}.{value.__qualname__}"}
    return _describe_object(value, inside)


def _describe_function(function: FunctionType, inside: tuple[int, ...]) -> dict[str, Any]:
    code = function.__code__
    constants = [str(one.co_code) if inspect.iscode(one) else repr(one) for one in code.co_consts]
    within = [cell.cell_contents for cell in function.__closure__ or ()]
    return {
        "function": f"{function.__module__}.{function.__qualname__}",
        "code": hashlib.sha256(repr((code.co_code, code.co_names, constants)).encode()).hexdigest(),
        "within": describe([within, list(function.__defaults__ or ())], inside),
    }


def _describe_object(value: Any, inside: tuple[int, ...]) -> dict[str, Any]:
    if is_dataclass(value):
        state = {field.name: getattr(value, field.name) for field in fields(value)}
    elif hasattr(value, "__dict__"):
        state = vars(value)
    else:
        raise TypeError(f"a {_name(type(value))} among the transforms does not say what it is set to")
    kept = {name: one for name, one in state.items() if not isinstance(one, _NOT_SETTINGS)}
    items = list(value) if isinstance(value, Sequence) else None
    return {
        "object": describe(type(value)),
        "state": {str(name): describe(one, inside) for name, one in kept.items()},
        **({} if items is None else {"items": describe(items, inside)}),
    }


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


@cache
def _code_of(kind: type) -> str:
    """Return a text that changes with the version of a class.

    For a class of an installed package, the package's version; for a class of this package, a hash of its module and
    of the code that reads and prepares images; for any other class, a hash of its module.
    """
    package = kind.__module__.partition(".")[0]
    if package == _PACKAGE:
        return hashlib.sha256((_reading_code() + _sha256_of_module(kind)).encode()).hexdigest()
    with suppress(PackageNotFoundError):
        return version(package)
    return _sha256_of_module(kind)


def _sha256_of_module(kind: type) -> str:
    try:
        file = inspect.getsourcefile(kind)
    except TypeError:
        return "built in"
    return sha256(Path(file)) if file and Path(file).is_file() else "unknown"


@cache
def _reading_code() -> str:
    """Return the SHA-256 (hex) of this package's code that reads and prepares images.

    The version number would not be enough: after a change of the code in a checkout, items cached by the old code would
    be used. `tests/test_structure.py` checks that transforms import nothing else of this package.
    """
    files = [file for room in READING for file in sorted(Path(import_module(room).__path__[0]).glob("*.py"))]
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()


def item_key(source: Source) -> str:
    """Return a SHA-256 (64 hex digits) of an item's image, which depends only on the bytes of its files.

    Args:
        source: a file, a folder, or a list of the files of one series; or these by role. The order of the files does
            not matter; the selection of their frames does, and the role of each.

    Raises:
        UnreadableFileError: a file cannot be read.
    """
    if isinstance(source, Mapping):
        named = (f"{role} {item_key(one)}" for role, one in source.items())
        return hashlib.sha256("\n".join(named).encode()).hexdigest()
    with reading_files():
        found = files_of(source)
        if isinstance(found, Path):
            return sha256(found)
        frames = getattr(source, "frames", None) or [""] * len(found)  # see `SeriesFiles`
        parts = (f"{sha256(one)}{numbers}" for one, numbers in zip(found, frames, strict=True))
        return hashlib.sha256("".join(sorted(parts)).encode()).hexdigest()


def files_of(source: Source) -> Path | list[Path]:
    """Return the file of an item, or all its files; for a header with a separate file of voxels, both."""
    if isinstance(source, Mapping):
        found = (files_of(one) for one in source.values())
        return [file for own in found for file in ([own] if isinstance(own, Path) else own)]
    if not isinstance(source, (str, Path)):
        return [Path(one) for one in source]
    path = Path(source)
    if os.path.isdir(path):
        return walk(path, below=False).files
    with suppress(ValueError):  # no such file: reading the image will raise the error
        beside = data_file(path)
        return path if beside is None else [path, beside]
    return path

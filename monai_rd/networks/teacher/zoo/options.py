"""User options that change a teacher's preprocessing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from monai_rd.nearest import did_you_mean
from monai_rd.networks.preprocessing import Preprocessing, VolumePreprocessing

__all__ = ["preprocessing_with_options"]

AnyPreprocessing = TypeVar("AnyPreprocessing", bound=Preprocessing | VolumePreprocessing)


def preprocessing_with_options(teacher: str, plain: AnyPreprocessing, options: Mapping[str, Any]) -> AnyPreprocessing:
    """Change fields of a teacher's preprocessing.

    Args:
        teacher: the teacher's name, for errors.
        plain: the preprocessing of its entry, its library or its file.
        options: new values of fields by name; one number for `mean` or `std` is used for all channels.

    Raises:
        ValueError: an unknown field, an invalid value, or a wrong number of channels.
    """
    try:
        return _with_options(plain, options)
    except ValueError as error:
        raise ValueError(f"teacher_options of '{teacher}': {error}") from error


def _with_options(plain: AnyPreprocessing, options: Mapping[str, Any]) -> AnyPreprocessing:
    known = [field.name for field in fields(plain)]
    for name in options:
        if name not in known:
            raise ValueError(f"'{name}' is none of tap, {', '.join(known)}{did_you_mean(name, ['tap', *known])}")
    if isinstance(plain, Preprocessing):
        order = options.get("channel_order", plain.channel_order)
        if (order == "GRAY") != (plain.channel_order == "GRAY"):
            raise ValueError(f"channel_order {order!r}: the network takes images of {plain.channels} channels")
    return replace(plain, **{name: _read(plain, name, value) for name, value in options.items()})


def _read(plain: Preprocessing | VolumePreprocessing, name: str, value: Any) -> Any:
    if name == "size":
        return _size(value, plain.spatial_dims)
    if name in ("mean", "std"):
        return _numbers(name, value, plain.channels) if isinstance(plain, Preprocessing) else _number(name, value)
    if name == "multiple":
        return _whole(name, value)
    if name == "nonzero":
        if not isinstance(value, bool):
            raise ValueError(f"nonzero must be true or false, not {value!r}")
        return value
    if not isinstance(value, str) and (name, value) != ("turn", None):
        raise ValueError(f"{name} must be a word, not {value!r}")
    return value


def _size(value: Any, dims: int) -> int | tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)):
        return _whole("size", value)
    if len(value) != dims:
        raise ValueError(f"size must be one whole number, or {dims} of them, not {value!r}")
    return tuple(_whole("size", side) for side in value)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be of whole numbers of at least 1, not {value!r}")
    return value


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} must be of numbers, not {value!r}")
    return float(value)


def _numbers(name: str, value: Any, channels: int) -> tuple[float, ...] | None:
    if value is None:
        return None
    every = value if isinstance(value, (list, tuple)) else [value] * channels
    found = tuple(number for one in every if (number := _number(name, one)) is not None)
    if len(found) != channels or len(every) != channels:
        raise ValueError(f"{name} must be one number, or one for each of {channels} channels, not {value!r}")
    return found

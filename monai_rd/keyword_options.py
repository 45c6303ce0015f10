"""Check options, given by users as a table, against the keyword arguments of what takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from monai_rd.nearest import did_you_mean

__all__ = ["check_options"]

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    NoneType: "null",
}


def check_options(whose: str, function: Callable[..., Any], known: Sequence[str], given: Mapping[str, Any]) -> None:
    """Refuse options that the function does not take, or whose value is of another type than its annotation.

    Annotations other than bool, int, float, str, None, `Literal`, and tuples and unions of those are not checked, nor
    those whose names exist for type checkers alone.

    Args:
        whose: what has the options, such as "the method 'rd'".
        function: what takes them as keyword arguments: a function, or a class's `__init__`.
        known: names of its options.
        given: value by name.

    Raises:
        ValueError: see above.
    """
    for name, value in given.items():
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise ValueError(f"{whose} has no option {name}{did_you_mean(name, known)}; {takes}")
        hint = _hint(function, name)
        if not _fits(value, hint):
            raise ValueError(f"the option '{name}' of {whose} is {_in_words(hint)}, got {value!r}")


def _hint(function: Callable[..., Any], name: str) -> Any:
    """Return the type of one keyword argument: the types of others may be imported for type checkers alone."""
    annotated = {key: one for key, one in getattr(function, "__annotations__", {}).items() if key == name}
    alone = FunctionType((lambda: None).__code__, getattr(function, "__globals__", {}))
    alone.__annotations__ = annotated
    try:
        return get_type_hints(alone).get(name, Any)
    except NameError:
        return Any


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple and Ellipsis not in parts:
        if not isinstance(value, (list, tuple)) or len(value) != len(parts):
            return False
        return all(_fits(one, part) for one, part in zip(value, parts, strict=True))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint not in _WORDS or isinstance(value, hint)


def _in_words(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_in_words, parts))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is tuple:
        return f"a list of {len(parts)}, each {_in_words(parts[0])}"
    return _WORDS[hint]

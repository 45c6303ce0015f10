"""Options given as a table, against the annotations of what takes them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from monai_rd.adapters import ADAPTERS
from monai_rd.keyword_options import check_options
from monai_rd.methods import METHODS


def takes(
    *,
    on: bool = True,
    ends: tuple[float, float] = (1.0, 0.0),
    width: int = 8,
    grid: int | None = 4,
    weight: float | None = None,
    form: Literal["mean", "sum"] = "mean",
    name: str = "a",
    anything: Mapping[str, Any] | None = None,
) -> None:
    """Have an option of each kind."""


KNOWN = list(inspect.signature(takes).parameters)


@pytest.mark.parametrize(
    "given",
    [
        {"on": False},
        {"ends": [1, 0.5]},
        {"ends": (2, 2)},
        {"width": 16, "grid": None, "weight": 1},
        {"weight": None, "form": "sum", "name": "b"},
        {"anything": 3},
    ],
    ids=str,
)
def test_values_of_the_right_type_pass(given: dict[str, Any]) -> None:
    check_options("it", takes, KNOWN, given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"on": "all"}, "the option 'on' of it is true or false, got 'all'"),
        ({"on": 1}, "true or false, got 1"),
        ({"ends": 3}, "the option 'ends' of it is a list of 2, each a number, got 3"),
        ({"ends": [1]}, r"a list of 2, each a number, got \[1\]"),
        ({"ends": "10"}, "a list of 2, each a number, got '10'"),
        ({"ends": [1, "x"]}, "a list of 2, each a number, got"),
        ({"width": "8"}, "a whole number, got '8'"),
        ({"width": 8.5}, "a whole number, got 8.5"),
        ({"width": True}, "a whole number, got True"),
        ({"grid": "a"}, "a whole number or null, got 'a'"),
        ({"weight": "hot"}, "a number or null, got 'hot'"),
        ({"form": "max"}, "'mean' or 'sum', got 'max'"),
        ({"name": 7}, "a text, got 7"),
        ({"widht": 7}, r"it has no option widht \(did you mean 'width'\?\); it takes on, ends, width"),
    ],
    ids=str,
)
def test_others_are_refused_by_name(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_options("it", takes, KNOWN, given)


def test_an_annotation_for_type_checkers_alone_is_not_checked() -> None:
    def strangers(*, form: Unknown = None) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Have an option of a type that is not imported."""

    check_options("it", strangers, ["form"], {"form": 3})


def test_defaults_of_all_methods_and_adapters_pass_and_a_wrong_type_does_not() -> None:
    checked = 0
    functions = [found.__init__ for found in METHODS.values()] + [adapter.fit for adapter in ADAPTERS.values()]
    for function in functions:
        options = {
            key: one.default
            for key, one in inspect.signature(function).parameters.items()
            if one.default is not inspect.Parameter.empty
        }
        check_options("it", function, list(options), options)
        for key in options:
            with pytest.raises(ValueError, match=f"the option '{key}' of it is"):
                check_options("it", function, list(options), {key: object()})
            checked += 1
    assert checked > 40

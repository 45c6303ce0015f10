"""The page that shows how a method is added; that its method serves, test_every_method.py holds."""

from __future__ import annotations

from typing import Any

import pytest

from monai_rd.methods import METHODS, method_class
from tests.methods.page import ADDED, EXAMPLE, EXAMPLE_TEST, PAGE


def test_the_example_is_short_and_passes_its_own_test() -> None:
    assert len(EXAMPLE.splitlines()) <= 30
    page: dict[str, Any] = {}
    exec(compile(EXAMPLE_TEST, "test_cosine.py", "exec"), page)
    page["test_is_its_formula"]()
    assert f"--method {ADDED} " in PAGE.read_text(encoding="utf-8")


def test_the_table_has_every_method() -> None:
    rows = [line.split("`")[1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(METHODS)


def test_a_path_that_leads_to_no_method_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no method 'nowhere.Method': No module named 'nowhere'; is its file in"):
        method_class("nowhere.Method")
    with pytest.raises(ValueError, match=r"no method 'cosine.Sine': .*has no attribute 'Sine'"):
        method_class("cosine.Sine")
    with pytest.raises(ValueError, match=r"'cosine.Tensor' is no method: derive its class from"):
        method_class("cosine.Tensor")

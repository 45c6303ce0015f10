"""The page that shows how a method is added; that its method serves, test_every_method.py holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from monai_rd.methods import METHODS, method_class
from tests.methods.page import ADDED, EXAMPLE, PAGE, TESTS


def test_the_example_is_short_and_both_pass_their_own_tests() -> None:
    assert len(EXAMPLE.splitlines()) <= 30
    for number, test in enumerate(TESTS):
        page: dict[str, Any] = {}
        exec(compile(test, f"test_{number}.py", "exec"), page)
        page["test_is_its_formula"]()
    assert f"--method {ADDED[0]} " in PAGE.read_text(encoding="utf-8")


def test_the_table_has_every_method() -> None:
    rows = [line.split("`")[1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(METHODS)


def test_a_path_that_leads_to_no_method_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"no method 'nowhere.Method': No module named 'nowhere'; is its file in"):
        method_class("nowhere.Method")
    with pytest.raises(ValueError, match=r"no method 'json.nowhere.Method': No module named 'json.nowhere'; is its"):
        method_class("json.nowhere.Method")
    (tmp_path / "uses_another.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"no method 'uses_another.Method': No module named 'not_there_at_all'$"):
        method_class("uses_another.Method")
    with pytest.raises(ValueError, match=r"no method 'cosine.Sine': .*has no attribute 'Sine'"):
        method_class("cosine.Sine")
    with pytest.raises(ValueError, match=r"'cosine.Tensor' is no method: derive its class from"):
        method_class("cosine.Tensor")

"""Every public class shows in its docstring how it is used, and what it shows is what happens."""

from __future__ import annotations

import doctest
import inspect
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

# Packages and modules whose classes show how they are used: those that their `__all__` names, but errors.
PACKAGES = [
    "monai_rd.adapters",
    "monai_rd.cache",
    "monai_rd.datasets",
    "monai_rd.datasets.audit",
    "monai_rd.datasets.published",
    "monai_rd.dicom",
    "monai_rd.drift",
    "monai_rd.errors",
    "monai_rd.finite",
    "monai_rd.handlers",
    "monai_rd.images",
    "monai_rd.inference",
    "monai_rd.integrations.archives.archive",
    "monai_rd.losses",
    "monai_rd.methods",
    "monai_rd.methods.rd",
    "monai_rd.networks",
    "monai_rd.networks.teacher.zoo",
    "monai_rd.networks.teacher.zoo.architectures",
    "monai_rd.protocol.statistics",
    "monai_rd.report",
    "monai_rd.report.layers",
    "monai_rd.transforms",
    "monai_rd.walk",
]


@cache
def classes() -> dict[str, type]:
    """The public classes by the name that users import them by."""
    found = {}
    for package in PACKAGES:
        module = import_module(package)
        found |= {f"{package}.{name}": getattr(module, name) for name in module.__all__}
    return {
        name: one
        for name, one in found.items()
        if inspect.isclass(one) and one.__module__.startswith("monai_rd") and not issubclass(one, BaseException)
    }


@pytest.mark.parametrize("name", classes())
def test_the_docstring_has_an_example_that_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # examples write where they are
    shown = classes()[name]
    (example,) = doctest.DocTestFinder(recurse=False).find(shown, name, globs={})
    assert example.examples, f"{name} shows no example"
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert said == []

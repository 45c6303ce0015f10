"""Packages that import their names on first use, so that reading DICOM headers need not wait for torch.

One function, instead of the library `lazy_loader`, with which names would have to be listed as often: its `attach`
needs the same table in addition to the imports for type checkers, its `attach_stub` a second file for each package.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return a package's `__getattr__` (PEP 562) that imports names on first use.

    Args:
        package: the package's `__name__`.
        homes: maps each module of the package to the names that the package exports from it.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(importlib.import_module(f"{package}.{home_of[name]}"), name)

    return find

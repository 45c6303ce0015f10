"""Packages whose names are imported when they are asked for: reading DICOM headers must not wait for torch.

By hand, because it is one function. With `lazy_loader` names would be said as often: its `attach` wants the same table
beside what type checkers read, its `attach_stub` a second file for each package, with imports relative to it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return a package's `__getattr__` (PEP 562).

    Args:
        package: its `__name__`.
        homes: its modules and the names that each gives to the package.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(importlib.import_module(f"{package}.{home_of[name]}"), name)

    return find

"""What many tests need. Nothing large is imported here: the process that hands the tests out would wait for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Tests run in two processes at a time (pyproject.toml), and start others: one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

if TYPE_CHECKING:
    from tests.tiny_run import TinyRun


@pytest.fixture
def tiny_run(tmp_path: Path) -> Callable[..., TinyRun]:
    """Make a run; `folder` names a subfolder of the test's own."""
    from tests.tiny_run import TinyRun

    def make(folder: str = "run", **options: Any) -> TinyRun:
        return TinyRun(tmp_path / folder, **options)

    return make

"""The pictures that are cached, and one thread for who asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.cache.cached_items import pictures


@pytest.fixture
def images(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    """As many pictures as the file of the test says by its `ITEMS`."""
    return pictures(tmp_path / "images", request.module.ITEMS)


@pytest.fixture
def few_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

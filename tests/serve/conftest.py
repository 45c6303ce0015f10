"""A server whose limits a test reaches soon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.serve.serving import Browser, serving
from tests.waiting import wait_for

if TYPE_CHECKING:
    from monai_rd.inference import Predictor

SENT, UNPACKED, FILES, SMALL = 2_500_000, 4_000_000, 40, 1_000_000  # limits that a test reaches soon


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "files"


@pytest.fixture(scope="module")
def server(predictor: Predictor, folder: Path) -> Iterator[Browser]:
    limits = {"sent": SENT, "unpacked": UNPACKED, "files": FILES, "small": SMALL, "uploads": 1000}
    with serving(predictor, folder, **limits) as browser:
        yield browser


@pytest.fixture
def page(server: Browser, folder: Path) -> Iterator[Browser]:
    """A session of its own, whose uploads are removed at the end."""
    browser = Browser(server.port)
    yield browser
    for job in browser.made:
        browser.ask("DELETE", job)
    wait_for(lambda: list(folder.iterdir()) == [])

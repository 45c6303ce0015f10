"""What many tests need. Nothing large is imported here: the process that hands the tests out would wait for it."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Tests run in two processes at a time (pyproject.toml), and start others: one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

if TYPE_CHECKING:
    from monai_rd.inference import Predictor
    from tests.servers import Orthanc
    from tests.tiny_run import TinyRun


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest or wait, so that both processes end at about the same time."""
    items.sort(key=lambda item: item.path.name not in ("test_slurm.py", "test_windows.py"))


def pytest_collection_finish() -> None:
    """Keep the garbage collector from looking through all that was imported, again and again."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    """A command, or a bundle's logging.conf, sets them for the whole process: to write into this test's own console."""
    root = logging.getLogger()
    of_root = root.handlers[:]
    loggers = [logging.getLogger(name) for name in ("monai_rd", "monai.bundle.scripts", "pydicom")]
    before = [(one.level, one.propagate, one.handlers[:]) for one in loggers]
    yield
    for one, (level, propagate, handlers) in zip(loggers, before, strict=True):
        one.setLevel(level)
        one.propagate, one.handlers[:] = propagate, handlers
    for one in [one for one in root.handlers if one not in of_root and not type(one).__module__.startswith("_pytest")]:
        root.removeHandler(one)


@pytest.fixture
def tiny_run(tmp_path: Path) -> Callable[..., TinyRun]:
    """Make a run; `folder` names a subfolder of the test's own."""
    from tests.tiny_run import TinyRun

    def make(folder: str = "run", **options: Any) -> TinyRun:
        return TinyRun(tmp_path / folder, **options)

    return make


@pytest.fixture
def few_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Occlusion covers 8 patches of a volume instead of 125."""
    from monai_rd.report import explaining

    monkeypatch.setitem(explaining.POSITIONS, 3, 2)


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Give a bundle_root for CT whose student has random weights and these settings."""
    from tests.trained import trained_files

    return lambda **settings: trained_files(tmp_path_factory.mktemp("bundle"), **settings)


@pytest.fixture(scope="session")
def predictor(bundle_of: Callable[..., Path]) -> Predictor:
    """CT, two classes that exclude each other."""
    from monai_rd.inference import Predictor, TrainedBundle

    return Predictor(TrainedBundle("rd_ct", bundle_root=str(bundle_of()), device="cpu"))


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Orthanc on this machine alone, empty at first; skips where it is not installed."""
    from tests.servers import running_orthanc

    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as one:
        yield one

"""Where studies come from and where answers go.

A place is a folder, or `NAME:REST`, such as `dicomweb:https://host/dicom-web`: then the module `monai_rd.deploy.NAME`
has `source(place)` and `sink(place, predictor)`, which give the two protocols here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydicom.dataset import Dataset

from monai_rd.files import atomic_path

if TYPE_CHECKING:
    from monai_rd.deploy.predict import Prediction, Predictor

__all__ = ["FolderSink", "FolderSource", "Sink", "Source", "sink_of", "source_of"]


class Source(Protocol):
    """Where studies come from."""

    def __iter__(self) -> Iterator[Path]:
        """Give folders to be scored, one after the other.

        To ask for the next one says that the answers about the one before are stored.
        """


class Sink(Protocol):
    """Where answers go."""

    def store(self, predictions: Sequence[Prediction], objects: Sequence[tuple[str, Dataset]]) -> None:
        """Store the answers about one folder.

        Args:
            predictions: one for each of its studies.
            objects: reports and pictures made of them, each with a file name that holds no patient.

        Raises:
            OSError: they could not be stored.
        """


class FolderSource:
    """A folder or a DICOMDIR.

    Args:
        path: of it.

    Raises:
        FileNotFoundError: there is none.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(f"--from {path}: no such folder or DICOMDIR")
        self.path = path

    def __iter__(self) -> Iterator[Path]:
        yield self.path


class FolderSink:
    """A folder: `scores.csv`, `scores.json`, and DICOM objects in `dicom/`.

    Each file is written whole or not at all; the scores last, so that what they tell is there.

    Args:
        path: of it, made where it is not there.
        predictor: whose answers they are.
    """

    def __init__(self, path: Path, predictor: Predictor) -> None:
        self.path, self.predictor = path, predictor
        self._predictions: list[Prediction] = []

    def store(self, predictions: Sequence[Prediction], objects: Sequence[tuple[str, Dataset]]) -> None:
        """Write the objects, and the scores of all that was stored so far."""
        for name, made in objects:
            with atomic_path(self.path / "dicom" / name) as beside:
                made.save_as(beside, enforce_file_format=True)
        self._predictions += predictions
        self.predictor.write(self._predictions, self.path / "scores.csv")


def source_of(place: str) -> Source:
    """Open a place that studies come from.

    Raises:
        ValueError: nothing is known by its name.
        OSError: it is not there.
    """
    name = _name(place)
    return importlib.import_module(f"monai_rd.deploy.{name}").source(place) if name else FolderSource(Path(place))


def sink_of(place: str, predictor: Predictor) -> Sink:
    """Open a place that answers go to.

    Raises:
        ValueError: nothing is known by its name.
        OSError: it is not there.
    """
    name = _name(place)
    if not name:
        return FolderSink(Path(place), predictor)
    return importlib.import_module(f"monai_rd.deploy.{name}").sink(place, predictor)


def _name(place: str) -> str:
    """The module that knows the place, "" of a folder (also where Windows names its disk)."""
    name, colon, _ = place.partition(":")
    if not colon or len(name) == 1 or Path(place).exists():
        return ""
    if not name.isidentifier() or find_spec(f"monai_rd.deploy.{name}") is None:
        raise ValueError(f"'{place}' is no folder, and no kind of place is called '{name}'")
    return name

"""Where studies come from and where answers go: what is asked of every place, and folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydicom.dataset import Dataset

from monai_rd.files import atomic_path

if TYPE_CHECKING:
    from monai_rd.deploy.predict import Prediction, Predictor

__all__ = ["FolderSink", "FolderSource", "Sink", "Source", "write_object"]


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
    """A folder: the scores as CSV and JSON, and DICOM objects in `dicom/`.

    Each file is written whole or not at all; the scores last, so that what they tell is there.

    Args:
        path: of it, made where it is not there.
        predictor: whose answers they are.
        scores: name of the CSV.
    """

    def __init__(self, path: Path, predictor: Predictor, scores: str = "scores.csv") -> None:
        self.path, self.predictor, self.scores = path, predictor, scores
        self._predictions: list[Prediction] = []

    def store(self, predictions: Sequence[Prediction], objects: Sequence[tuple[str, Dataset]]) -> None:
        """Write the objects, and the scores of all that was stored so far."""
        for name, made in objects:
            write_object(made, self.path / "dicom" / name)
        self._predictions += predictions
        self.predictor.write(self._predictions, self.path / self.scores)


def write_object(made: Dataset, path: Path) -> None:
    """Write a DICOM object as a file, whole or not at all."""
    with atomic_path(path) as beside:
        made.save_as(beside, enforce_file_format=True)

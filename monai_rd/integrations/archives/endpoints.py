"""Sources of studies and sinks for results: their interface, and folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydicom.dataset import Dataset

from monai_rd.dicom.header_warnings import log_warnings_once
from monai_rd.files import atomic_path

if TYPE_CHECKING:
    from monai_rd.inference import Prediction, Predictor

__all__ = ["FolderSink", "FolderSource", "Scores", "Sink", "Source", "write_object"]


class Source(Protocol):
    """A source of studies."""

    def __iter__(self) -> Iterator[Path]:
        """Yield folders to be scored, one after the other.

        The caller asks for the next folder only after it has stored the results of the one before.
        """


class Sink(Protocol):
    """A sink for results."""

    def store(self, predictions: Sequence[Prediction], objects: Sequence[tuple[str, Dataset]]) -> None:
        """Store the results of one folder.

        Args:
            predictions: one prediction for each of its studies.
            objects: reports and pictures made of them, each with a file name without patient data.

        Raises:
            OSError: the results could not be stored.
        """


class FolderSource:
    """A source that yields a single folder, DICOMDIR or list.

    Args:
        path: the folder, DICOMDIR or list.

    Raises:
        FileNotFoundError: it does not exist.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(f"--from {path}: no such folder, DICOMDIR or list")
        self.path = path

    def __iter__(self) -> Iterator[Path]:
        yield self.path


class Scores:
    """The scores of a run as CSV and JSON.

    Args:
        path: the CSV file; the JSON file lies next to it.
        predictor: the predictor that makes the scores.
        before: predictions that a killed run has left in the same file; a study that is scored again keeps only its new
            rows.
    """

    def __init__(self, path: Path, predictor: Predictor, before: Sequence[Prediction] = ()) -> None:
        self.path, self.predictor = path, predictor
        self._before = list(before)
        self._made: list[Prediction] = []

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Add predictions, and write the files with all predictions so far."""
        if self._before:
            anew = {one.id for one in predictions if one.id}
            self._before = [one for one in self._before if one.id not in anew]
        self._made += predictions
        self.predictor.write([*self._before, *self._made], self.path)


class FolderSink:
    """A sink that writes into a folder: scores as CSV and JSON, and DICOM objects in `dicom/`.

    Each file is written atomically; the scores last, so that all files that they refer to exist.

    Args:
        path: the folder, created if it does not exist.
        scores: the scores in it.
    """

    def __init__(self, path: Path, scores: Scores) -> None:
        self.path, self.scores = path, scores

    def store(self, predictions: Sequence[Prediction], objects: Sequence[tuple[str, Dataset]]) -> None:
        """Write the objects, and the scores of all predictions so far."""
        for name, made in objects:
            write_object(made, self.path / "dicom" / name)
        self.scores.add(predictions)


@log_warnings_once()
def write_object(made: Dataset, path: Path) -> None:
    """Write a DICOM object as a file, atomically."""
    with atomic_path(path) as beside:
        made.save_as(beside, enforce_file_format=True)

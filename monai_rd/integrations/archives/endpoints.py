"""Where studies come from and where answers go: what is asked of every place, and folders."""

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


class Scores:
    """The scores of a run as CSV and JSON.

    Args:
        path: of the CSV.
        predictor: whose answers they are.
        before: what a run that was killed has left in the same file: a study that is answered anew has its new rows
            alone.
    """

    def __init__(self, path: Path, predictor: Predictor, before: Sequence[Prediction] = ()) -> None:
        self.path, self.predictor = path, predictor
        self._before = list(before)
        self._made: list[Prediction] = []

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Write them with all that was added so far."""
        if self._before:
            anew = {one.id for one in predictions if one.id}
            self._before = [one for one in self._before if one.id not in anew]
        self._made += predictions
        self.predictor.write([*self._before, *self._made], self.path)


class FolderSink:
    """A folder: the scores as CSV and JSON, and DICOM objects in `dicom/`.

    Each file is written whole or not at all; the scores last, so that what they tell is there.

    Args:
        path: of it, made where it is not there.
        scores: in it.
    """

    def __init__(self, path: Path, scores: Scores) -> None:
        self.path, self.scores = path, scores

    def store(self, predictions: Sequence[Prediction], objects: Sequence[tuple[str, Dataset]]) -> None:
        """Write the objects, and the scores of all that was stored so far."""
        for name, made in objects:
            write_object(made, self.path / "dicom" / name)
        self.scores.add(predictions)


@log_warnings_once()
def write_object(made: Dataset, path: Path) -> None:
    """Write a DICOM object as a file, whole or not at all."""
    with atomic_path(path) as beside:
        made.save_as(beside, enforce_file_format=True)

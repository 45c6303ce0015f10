"""Sources of studies and sinks for results: their interface, and folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydicom.dataset import Dataset

from monai_rd.datasets.studies import Studies, files_of_item
from monai_rd.dicom.header_warnings import log_warnings_once
from monai_rd.files import atomic_path, remove_unfinished
from monai_rd.integrations.archives.state import State, key_of

if TYPE_CHECKING:
    from monai_rd.inference import Prediction, Predictor

__all__ = ["FolderSink", "FolderSource", "Sink", "Source", "Study", "write_object"]


@dataclass(frozen=True)
class Study:
    """What is scored and answered as one.

    Args:
        key: under which it is remembered as answered, see `State.answered`; "" if nothing is remembered.
        found: what to score.
    """

    key: str
    found: Studies


class Source(Protocol):
    """A source of studies.

    Attributes:
        left: keys of the studies that are left for the next run, as `State.each` knows them.
        done: keys of those that are answered.
    """

    left: set[str]
    done: set[str]

    def __iter__(self) -> Iterator[Study]:
        """Yield studies to be scored, one after the other.

        The caller asks for the next one only after it has stored the results of the one before.
        """


class Sink(Protocol):
    """A sink for results."""

    def store(self, key: str, predictions: Sequence[Prediction], objects: Sequence[tuple[str, Dataset]]) -> None:
        """Store the results of a study.

        Args:
            key: the study's.
            predictions: one for each of its items.
            objects: reports and pictures made of them, each with a file name without patient data.

        Raises:
            OSError: the results could not be stored.
        """

    def finish(self) -> None:
        """Store what waits, if that is possible now."""


class FolderSource:
    """A source of the studies in a folder, DICOMDIR or list.

    Args:
        path: the folder, DICOMDIR or list.
        predictor: finds the studies.
        state: remembers which studies are answered, and shares them among workers, one by one; None: everything is
            scored, as one study.

    Attributes:
        empty: whether nothing was found.
    """

    def __init__(self, path: Path, predictor: Predictor, state: State | None) -> None:
        self.path, self.predictor, self.state = path, predictor, state
        self.left: set[str] = set()
        self.done: set[str] = set()
        self.empty = False

    def __iter__(self) -> Iterator[Study]:
        found = self.predictor.find(self.path)
        self.empty = not found.items and not found.problems
        if self.state is None:
            yield Study("", found)
            return
        for key, study in self.state.each(self._by_key(found).items()):
            if not self.state.answered(key):
                yield Study(key, study)
            self.done.add(key)

    def _by_key(self, found: Studies) -> dict[str, Studies]:
        """Return each study alone, by a key that other files in the folder do not change."""
        copies, model = Counter[str](), self.predictor.algorithm.identity
        alone: dict[str, Studies] = {}

        def add(study: Studies, series: str, name: str, *more: object) -> None:
            content = key_of(series, name if series else name.partition("-")[2], *more, model)
            copies[content] += 1
            alone[key_of(content, copies[content])] = study

        for problem in found.problems:
            add(Studies([], [problem]), problem.series_uid or "", problem.study_id, problem.code)
        for item in found.items:
            add(Studies([item], []), item["series"], item["id"], len(files_of_item(item)))
        return alone


class FolderSink:
    """A sink that writes into a folder: DICOM objects in `dicom/`, and scores as CSV and JSON.

    Each file is written atomically; the scores last, so that all files that they refer to exist.

    Args:
        path: the folder, created if it does not exist.
        predictor: the predictor that makes the results.
        state: keeps the scores until they are listed; None: they are written as `scores.csv`, of one study.
    """

    def __init__(self, path: Path, predictor: Predictor, state: State | None) -> None:
        self.path, self.predictor, self.state = path, predictor, state

    def store(self, key: str, predictions: Sequence[Prediction], objects: Sequence[tuple[str, Dataset]]) -> None:
        """Write the objects, and the scores."""
        for name, made in objects:
            write_object(made, self.path / "dicom" / name)
        if self.state is not None:
            self.state.keep(key, self.predictor.content(predictions))
        elif predictions:
            self.predictor.write(predictions, self.path / "scores.csv")

    def finish(self) -> None:
        """Delete what runs that were killed have left unfinished."""
        for folder in (self.path, self.path / "dicom"):
            remove_unfinished(folder)


@log_warnings_once()
def write_object(made: Dataset, path: Path) -> None:
    """Write a DICOM object as a file, atomically."""
    with atomic_path(path) as beside:
        made.save_as(beside, enforce_file_format=True)

"""What one worker of `monai-rd predict` does: studies from a source, scored by a student, into a sink."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_rd.dicom.header_warnings import log_warnings_once
from monai_rd.inference import Predictor, TrainedBundle
from monai_rd.integrations.archives.archive import Query
from monai_rd.integrations.archives.archive_endpoints import ArchiveSink, ArchiveSource
from monai_rd.integrations.archives.archive_url import open_archive
from monai_rd.integrations.archives.endpoints import FolderSink, FolderSource, Sink, Source
from monai_rd.integrations.archives.state import State

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from monai_rd.inference import Prediction
    from monai_rd.integrations.archives.archive import Archive

__all__ = ["Tally", "Task", "is_archive", "listing", "score"]


@dataclass(frozen=True)
class Task:
    """What is to be scored, by whom, and where the results go; one for all workers.

    Args:
        bundle: name of a bundle, or folder of a trained one.
        overrides: ids of its inference.json.
        source: folder, DICOMDIR, list, or address of an archive.
        to: folder, or address of an archive.
        wanted: kinds of DICOM objects, see `dicom_objects`.
        modality: of the studies of an archive; None: that of the training data.
        since: day of the oldest study of an archive, YYYYMMDD; None: all.
        studies: StudyInstanceUIDs of an archive; empty: all.
        state: the state folder; None: nothing is remembered, and source and sink are no archives.
        ae_title: our AE title.
        listen: port to receive images at by C-MOVE; None: C-GET.
    """

    bundle: str
    overrides: Mapping[str, Any]
    source: str
    to: str
    wanted: frozenset[str]
    modality: str | None
    since: str | None
    studies: tuple[str, ...]
    state: Path | None
    ae_title: str
    listen: int | None


@dataclass
class Tally:
    """What came of it.

    Attributes:
        scored: number of studies with scores.
        problems: codes of those without, and how many.
        flags: codes of reasons to doubt scores, and how many.
        without: number of studies of which no DICOM object could be made.
        done: keys of the studies that are answered.
        left: keys of those that are not.
        waiting: number of reports that the archive has not taken.
        empty: whether the folder holds nothing to score.
    """

    scored: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    without: int = 0
    done: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    waiting: int = 0
    empty: bool = False

    def add(self, predictions: Sequence[Prediction], without: int) -> None:
        """Count the predictions of a study, and how many of them lack a DICOM object."""
        self.scored += sum(not one.problem for one in predictions)
        self.problems.update(one.problem for one in predictions if one.problem)
        self.flags.update(code for one in predictions if not one.problem for code in one.flags)
        self.without += without

    def join(self, other: Tally) -> None:
        """Add what another worker has done; what one of them left and the other answered is not left."""
        self.scored, self.without = self.scored + other.scored, self.without + other.without
        self.problems, self.flags = self.problems + other.problems, self.flags + other.flags
        self.done |= other.done
        self.left = (self.left | other.left) - self.done
        self.waiting, self.empty = self.waiting + other.waiting, self.empty or other.empty


def is_archive(place: str) -> bool:
    """Whether a source or sink is an address and no path."""
    return "://" in place


@contextmanager
def listing(state: State, to: str) -> Iterator[None]:
    """At the end of the block, however it ends, write the scores that are in no table yet."""
    try:
        yield
    finally:
        state.list_scores(state.folder if is_archive(to) else Path(to))


def score(task: Task, state: State | None) -> Tally:
    """Score the studies of a source that no other worker scores.

    Args:
        task: what is to be scored.
        state: of this worker; None as in the task.

    Raises:
        OSError: an archive cannot be searched, or a result cannot be stored.
        ValueError: the student cannot be used for it, or a study has a problem that is an error by the policy.
    """
    predictor, tally = Predictor(TrainedBundle(task.bundle, **task.overrides)), Tally()
    with ExitStack() as opened, log_warnings_once():

        def connect(url: str) -> Archive:
            return opened.enter_context(closing(open_archive(url, task.ae_title, task.listen)))

        source, sink = _source(task, predictor, state, connect), _sink(task, predictor, state, connect)
        for study in source:
            predictions = predictor.answer(study.found)
            objects, failed = _objects(predictor, predictions, task.wanted)
            sink.store(study.key, predictions, objects)
            tally.add(predictions, failed)
        sink.finish()
    tally.done, tally.left = source.done, source.left
    tally.empty = isinstance(source, FolderSource) and source.empty
    tally.waiting = len(state.waiting()) if state is not None else 0
    return tally


def _source(task: Task, predictor: Predictor, state: State | None, connect: Callable[[str], Archive]) -> Source:
    if not is_archive(task.source):
        return FolderSource(Path(task.source), predictor, state)
    assert state is not None
    query = Query(_modality(task.modality, predictor), task.since, task.studies)
    return ArchiveSource(connect(task.source), query, state, predictor)


def _sink(task: Task, predictor: Predictor, state: State | None, connect: Callable[[str], Archive]) -> Sink:
    if not is_archive(task.to):
        return FolderSink(Path(task.to), predictor, state)
    assert state is not None
    return ArchiveSink(connect(task.to), state, predictor)


def _modality(given: str | None, predictor: Predictor) -> str:
    if given is None and len(predictor.modalities) != 1:
        known = ", ".join(predictor.modalities) or "none, the training's images were no DICOM"
        raise ValueError(f"give --modality: the training does not say it alone (it knows {known})")
    return given or predictor.modalities[0]


def _objects(
    predictor: Predictor, predictions: list[Prediction], wanted: Collection[str]
) -> tuple[list[tuple[str, Dataset]], int]:
    if not wanted:
        return [], 0
    from monai_rd.integrations.dicom_objects import dicom_objects  # needs highdicom

    return dicom_objects(predictor, predictions, wanted)

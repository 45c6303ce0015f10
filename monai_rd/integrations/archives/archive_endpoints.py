"""Studies of an archive, each scored once, and an archive that takes the results, none lost."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset
from tqdm.auto import tqdm

from monai_rd.integrations.archives.archive import Archive, Query, require_uid
from monai_rd.integrations.archives.endpoints import Study, write_object
from monai_rd.integrations.archives.failures import ArchiveError, Failure
from monai_rd.integrations.archives.retries import RetryPolicy, with_retries
from monai_rd.integrations.archives.state import State, key_of

if TYPE_CHECKING:
    from monai_rd.inference import Prediction, Predictor

__all__ = ["ArchiveSink", "ArchiveSource"]

logger = logging.getLogger(__name__)

_REST = 60.0  # seconds for which nothing is sent to an archive that is gone


class ArchiveSource:
    """Iterates over the studies of an archive that have not been answered yet.

    A study has two keys. By the first, of its UID, it is claimed before the archive is asked about it. By the second,
    of its images too, it is answered: a study that has grown since is scored again. Both tell the student. For ten
    minutes after a study was answered the archive is not asked about it, so that not each worker asks.

    A study that cannot be fetched is left; after that, each study is tried only once until one succeeds. If the archive
    is gone (`RetryPolicy`), it is not asked about the others.

    Args:
        archive: the archive.
        query: which studies to fetch.
        state: the state folder, which remembers the answered studies and shares the others among workers.
        predictor: finds what to score in the images of a study.

    Attributes:
        left: keys of the studies that could not be fetched, were still arriving, or were not tried because the archive
            was gone; the next run tries them again.
        done: keys of the answered ones.
    """

    def __init__(self, archive: Archive, query: Query, state: State, predictor: Predictor) -> None:
        self.archive, self.query, self.state, self.predictor = archive, query, state, predictor
        self.left: set[str] = set()
        self.done: set[str] = set()

    def __iter__(self) -> Iterator[Study]:
        found = with_retries(lambda: self.archive.studies(self.query))
        logger.info("studies that the archive has of these: %d", len(found))
        retry_policy, told = RetryPolicy(), set[str]()
        studies = ((key_of(study, self.predictor.algorithm.identity), study) for study in found)
        hidden = None if multiprocessing.parent_process() is None else True  # None: shown on a terminal; of one alone
        for key, study in tqdm(self.state.each(studies), total=len(found), unit="study", disable=hidden):
            if retry_policy.gone:
                self.left.add(key)
                continue
            try:
                if not self.state.settled(key):
                    yield from self._study(study, retry_policy)
                    self.state.settle(key)
                self.done.add(key)
            except ArchiveError as error:
                self.left.add(key)
                retry_policy.failed(error)
                if str(error) not in told:
                    logger.warning("a study is left for the next run: %s", error)
                told.add(str(error))
        if retry_policy.gone:
            logger.warning("the archive is gone: %d of %d studies are left", len(self.left), len(found))

    def _study(self, study: str, retry_policy: RetryPolicy) -> Iterator[Study]:
        require_uid(study)
        there = self._series(study, retry_policy)
        key = key_of(study, there, self.predictor.algorithm.identity)
        if not there or self.state.answered(key):
            return
        with TemporaryDirectory(dir=self.state.incoming) as folder:
            for number, (series, images) in enumerate(there.items()):
                self._fetch(study, series, images, Path(folder) / str(number), retry_policy)
            if self._series(study, retry_policy) != there:
                raise ArchiveError("its images are still arriving", Failure.IMPOSSIBLE)
            retry_policy.succeeded()
            yield Study(key, self.predictor.find(folder))

    def _series(self, study: str, retry_policy: RetryPolicy) -> dict[str, int | None]:
        found = with_retries(lambda: self.archive.series(study, self.query.modality), retry_policy.attempts)
        for series in found:
            require_uid(series)
        return found

    def _fetch(self, study: str, series: str, images: int | None, folder: Path, retry_policy: RetryPolicy) -> None:
        def whole() -> None:
            shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted attempt
            folder.mkdir()
            came = self.archive.fetch(study, series, folder)
            if came != images if images is not None else not came:
                raise ArchiveError(f"{came} of {images or 'all'} images of a series came", Failure.DAMAGED)

        with_retries(whole, retry_policy.attempts)


class ArchiveSink:
    """Stores results in an archive.

    Args:
        archive: the archive.
        state: the state folder, where reports wait until the archive has taken them.
        predictor: the predictor that makes the results.
    """

    def __init__(self, archive: Archive, state: State, predictor: Predictor) -> None:
        self.archive, self.state, self.predictor = archive, state, predictor
        self._retry_policy, self._paused_until = RetryPolicy(), 0.0
        self._not_taken: set[Path] = set()
        self._logged: set[str] = set()
        self._send()

    def store(self, key: str, predictions: Sequence[Prediction], objects: Sequence[tuple[str, Dataset]]) -> None:
        """Write the objects into the outbox, then the scores; then send what is in the outbox."""
        for name, made in objects:
            write_object(made, self.state.outbox / name)
        self.state.keep(key, self.predictor.content(predictions))
        self._send()

    def finish(self) -> None:
        """Send the reports of workers that have died meanwhile."""
        self.state.adopt()
        self._send()

    def _send(self) -> None:
        """Send reports one by one: a refused report must not block the others, nor be resent with each of them.

        If the archive is gone, sending pauses for a while, and scoring continues.
        """
        for file in self.state.waiting():
            if time.monotonic() < self._paused_until:
                return
            if file in self._not_taken:
                continue
            attempts = max(2, self._retry_policy.attempts)  # a brief interruption needs no pause
            try:
                with_retries(lambda file=file: self.archive.store([file]), attempts)  # type: ignore[misc]
            except ArchiveError as error:
                if str(error) not in self._logged:
                    logger.warning("a report waits in the outbox: %s", error)
                self._logged.add(str(error))
                self._retry_policy.failed(error)
                if self._retry_policy.gone:
                    self._paused_until = time.monotonic() + _REST if error.kind.transient else float("inf")
                elif not error.kind.affects_all:
                    self._not_taken.add(file)
            else:
                self._retry_policy.succeeded()
                file.unlink(missing_ok=True)

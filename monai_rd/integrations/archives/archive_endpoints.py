"""Fetching studies from an archive, each scored once, and storing the results in an archive, none lost.

Source and sink keep their state in a folder:

- `answered/`: an empty file for each scored study, named by the hash of its UIDs, its number of images and the model. A
  study that has grown since is scored again, and so are all studies with a new model.
- `outbox/`: reports that wait for the archive. They are written here first and deleted when the archive has taken them.
- `incoming/`: images of the current study, which contain patient data. Other users cannot read them; they are deleted
  when the study is scored, and those of a killed run at the next start.
- `scores_TIME.csv` and `.json`: the scores of a run whose results go to an archive.
- `running`: the name of the CSV of an unfinished run. A killed run may have written scores of its last study without
  marking it as scored: the next run continues in the same CSV, where the new scores replace them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from pydicom.dataset import Dataset
from tqdm.auto import tqdm

from monai_rd.files import atomic_write
from monai_rd.inference import read_scores
from monai_rd.integrations.archives.archive import Archive, Query, require_uid
from monai_rd.integrations.archives.endpoints import Scores, write_object
from monai_rd.integrations.archives.failures import ArchiveError, Failure
from monai_rd.integrations.archives.retries import RetryPolicy, with_retries

if TYPE_CHECKING:
    from monai_rd.inference import Prediction, Predictor

__all__ = ["ArchiveSink", "ArchiveSource", "State"]

logger = logging.getLogger(__name__)

_REST = 60.0  # seconds for which nothing is sent to an archive that is gone


class State:
    """The state folder of the runs with an archive; only one process at a time may use it.

    Args:
        folder: the folder, created if it does not exist.

    Raises:
        OSError: another process uses it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("answered", "outbox"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise OSError(f"--state {folder}: another process works on it; give another folder, or wait") from None
        shutil.rmtree(folder / "incoming", ignore_errors=True)
        (folder / "incoming").mkdir(mode=0o700)

    def scores(self, folder: Path, predictor: Predictor) -> Scores:
        """Begin the CSV of a run, or continue that of a killed run of the same student.

        Args:
            folder: the folder of the CSV.
            predictor: the predictor that makes the scores.
        """
        running, new = self.folder / "running", f"scores_{datetime.now(timezone.utc):%Y%m%dT%H%M%S%fZ}.csv"
        name = running.read_text(encoding="utf-8") if running.is_file() else new
        before = read_scores(folder / name) if (folder / name).with_suffix(".json").is_file() else []
        if not all(predictor.could_have_made(one) for one in before):
            name, before = new, []
        atomic_write(name, running)
        return Scores(folder / name, predictor, before)

    def finish(self) -> None:
        """Mark the run as finished: every scored study has been recorded."""
        (self.folder / "running").unlink(missing_ok=True)

    def close(self) -> None:
        """Release the folder for other processes."""
        self._lock.release()


class ArchiveSource:
    """Iterates over the studies of an archive that have not been scored yet, each as a folder.

    A study that cannot be fetched is skipped; after that, each study is tried only once until one succeeds. The
    iteration ends if the archive is gone (`RetryPolicy`).

    Args:
        archive: the archive.
        query: which studies to fetch.
        state: the state folder, which records the scored studies.
        model: identity of the student; only studies scored by it are skipped.

    Attributes:
        left: number of studies that could not be fetched, were still arriving, or were not tried because the archive
            was gone; the next run tries them again.
    """

    def __init__(self, archive: Archive, query: Query, state: State, model: str) -> None:
        self.archive, self.query, self.state, self.model = archive, query, state, model
        self.left = 0

    def __iter__(self) -> Iterator[Path]:
        self.left = 0
        studies = with_retries(lambda: self.archive.studies(self.query))
        logger.info("studies that the archive has of these: %d", len(studies))
        retry_policy, told = RetryPolicy(), set[str]()
        for number, study in enumerate(tqdm(studies, unit="study", disable=None), start=1):  # only on a terminal
            try:
                yield from self._study(study, retry_policy)
            except ArchiveError as error:
                self.left += 1
                retry_policy.failed(error)
                if str(error) not in told:
                    logger.warning("a study is left for the next run: %s", error)
                told.add(str(error))
            if retry_policy.gone:
                self.left += len(studies) - number
                logger.warning("the archive is gone: %d of %d studies are left", self.left, len(studies))
                return

    def _study(self, study: str, retry_policy: RetryPolicy) -> Iterator[Path]:
        require_uid(study)
        there = self._series(study, retry_policy)
        key = hashlib.sha256(json.dumps([study, there, self.model]).encode()).hexdigest()
        answered = self.state.folder / "answered" / key
        if not there or answered.exists():
            return
        with TemporaryDirectory(dir=self.state.folder / "incoming") as folder:
            for number, (series, images) in enumerate(there.items()):
                self._fetch(study, series, images, Path(folder) / str(number), retry_policy)
            if self._series(study, retry_policy) != there:
                raise ArchiveError("its images are still arriving", Failure.IMPOSSIBLE)
            retry_policy.succeeded()
            yield Path(folder)
        answered.touch()  # the caller asks for the next study after it has stored the result of this one

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

    Attributes:
        waiting: number of reports that the archive has not taken yet; the next run sends them first.
    """

    def __init__(self, archive: Archive, state: State, predictor: Predictor) -> None:
        self.archive, self.state = archive, state
        self.scores = state.scores(state.folder, predictor)
        self._retry_policy, self._paused_until = RetryPolicy(), 0.0
        self._not_taken: set[Path] = set()
        self._logged: set[str] = set()
        self._send()

    @property
    def waiting(self) -> int:
        """See `Attributes`."""
        return len(self._files())

    def store(self, predictions: Sequence[Prediction], objects: Sequence[tuple[str, Dataset]]) -> None:
        """Write the objects into the outbox and send its content; then write the scores."""
        for name, made in objects:
            write_object(made, self.state.folder / "outbox" / name)
        self.scores.add(predictions)
        self._send()

    def _files(self) -> list[Path]:
        return sorted((self.state.folder / "outbox").glob("*.dcm"))

    def _send(self) -> None:
        """Send reports one by one: a refused report must not block the others, nor be resent with each of them.

        If the archive is gone, sending pauses for a while, and scoring continues.
        """
        for file in self._files():
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
                file.unlink()

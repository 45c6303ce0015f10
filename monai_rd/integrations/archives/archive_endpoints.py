"""Studies out of an archive, each answered once, and answers back into it, none lost.

Both keep what they must remember in a folder, the state:

- `answered/`: an empty file for each study that was answered, by the hash of its UIDs, its number of images and the
  model: a study that has grown since, and a new model, are answered again.
- `outbox/`: reports that wait for the archive. They are written here first and go when it has taken them.
- `incoming/`: images of the study at hand, which name patients. Nobody else may read them; they go when the study is
  answered, and those of a killed run at the next start.
- `scores_TIME.csv` and `.json`: the answers of a run that goes into an archive.
- `running`: the name of the CSV, while a run is not through. One that was killed has written the answers about the
  study at hand, and does not know it: the next run goes on in its CSV, where the new answers replace them.
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

_REST = 60.0  # s in which an archive that is gone is not sent to


class State:
    """The folder that remembers; one process at a time works on it.

    Args:
        folder: of it, made where it is not there.

    Raises:
        OSError: another process works on it.
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
        """Begin the scores of a run in a CSV of its own, or in that of a run of the same student that was killed.

        Args:
            folder: where they go.
            predictor: whose answers they are.
        """
        running, new = self.folder / "running", f"scores_{datetime.now(timezone.utc):%Y%m%dT%H%M%S%fZ}.csv"
        name = running.read_text(encoding="utf-8") if running.is_file() else new
        before = read_scores(folder / name) if (folder / name).with_suffix(".json").is_file() else []
        if not all(predictor.could_have_made(one) for one in before):
            name, before = new, []
        atomic_write(name, running)
        return Scores(folder / name, predictor, before)

    def finish(self) -> None:
        """Say that the run is through: every study that was answered is marked so."""
        (self.folder / "running").unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process work on it."""
        self._lock.release()


class ArchiveSource:
    """The studies of an archive that were not answered yet, as a folder each.

    A study that could not be fetched is left, and the next ones are tried once each until one succeeds. It ends where
    the archive is gone (`RetryPolicy`).

    Args:
        archive: where they are.
        query: which of them.
        state: what was answered.
        model: identity of the student, whose answers count.

    Attributes:
        left: how many studies could not be fetched, were still arriving or were not looked at because the archive was
            gone: the next run tries again.
    """

    def __init__(self, archive: Archive, query: Query, state: State, model: str) -> None:
        self.archive, self.query, self.state, self.model = archive, query, state, model
        self.left = 0

    def __iter__(self) -> Iterator[Path]:
        self.left = 0
        studies = with_retries(lambda: self.archive.studies(self.query))
        logger.info("studies that the archive has of these: %d", len(studies))
        retry_policy, told = RetryPolicy(), set[str]()
        for number, study in enumerate(tqdm(studies, unit="study", disable=None), start=1):  # only on a screen
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
        answered.touch()  # whoever asks for the next study has stored the answer about this one

    def _series(self, study: str, retry_policy: RetryPolicy) -> dict[str, int | None]:
        found = with_retries(lambda: self.archive.series(study, self.query.modality), retry_policy.attempts)
        for series in found:
            require_uid(series)
        return found

    def _fetch(self, study: str, series: str, images: int | None, folder: Path, retry_policy: RetryPolicy) -> None:
        def whole() -> None:
            shutil.rmtree(folder, ignore_errors=True)  # of an attempt that broke off
            folder.mkdir()
            came = self.archive.fetch(study, series, folder)
            if came != images if images is not None else not came:
                raise ArchiveError(f"{came} of {images or 'all'} images of a series came", Failure.DAMAGED)

        with_retries(whole, retry_policy.attempts)


class ArchiveSink:
    """An archive that answers go to.

    Args:
        archive: which.
        state: where they wait until it has taken them.
        predictor: whose answers they are.

    Attributes:
        waiting: how many reports the archive has not taken yet: the next run sends them first.
    """

    def __init__(self, archive: Archive, state: State, predictor: Predictor) -> None:
        self.archive, self.state = archive, state
        self.scores = state.scores(state.folder, predictor)
        self._retry_policy, self._rests_until = RetryPolicy(), 0.0
        self._not_taken: set[Path] = set()
        self._told: set[str] = set()
        self._send()

    @property
    def waiting(self) -> int:
        """See `Attributes`."""
        return len(self._files())

    def store(self, predictions: Sequence[Prediction], objects: Sequence[tuple[str, Dataset]]) -> None:
        """Write the objects into the outbox and send what is there; then the scores."""
        for name, made in objects:
            write_object(made, self.state.folder / "outbox" / name)
        self.scores.add(predictions)
        self._send()

    def _files(self) -> list[Path]:
        return sorted((self.state.folder / "outbox").glob("*.dcm"))

    def _send(self) -> None:
        """Send one by one: a report that the archive refuses must not hold up the others, nor be sent once for each.

        An archive that is gone gets a rest, and the studies go on without it.
        """
        for file in self._files():
            if time.monotonic() < self._rests_until:
                return
            if file in self._not_taken:
                continue
            attempts = max(2, self._retry_policy.attempts)  # a moment's break is not worth a rest
            try:
                with_retries(lambda file=file: self.archive.store([file]), attempts)  # type: ignore[misc]
            except ArchiveError as error:
                if str(error) not in self._told:
                    logger.warning("a report waits in the outbox: %s", error)
                self._told.add(str(error))
                self._retry_policy.failed(error)
                if self._retry_policy.gone:
                    self._rests_until = time.monotonic() + _REST if error.kind.transient else float("inf")
                elif not error.kind.affects_all:
                    self._not_taken.add(file)
            else:
                self._retry_policy.succeeded()
                file.unlink()

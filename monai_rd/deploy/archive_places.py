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
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from pydicom.dataset import Dataset
from tqdm.auto import tqdm

from monai_rd.deploy.archive import ATTEMPTS, Archive, ArchiveError, Query, retried
from monai_rd.deploy.places import Scores, write_object
from monai_rd.files import atomic_write
from monai_rd.handlers.scores import read_scores

if TYPE_CHECKING:
    from monai_rd.deploy.predict import Prediction, Predictor

__all__ = ["ArchiveSink", "ArchiveSource", "State"]

logger = logging.getLogger(__name__)


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
        if not all(predictor.could_say(one) for one in before):
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

    Args:
        archive: where they are.
        query: which of them.
        state: what was answered.
        model: SHA-256 of the student's file.

    Attributes:
        left: how many studies could not be fetched, or were still arriving: the next run tries again.
    """

    def __init__(self, archive: Archive, query: Query, state: State, model: str) -> None:
        self.archive, self.query, self.state, self.model = archive, query, state, model
        self.left = 0

    def __iter__(self) -> Iterator[Path]:
        self.left = 0
        studies = retried(lambda: self.archive.studies(self.query))
        logger.info("studies that the archive has of these: %d", len(studies))
        for study in tqdm(studies, unit="study", disable=None):  # only on a screen
            try:
                yield from self._study(study)
            except ArchiveError as error:
                self.left += 1
                logger.warning("a study is left for the next run: %s", error)

    def _study(self, study: str) -> Iterator[Path]:
        there = self._series(study)
        key = hashlib.sha256(json.dumps([study, there, self.model]).encode()).hexdigest()
        answered = self.state.folder / "answered" / key
        if not there or answered.exists():
            return
        with TemporaryDirectory(dir=self.state.folder / "incoming") as folder:
            for number, (series, images) in enumerate(there.items()):
                self._fetch(study, series, images, Path(folder) / str(number))
            if self._series(study) != there:
                raise ArchiveError("its images are still arriving")
            yield Path(folder)
        answered.touch()  # whoever asks for the next study has stored the answer about this one

    def _series(self, study: str) -> dict[str, int | None]:
        return retried(lambda: self.archive.series(study, self.query.modality))

    def _fetch(self, study: str, series: str, images: int | None, folder: Path) -> None:
        def whole() -> None:
            shutil.rmtree(folder, ignore_errors=True)  # of an attempt that broke off
            folder.mkdir()
            came = self.archive.fetch(study, series, folder)
            if images is not None and came != images:
                raise ArchiveError(f"{came} of {images} images of a series came")

        retried(whole)


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
        """Send one by one: a report that the archive refuses must not hold up the others."""
        attempts = ATTEMPTS
        for file in self._files():
            try:
                retried(lambda file=file: self.archive.store([file]), attempts)  # type: ignore[misc]
            except ArchiveError as error:
                logger.warning("a report waits in the outbox for the next run: %s", error)
                attempts = 1  # where nothing answers, do not wait for each again
            else:
                file.unlink()

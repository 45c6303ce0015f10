"""The uploads of a server: scored and drawn by one thread, and removed after some time.

Scoring goes first: a drawing that takes long lets it pass between two of its steps.
"""

from __future__ import annotations

import itertools
import logging
import queue
import secrets
import shutil
import threading
import time
import zipfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from monai_rd.datasets.problems import DataListError
from monai_rd.dicom.header_warnings import log_warnings_once
from monai_rd.errors import StudyError
from monai_rd.inference import Prediction
from monai_rd.inference.predictor import without_paths
from monai_rd.integrations.archives.endpoints import write_object
from monai_rd.integrations.dicom_objects import dicom_objects
from monai_rd.serve.answers import Answer, about, draw
from monai_rd.serve.limits import Limits, RefusedError
from monai_rd.serve.uploads import Uploads

if TYPE_CHECKING:
    from monai_rd.inference import Predictor

__all__ = ["Job", "Jobs"]

logger = logging.getLogger(__name__)

_SCORE, _DRAW_WANTED, _DRAW = range(3)  # what is done first
_NOW_AND_THEN = 0.25  # seconds between looks for old uploads, and for the end of the server


@dataclass(eq=False)
class Job:
    """An upload, from its first file to its answers.

    Attributes:
        id: random, in the page's addresses.
        owner: session that sent it; no other sees it.
        folder: of its files, removed with it.
        uploads: the files, until all pictures are drawn.
        state: receiving, waiting, reading (headers), scoring, done, or failed.
        message: why it failed.
        done: number of studies scored.
        total: number of studies to score.
        answers: the studies, by number from 1.
        reports: number of structured reports made.
        without: number of scored DICOM studies whose report could not be made.
        place: in the order of those that wait.
        used: when somebody looked at it, by `time.monotonic`.
        removed: its files are to be removed.
        at_work: the thread is at it.
    """

    id: str
    owner: str
    folder: Path
    uploads: Uploads
    state: Literal["receiving", "waiting", "reading", "scoring", "done", "failed"] = "receiving"
    message: str = ""
    done: int = 0
    total: int = 0
    answers: dict[int, Answer] = field(default_factory=dict)
    reports: int = 0
    without: int = 0
    place: int = 0
    used: float = field(default_factory=time.monotonic)
    removed: bool = False
    at_work: bool = False

    @property
    def scores(self) -> Path:
        """The CSV file of the scores."""
        return self.folder / "scores.csv"

    @property
    def archive(self) -> Path:
        """The zip file of the structured reports."""
        return self.folder / "reports.zip"

    @property
    def drawn(self) -> list[int]:
        """Numbers of the studies whose pictures are made, or cannot be."""
        return [number for number, one in self.answers.items() if one.drawn is not None or one.failed]


class Jobs:
    """All uploads of a server.

    Args:
        predictor: scores them.
        folder: an empty folder for them.
        limits: what is accepted.
    """

    def __init__(self, predictor: Predictor, folder: Path, limits: Limits) -> None:
        self.predictor, self.folder, self.limits = predictor, folder, limits
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._closing = False
        self._order = itertools.count()
        self._tasks: queue.PriorityQueue[tuple[int, int, Job, int]] = queue.PriorityQueue()
        self._thread = threading.Thread(target=self._work, name="scoring", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the work, and remove all files."""
        self._closing = True
        self._thread.join(timeout=20)
        for job in list(self._jobs.values()):
            self.remove(job)

    def new(self, owner: str) -> Job:
        """Make an upload.

        Raises:
            RefusedError: there are too many.
        """
        self.remove_old()
        with self._lock:
            if len(self._jobs) >= self.limits.uploads:
                raise RefusedError("Too many uploads are kept. Delete one of yours, or try again later.", 503)
            name = secrets.token_urlsafe(16)
            folder = self.folder / f"{next(self._order):06d}"
            folder.mkdir(mode=0o700)
            job = self._jobs[name] = Job(name, owner, folder, Uploads(folder / "uploads", self.limits))
        return job

    def of(self, owner: str) -> list[Job]:
        """Return the uploads of a session, the latest first."""
        self.remove_old()
        return [job for job in reversed(list(self._jobs.values())) if job.owner == owner]

    def get(self, name: str, owner: str) -> Job:
        """Return an upload, which is kept longer for it.

        Raises:
            RefusedError: there is none of this name, or it is another session's.
        """
        self.remove_old()
        job = self._jobs.get(name)
        if job is None or job.owner != owner:
            raise RefusedError("This upload is not here, or not any more. Send the images again.", 404)
        job.used = time.monotonic()
        return job

    def start(self, job: Job) -> None:
        """Have an upload scored when it is its turn.

        Raises:
            RefusedError: it has no file, or was started before.
        """
        with self._lock:
            if job.state != "receiving":
                raise RefusedError("This upload was started before.", 409)
            if not job.uploads.count:
                raise RefusedError("There is no file in it.")
            job.state, job.place = "waiting", next(self._order)
        self._add(_SCORE, job)

    def draw(self, job: Job, number: int) -> None:
        """Have the pictures of a study drawn before those of others."""
        if number not in job.drawn:
            self._add(_DRAW_WANTED, job, number)

    def before(self, job: Job) -> int:
        """Return how many uploads are scored before one that waits."""
        unfinished = [one for one in list(self._jobs.values()) if one.state in ("waiting", "reading", "scoring")]
        return sum(one.place < job.place for one in unfinished)

    def remove(self, job: Job) -> None:
        """Remove an upload with all its files; where the thread is at it, as soon as it has noticed."""
        with self._lock:
            job.removed = True
            self._jobs.pop(job.id, None)
            at_work = job.at_work
        if not at_work or self._closing:
            shutil.rmtree(job.folder, ignore_errors=True)

    def remove_old(self) -> None:
        """Remove the uploads that nobody has looked at for some time, and that nothing waits for."""
        end = time.monotonic() - self.limits.seconds
        for job in list(self._jobs.values()):
            if job.used < end and job.state in ("receiving", "done", "failed"):
                self.remove(job)

    def _add(self, priority: int, job: Job, number: int = 0) -> None:
        self._tasks.put((priority, next(self._order), job, number))

    def _work(self) -> None:
        while not self._closing:
            try:
                _, _, job, number = self._tasks.get(timeout=_NOW_AND_THEN)
            except queue.Empty:
                self.remove_old()
                continue
            self._do(job, number)

    def _do(self, job: Job, number: int) -> None:
        """Score an upload, or with the number of a study draw its pictures, unless it is removed."""
        with self._lock:
            job.at_work = not job.removed
        if job.at_work:
            with log_warnings_once():
                self._draw(job, number) if number else self._run(job)
        with self._lock:
            job.at_work, removed = False, job.removed
        if removed:
            shutil.rmtree(job.folder, ignore_errors=True)

    def _score_waiting(self, drawn: Job) -> None:
        """Score the uploads that wait, between two steps of drawing for another one.

        Raises:
            RuntimeError: nobody waits for the drawing any more.
        """
        if drawn.removed or self._closing:
            raise RuntimeError("the upload is removed")
        with torch.inference_mode(False):
            while self._tasks.queue and self._tasks.queue[0][0] == _SCORE:  # only this thread takes any
                _, _, job, number = self._tasks.get()
                self._do(job, number)

    def _run(self, job: Job) -> None:
        """Score an upload."""
        try:
            self._score(job)
        except Exception as error:
            if job.removed:
                return
            # An error by the bundle's policy tells what to do, and names nobody; others are the program's own.
            known = isinstance(error, (StudyError, DataListError))
            job.message = str(error) if known else f"The program failed with {without_paths(error)}. Please report it."
            job.state = "failed"
            logger.warning("an upload could not be scored: %s", without_paths(error))
        for number, one in job.answers.items():
            if not one.prediction.problem:
                self._add(_DRAW, job, number)
        self._finish(job)

    def _score(self, job: Job) -> None:
        predictor, job.state = self.predictor, "reading"
        found = predictor.find(job.uploads.folder)
        answers = [Answer(Prediction.of_problem(one, predictor.classifier.model_sha256)) for one in found.problems]
        job.total, job.state = len(found.items), "scoring"
        for start in range(0, len(found.items), predictor.batch_size):
            if job.removed or self._closing:
                return
            items = found.items[start : start + predictor.batch_size]
            made = predictor.score(items)
            answers += [Answer(one, about(item)) for one, item in zip(made, items, strict=True)]
            job.done += len(items)
        if job.removed or self._closing:  # nothing is written any more
            return
        answers.sort(key=lambda one: bool(one.prediction.problem))  # as in scores.csv
        predictions = [one.prediction for one in answers]
        predictor.write(predictions, job.scores)
        objects, job.without = dicom_objects(predictor, predictions, ("sr",))
        with zipfile.ZipFile(job.archive, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, made_of in objects:
                if self._closing:
                    return
                file = job.folder / "report.dcm"
                write_object(made_of, file)
                archive.write(file, name)
                file.unlink()
        job.reports = len(objects)
        job.answers = dict(enumerate(answers, start=1))
        scored = sum(not one.problem for one in predictions)
        logger.info("an upload: %d studies scored, %d left out", scored, len(predictions) - scored)
        job.state = "done"

    def _draw(self, job: Job, number: int) -> None:
        """Draw the pictures of one study."""
        answer = job.answers[number]
        if answer.drawn is not None or answer.failed:
            return
        try:
            between = partial(self._score_waiting, job)
            answer.drawn = draw(self.predictor, answer.prediction, job.folder, number, between)
        except Exception as error:  # its answer is there all the same
            answer.failed = True
            if not job.removed and not self._closing:
                logger.warning("the pictures of a study could not be drawn: %s", without_paths(error))
        self._finish(job)

    def _finish(self, job: Job) -> None:
        """Remove the images of an upload as soon as they are not needed any more."""
        if len(job.drawn) == sum(not one.prediction.problem for one in job.answers.values()):
            shutil.rmtree(job.uploads.folder, ignore_errors=True)

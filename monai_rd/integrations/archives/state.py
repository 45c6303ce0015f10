"""The state folder of `monai-rd predict`: workers that share it answer each study once.

A worker is a process; any number may share the folder, on one machine or on several that share its disk:

- `claims/`: a file for each study that a worker is scoring, named by a hash, with the worker's name.
- `workers/`: a file for each worker, locked and touched as long as it lives. A worker is dead when its file has not
  been touched for three minutes, by the disk's own clock. On the same machine the lock tells it at once; locks of other
  machines may not be seen.
- `scores/`: the scores of each study that was scored since the last table. Such a file appears at once and with its
  whole content, and with it the study is answered.
- `answered/`: a file for each answered study whose scores are in a table, with the names of table and worker.
- `seen/`: a file for each study of an archive that was answered when its images were last counted.
- `incoming/`: images that a worker is scoring, which contain patient data. Other users cannot read them.
- `outbox/`: reports of a worker that wait for the archive.
- `scores_TIME.csv` and `.json`: the tables, if the results go to an archive; otherwise they lie with the results.

What a dead worker was scoring is scored again by another; its reports are sent, its scores listed, its images deleted.
No lock has to hold for that: a study that two workers scored all the same (one slept, and was taken for dead) has one
file of scores, one mark in `answered/`, and reports with the same UIDs.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from monai_rd.files import atomic_write, write_new
from monai_rd.inference.prediction import joined_contents, write_content

__all__ = ["State", "key_of"]

T = TypeVar("T")
_BEAT = 15.0  # seconds between two touches of a worker's file
_EXPIRES = 180.0  # seconds without a touch; network disks show a touch up to a minute late
_SETTLED = 600.0  # seconds for which an answered study of an archive is not looked at again
_FORGOTTEN = 86_400.0  # seconds after which the file of a dead worker is deleted


def key_of(*parts: Any) -> str:
    """Return a hash of values that JSON can write, 64 hex digits, as a name that tells nothing of them."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class State:
    """A worker's view of the state folder, from its start until `close`.

    Args:
        folder: the folder, created if it does not exist.
        goes_on: asked before each study whether to go on.

    Attributes:
        name: the worker's name.
        incoming: folder for the images that it is scoring.
        outbox: folder of its reports that wait for the archive.
    """

    def __init__(self, folder: Path, goes_on: Callable[[], bool] = lambda: True) -> None:
        self.folder, self._goes_on = folder, goes_on
        for part in ("answered", "claims", "incoming", "outbox", "scores", "seen", "workers"):
            (folder / part).mkdir(mode=0o700 if part == "incoming" else 0o777, parents=True, exist_ok=True)
        self._host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
        self._start()
        self.incoming, self.outbox = folder / "incoming" / self.name, folder / "outbox" / self.name
        self.incoming.mkdir(mode=0o700)
        self.outbox.mkdir()
        self.adopt()

    def _start(self) -> None:
        self.name = f"{_now()}_{self._host}"
        self._alive = self.folder / "workers" / self.name
        self._lock = FileLock(self._alive)
        try:
            self._lock.acquire(timeout=10)
        except (NotImplementedError, OSError):  # a disk without locks; Timeout is an OSError too
            self._host = secrets.token_hex(4)  # which nobody has: all go by the touches
            self.name = f"{_now()}_{self._host}"
            self._alive = self.folder / "workers" / self.name
        self._alive.touch()
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT):
            with suppress(OSError):  # the disk may be back at the next touch
                self._alive.touch()

    def close(self) -> None:
        """End the worker; reports that still wait remain for the next one, and so do claims of unfinished studies."""
        self._ended.set()
        self._beats.join(_BEAT)  # so that it does not touch a file that is gone
        shutil.rmtree(self.incoming, ignore_errors=True)
        with suppress(OSError):  # reports wait
            self.outbox.rmdir()
        self._lock.release()
        self._alive.unlink(missing_ok=True)

    def lives(self, worker: str) -> bool:
        """Whether a worker of this name lives."""
        file = self.folder / "workers" / worker
        if not worker or self._age(file) >= _EXPIRES:
            return False
        if worker.rpartition("_")[2] != self._host:
            return True
        lock = FileLock(file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def _age(self, file: Path) -> float:
        """Return the seconds since a file was touched, by the clock of the disk; infinite if it is gone."""
        self._alive.touch()
        try:
            return self._alive.stat().st_mtime - file.stat().st_mtime
        except FileNotFoundError:
            return float("inf")

    def each(self, studies: Iterable[tuple[str, T]]) -> Iterator[tuple[str, T]]:
        """Yield the studies that no other worker is scoring, each claimed until the next is asked for.

        Those that a worker died of come last, so that one study cannot keep all others from being scored.

        Args:
            studies: each with a key that is the same for all workers.
        """
        others = []
        for key, study in studies:
            if not self._goes_on():
                return
            try:
                write_new(self.name, self._claim(key))
            except FileExistsError:
                others.append((key, study))
                continue
            yield key, study
            self._let_go(key)  # not if the caller fails: then the claim is that of a dead worker
        for key, study in others:
            if self._goes_on() and self._take_over(key):
                yield key, study
                self._let_go(key)

    def _claim(self, key: str) -> Path:
        return self.folder / "claims" / key

    def _take_over(self, key: str) -> bool:
        """Take the claim of a dead worker; one that is gone was answered, or left, by who had it."""
        try:
            worker = self._claim(key).read_text(encoding="utf-8")
            if worker != self.name and self.lives(worker):
                return False
            atomic_write(self.name, self._claim(key))
            return self._claim(key).read_text(encoding="utf-8") == self.name  # of two, the last one has it
        except (FileNotFoundError, PermissionError):  # Windows: another one reads or removes it
            return False

    def _let_go(self, key: str) -> None:
        with suppress(OSError):  # Windows: another one reads it; it is free when this worker ends
            self._claim(key).unlink()

    def interrupted(self, workers: Sequence[str]) -> list[str]:
        """Return the keys of the studies that dead workers of these names left unfinished."""
        found = []
        for file in (self.folder / "claims").iterdir():
            with suppress(FileNotFoundError):  # another worker ends it
                if file.suffix != ".tmp" and file.read_text(encoding="utf-8") in workers:
                    found.append(file.name)
        return found

    def answered(self, key: str) -> bool:
        """Whether a study is answered; the key tells its images and the student, too."""
        return self._scores(key).exists() or (self.folder / "answered" / key).exists()

    def settle(self, key: str) -> None:
        """Remember that the study of a claim is answered, with all images that it has now."""
        (self.folder / "seen" / key).touch()

    def settled(self, key: str) -> bool:
        """Whether that was less than ten minutes ago, so that the archive need not be asked again."""
        return self._age(self.folder / "seen" / key) < _SETTLED

    def keep(self, key: str, content: Mapping[str, Any]) -> None:
        """Keep the scores of a study, with which it is answered.

        Args:
            key: see `answered`.
            content: see `scores_content`.
        """
        atomic_write(json.dumps(content), self._scores(key))

    def _scores(self, key: str) -> Path:
        return self.folder / "scores" / f"{key}.json"

    def list_scores(self, folder: Path) -> None:
        """Write the scores that are in no table yet as a new one in `folder`, one for each student and its versions.

        A study's mark in `answered/`, which exists once, says which table it is in. So one that was being written when
        its worker was killed is written by the next, with the same studies, unless it is there.
        """
        own: dict[str, str] = {}
        tables = defaultdict(list)
        for file in sorted((self.folder / "scores").glob("*.json")):
            with suppress(FileNotFoundError):  # another worker lists it
                content = json.loads(file.read_text(encoding="utf-8"))
                student = key_of({name: value for name, value in content.items() if name != "studies"})
                mark = f"{own.setdefault(student, _now())} {self.name}"
                tables[self._marked(file.stem, mark)].append((file, content))
        for (name, worker), rows in tables.items():
            table = folder / f"scores_{name}.csv"
            if not table.with_suffix(".json").exists():
                if worker != self.name and self.lives(worker):
                    continue
                content = joined_contents([one for _, one in rows])
                if content["studies"]:
                    write_content(content, table)
            for file, _ in rows:
                file.unlink(missing_ok=True)

    def _marked(self, key: str, mark: str) -> tuple[str, str]:
        """Mark a study as listed; return the names of table and worker of its mark, which may be older."""
        file = self.folder / "answered" / key
        try:
            write_new(mark, file)
        except FileExistsError:
            before = file.read_text(encoding="utf-8")
            if not before:  # killed before it was written, on a disk without hard links
                atomic_write(mark, file)
            mark = before or mark
        name, _, worker = mark.partition(" ")
        return name, worker

    def waiting(self) -> list[Path]:
        """Return this worker's reports that wait for the archive."""
        return sorted(self.outbox.glob("*.dcm"))

    def adopt(self) -> None:
        """Take over the reports of dead workers, and delete their images and what they were writing."""
        for part in ("incoming", "outbox"):
            for folder in (self.folder / part).iterdir():
                if folder.name == self.name or self.lives(folder.name):
                    continue
                if part == "incoming":
                    shutil.rmtree(folder, ignore_errors=True)
                    continue
                with suppress(OSError):  # another worker was faster
                    for file in folder.iterdir():
                        if file.suffix == ".dcm":
                            os.replace(file, self.outbox / file.name)
                        else:  # unfinished
                            file.unlink()
                    folder.rmdir()
        for part in ("claims", "scores"):
            for file in (self.folder / part).glob("*.tmp"):
                if self._age(file) > _EXPIRES:
                    file.unlink(missing_ok=True)
        for file in (self.folder / "workers").iterdir():
            if self._age(file) > _FORGOTTEN and not self.lives(file.name):
                file.unlink(missing_ok=True)


def _now() -> str:
    """Return the time and some digits, a name that nobody else takes."""
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S%fZ}_{secrets.token_hex(4)}"

"""Each study of an archive is answered once, and no answer is lost, whatever the network does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from monai_rd.inference import Prediction
from monai_rd.inference.prediction import scores_content
from monai_rd.integrations.archives.archive import Query
from monai_rd.integrations.archives.archive_endpoints import ArchiveSink, ArchiveSource
from monai_rd.integrations.archives.archive_url import open_archive
from monai_rd.integrations.archives.failures import ArchiveError, Failure
from monai_rd.integrations.archives.retries import with_retries
from monai_rd.integrations.archives.state import State
from tests.dicom_files import make_series


class Shelf:
    """An archive in a folder per study and series, with a network that fails when told to."""

    def __init__(self, root: Path) -> None:
        self.root, self.stored, self.fail = root, {}, []  # type: ignore[var-annotated]
        self.calls: list[str] = []
        self.closed = 0

    def close(self) -> None:
        self.closed += 1

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fail:
            self.fail.remove(name)
            raise ArchiveError(f"{name}: the line is dead")

    def studies(self, query: Query) -> list[str]:
        self._called("studies")
        return sorted(path.name for path in self.root.iterdir())

    def series(self, study: str, modality: str) -> dict[str, int | None]:
        self._called("series")
        return {path.name: len(list(path.iterdir())) for path in sorted((self.root / study).iterdir())}

    def fetch(self, study: str, series: str, folder: Path) -> int:
        files = sorted((self.root / study / series).iterdir())
        for number, file in enumerate(files):
            shutil.copy(file, folder / f"{number}.dcm")
            if number == 2:
                self._called("fetch")
        return len(files)

    def store(self, files: Sequence[Path]) -> None:
        self._called("store")
        for file in files:
            if "refused" in file.name:
                raise ArchiveError("refused")
            self.stored[dcmread(file).SOPInstanceUID] = file.name


class Finder:
    """The part of a predictor that finds what is in a folder, here the folder, and names itself; it writes problems."""

    def __init__(self, model: str = "a") -> None:
        self.algorithm = SimpleNamespace(identity=model)

    def find(self, folder: Path) -> Path:
        return Path(folder)

    def content(self, predictions: Sequence[str]) -> dict[str, Any]:
        made = [Prediction(one, problem="X", message="no") for one in predictions]
        return scores_content(made, ["a", "b"], {"sha256": self.algorithm.identity})


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setattr("tenacity.nap.time", type("time", (), {"sleep": staticmethod(lambda seconds: None)}))
    for study in ("1.1", "1.2"):
        make_series(tmp_path / "archive" / study / f"{study}.1", slices=4)
    return Shelf(tmp_path / "archive")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    made = State(tmp_path / "state")
    yield made
    made.close()


def source(shelf: Shelf, state: State, model: str = "a") -> ArchiveSource:
    return ArchiveSource(shelf, Query("CT"), state, Finder(model))


def seen(from_: ArchiveSource) -> list[int]:
    """Numbers of images of the studies, each of which is answered."""
    found = []
    for study in from_:
        found.append(len(list(study.found.rglob("*.dcm"))))
        from_.state.keep(study.key, from_.predictor.content([study.key]))
    return found


def an_object(shelf: Shelf, study: str = "1.1") -> Dataset:
    return dcmread(next((shelf.root / study / f"{study}.1").iterdir()))


def test_a_study_is_answered_once_until_it_grows_or_the_model_changes(shelf: Shelf, state: State) -> None:
    assert seen(source(shelf, state)) == [4, 4]
    assert seen(source(shelf, state)) == []
    assert seen(source(shelf, state, "another model")) == [4, 4]
    more = shelf.root / "1.2" / "1.2.1"
    shutil.copy(next(more.iterdir()), more / "more.dcm")
    shelf.calls.clear()
    assert (seen(source(shelf, state)), shelf.calls) == ([], ["studies"])  # nobody asks so soon
    for file in (state.folder / "seen").iterdir():
        os.utime(file, (0, 0))
    assert seen(source(shelf, state)) == [5]
    assert list(state.incoming.iterdir()) == []


def test_who_stops_before_the_answer_is_stored_gets_the_study_again(shelf: Shelf, state: State) -> None:
    for _ in source(shelf, state):
        break
    assert seen(source(shelf, state)) == [4, 4]


def test_a_broken_connection_is_tried_again(shelf: Shelf, state: State) -> None:
    shelf.fail = ["studies", "series", "fetch", "fetch", "series"]
    assert seen(source(shelf, state)) == [4, 4]
    assert shelf.fail == []


def test_one_that_stays_broken_leaves_the_study_for_the_next_run(shelf: Shelf, state: State) -> None:
    shelf.fail = ["fetch"] * 5
    first = source(shelf, state)
    assert seen(first) == [4]
    assert len(first.left) == 1
    again = source(shelf, state)
    assert seen(again) == [4]
    assert not again.left


class Many:
    """An archive of 40 studies that fails by a kind of failure from one of its calls on."""

    def __init__(self, kind: Failure, call: str, after: int, wait: float = 0.0) -> None:
        self.kind, self.call, self.after, self.wait = kind, call, after, wait
        self.calls: list[str] = []

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name == self.call and self.calls.count(name) > self.after:
            raise ArchiveError(f"{name}: no", self.kind, self.wait)

    def studies(self, query: Query) -> list[str]:
        return [f"1.{number}" for number in range(40)]

    def series(self, study: str, modality: str) -> dict[str, int | None]:
        self._called("series")
        return {f"{study}.1": 1}

    def fetch(self, study: str, series: str, folder: Path) -> int:
        self._called("fetch")
        (folder / "1.dcm").touch()
        return 1

    def store(self, files: Sequence[Path]) -> None:
        self._called("store")


@pytest.mark.parametrize(
    ("kind", "call", "wait", "calls", "pauses"),
    [
        (Failure.UNAVAILABLE, "series", 0.0, 6, 4),  # five of one study, one of the next, and the end
        (Failure.UNAVAILABLE, "fetch", 0.0, 6, 4),
        (Failure.UNAVAILABLE, "fetch", 3600.0, 2, 0),  # who asks for an hour gets it
        (Failure.REFUSED, "series", 0.0, 1, 0),
        (Failure.REFUSED, "fetch", 0.0, 1, 0),
        (Failure.DAMAGED, "fetch", 0.0, 5 + 36, 4),  # one of each of the others
        (Failure.IMPOSSIBLE, "fetch", 0.0, 37, 0),
    ],
)
def test_an_archive_that_goes_away_is_not_waited_for_at_each_study(
    kind: Failure,
    call: str,
    wait: float,
    calls: int,
    pauses: int,
    state: State,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", type("time", (), {"sleep": staticmethod(waited.append)}))
    after = 6 if call == "series" else 3
    many = Many(kind, call, after, wait)
    source = ArchiveSource(many, Query("CT"), state, Finder())
    assert len(seen(source)) == 3
    assert (many.calls.count(call) - after, len(waited)) == (calls, pauses)
    assert len(source.left) == 37
    assert len(caplog.records) <= 8
    again = ArchiveSource(Many(kind, "none", 0), Query("CT"), state, Finder())
    assert (len(seen(again)), again.left) == (37, set())


@pytest.mark.parametrize("kind", Failure)
def test_a_place_for_reports_that_fails_is_not_asked_for_each_of_them(
    kind: Failure, shelf: Shelf, state: State, caplog: pytest.LogCaptureFixture
) -> None:
    many = Many(kind, "store", 0)
    sink = ArchiveSink(many, state, Finder())  # type: ignore[arg-type]
    for number in range(30):
        sink.store(f"{number}", [f"{number}"], [(f"{number:02d}.dcm", an_object(shelf))])
    assert len(state.waiting()) == 30
    assert (
        len(many.calls)
        <= {Failure.UNAVAILABLE: 7, Failure.REFUSED: 1, Failure.DAMAGED: 63, Failure.IMPOSSIBLE: 30}[kind]
    )
    assert sum("waits in the outbox" in record.message for record in caplog.records) == 1


def test_a_study_that_is_still_arriving_waits(shelf: Shelf, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([{"1.1.1": 4}, {"1.1.1": 5}, {"1.2.1": 9}])
    monkeypatch.setattr(shelf, "series", lambda study, modality: next(counts, {"1.2.1": 9}))
    first = source(shelf, state)
    assert seen(first) == []  # one has grown meanwhile, of the other only 4 of 9 images can be had
    assert len(first.left) == 2
    assert list((state.folder / "scores").iterdir()) == []


def test_reports_wait_in_the_outbox_until_the_archive_takes_them(shelf: Shelf, state: State) -> None:
    sink = ArchiveSink(shelf, state, Finder())  # type: ignore[arg-type]
    shelf.fail = ["store"] * 6
    sink.store("one", ["one"], [("1.dcm", an_object(shelf))])
    assert (len(state.waiting()), shelf.stored) == (1, {})
    sink.store("two", ["two"], [("refused.dcm", an_object(shelf)), ("2.dcm", an_object(shelf, "1.2"))])
    assert sorted(shelf.stored.values()) == ["1.dcm", "2.dcm"]
    assert len(state.waiting()) == 1
    assert sorted(file.stem for file in (state.folder / "scores").iterdir()) == ["one", "two"]
    shelf.stored.clear()
    ArchiveSink(shelf, state, Finder())  # type: ignore[arg-type]
    assert len(state.waiting()) == 1


def test_attempts_end_with_the_last_error(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", type("time", (), {"sleep": staticmethod(waited.append)}))

    def action() -> None:
        raise ArchiveError("no")

    with pytest.raises(ArchiveError):
        with_retries(action, attempts=4, wait=0.5)
    assert waited == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("url", ["ftp://x", "dimse://HOST:104", "dimse://A@h", "/folder"])
def test_what_is_no_archive_is_told(url: str) -> None:
    with pytest.raises(ValueError, match="no archive"):
        open_archive(url)


@pytest.mark.parametrize("words", [{"since": "2026-11-20"}, {"studies": ("1.2.3", "x*")}])
def test_wrong_queries_are_told(words: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"YYYYMMDD|StudyInstanceUID"):
        Query("CT", **words)

"""Each study of an archive is answered once, and no answer is lost, whatever the network does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from monai_rd.deploy import archive as module
from monai_rd.deploy.archive import ArchiveError, Query, open_archive, retried
from monai_rd.deploy.archive_places import ArchiveSink, ArchiveSource, State
from tests.dicom_files import make_series


class Shelf:
    """An archive in a folder per study and series, with a network that fails when told to."""

    def __init__(self, root: Path) -> None:
        self.root, self.stored, self.fail = root, {}, []  # type: ignore[var-annotated]
        self.calls: list[str] = []

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


class Writer:
    """The part of a predictor that writes scores."""

    def write(self, predictions: Sequence[Any], path: Path) -> str:
        Path(path).write_text("".join(f"{one}\n" for one in predictions))
        return ""


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setattr(module, "time", type("time", (), {"sleep": staticmethod(lambda seconds: None)}))
    for study in ("1.1", "1.2"):
        make_series(tmp_path / "archive" / study / f"{study}.1", slices=4)
    return Shelf(tmp_path / "archive")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    made = State(tmp_path / "state")
    yield made
    made.close()


def source(shelf: Shelf, state: State, model: str = "a") -> ArchiveSource:
    return ArchiveSource(shelf, Query("CT"), state, model)


def seen(from_: ArchiveSource) -> list[int]:
    return [len(list(folder.rglob("*.dcm"))) for folder in from_]


def an_object(shelf: Shelf, study: str = "1.1") -> Dataset:
    return dcmread(next((shelf.root / study / f"{study}.1").iterdir()))


def test_a_study_is_answered_once_until_it_grows_or_the_model_changes(shelf: Shelf, state: State) -> None:
    assert seen(source(shelf, state)) == [4, 4]
    assert seen(source(shelf, state)) == []
    assert seen(source(shelf, state, "another model")) == [4, 4]
    more = shelf.root / "1.2" / "1.2.1"
    shutil.copy(next(more.iterdir()), more / "more.dcm")
    assert seen(source(shelf, state)) == [5]
    assert list((state.folder / "incoming").iterdir()) == []


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
    assert first.left == 1
    again = source(shelf, state)
    assert seen(again) == [4]
    assert again.left == 0


def test_a_study_that_is_still_arriving_waits(shelf: Shelf, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([{"1.1.1": 4}, {"1.1.1": 5}, {"1.2.1": 9}])
    monkeypatch.setattr(shelf, "series", lambda study, modality: next(counts, {"1.2.1": 9}))
    first = source(shelf, state)
    assert seen(first) == []  # one has grown meanwhile, of the other only 4 of 9 images can be had
    assert first.left == 2
    assert list((state.folder / "answered").iterdir()) == []


def test_reports_wait_in_the_outbox_until_the_archive_takes_them(shelf: Shelf, state: State) -> None:
    sink = ArchiveSink(shelf, state, Writer())  # type: ignore[arg-type]
    shelf.fail = ["store"] * 6
    sink.store(["one"], [("1.dcm", an_object(shelf))])
    assert (sink.waiting, shelf.stored) == (1, {})
    sink.store(["two"], [("refused.dcm", an_object(shelf)), ("2.dcm", an_object(shelf, "1.2"))])
    assert sorted(shelf.stored.values()) == ["1.dcm", "2.dcm"]
    assert sink.waiting == 1
    (scores,) = state.folder.glob("scores_*.csv")
    assert scores.read_text() == "one\ntwo\n"
    shelf.stored.clear()
    assert ArchiveSink(shelf, state, Writer()).waiting == 1  # type: ignore[arg-type]


def test_one_process_at_a_time(state: State) -> None:
    (state.folder / "incoming" / "rest").mkdir()
    with pytest.raises(OSError, match="another process works on it"):
        State(state.folder)
    state.close()
    again = State(state.folder)
    assert list((state.folder / "incoming").iterdir()) == []
    assert (state.folder / "incoming").stat().st_mode & 0o077 == 0
    again.close()


def test_attempts_end_with_the_last_error(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(module, "time", type("time", (), {"sleep": staticmethod(waited.append)}))

    def action() -> None:
        raise ArchiveError("no")

    with pytest.raises(ArchiveError):
        retried(action, attempts=4, wait=0.5)
    assert waited == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("url", ["ftp://x", "dimse://HOST:104", "dimse://A@h", "/folder"])
def test_what_is_no_archive_is_told(url: str) -> None:
    with pytest.raises(ValueError, match="no archive"):
        open_archive(url)


@pytest.mark.parametrize("words", [{"since": "2026-11-20"}, {"studies": ("1.2.3", "x*")}])
def test_wrong_queries_are_told(words: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"YYYYMMDD|StudyInstanceUID"):
        Query("CT", **words)

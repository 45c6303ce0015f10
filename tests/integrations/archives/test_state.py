"""Workers that share a state folder: who scores what, and what becomes of that of dead ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from monai_rd.files import write_new
from monai_rd.inference import Prediction, read_scores
from monai_rd.inference.prediction import scores_content
from monai_rd.integrations.archives import state as module
from monai_rd.integrations.archives.state import State

STUDIES = {name: name.upper() for name in "abcd"}
Start = Callable[[], State]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a worker on the same folder."""
    started: list[State] = []

    def one() -> State:
        started.append(State(tmp_path / "state"))
        return started[-1]

    yield one
    for state in started:
        state.close()


def die(state: State) -> None:
    """End as the system ends a killed process: it releases the lock, and nothing else is done."""
    state._ended.set()
    state._lock.release()


def elsewhere(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker be of another machine, whose locks are not seen here."""
    name = f"{state.name.rpartition('_')[0]}_{'0' * 8}"
    for part in ("claims", "workers", "outbox", "incoming"):
        for file in (state.folder / part).iterdir():
            if file.name == state.name:
                os.rename(file, file.with_name(name))
            elif part == "claims" and file.read_text() == state.name:
                file.write_text(name)


def content(name: str, model: str = "m") -> dict[str, Any]:
    return scores_content([Prediction(name, problem="X", message="no")], ["a", "b"], {"sha256": model})


def listed(folder: Path) -> list[str]:
    """Ids in all tables, and that CSV and JSON say the same of them."""
    found = []
    for table in folder.glob("scores_*.csv"):
        ids = [one.id for one in read_scores(table)]
        assert [line.partition(",")[0] for line in table.read_text().splitlines()[1:]] == ids
        found += ids
    return sorted(found)


def test_two_workers_share_the_studies(start: Start) -> None:
    one, two = start(), start()
    first, second = one.each(STUDIES.items()), two.each(STUDIES.items())
    assert [next(first), next(second), next(first)] == [("a", "A"), ("b", "B"), ("c", "C")]
    assert next(second) == ("d", "D")
    assert next(first, None) is None  # what the other one is at is left to it
    assert next(second, None) is None
    assert list((one.folder / "claims").iterdir()) == []


def test_a_dead_workers_study_comes_last(start: Start) -> None:
    one, two = start(), start()
    assert next(one.each(STUDIES.items())) == ("a", "A")
    assert two.interrupted([one.name]) == ["a"]
    die(one)
    assert [key for key, _ in two.each(STUDIES.items())] == [*"bcda"]
    assert two.interrupted([one.name]) == []


def test_a_worker_that_fails_leaves_its_study_to_others(start: Start) -> None:
    one, two = start(), start()
    next(one.each(STUDIES.items()))  # and no more: what failed asks for no other one
    assert [key for key, _ in two.each(STUDIES.items())] == [*"bcd"]
    one.close()
    assert [key for key, _ in two.each([("a", "A")])] == ["a"]


def test_a_worker_elsewhere_lives_as_long_as_its_file_is_touched(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = start(), start()
    next(one.each(STUDIES.items()))
    (one.outbox / "1.dcm").write_text("report")
    (one.incoming / "image").write_text("of a patient")
    elsewhere(one, monkeypatch)
    die(one)
    two.adopt()
    assert [key for key, _ in two.each(STUDIES.items())] == [*"bcd"]
    assert two.waiting() == []
    (file,) = [file for file in (two.folder / "workers").iterdir() if file.name.endswith("0" * 8)]
    touched = file.stat().st_mtime - module._EXPIRES
    os.utime(file, (touched, touched))
    two.adopt()
    assert [key for key, _ in two.each([("a", "A")])] == ["a"]
    assert [file.read_text() for file in two.waiting()] == ["report"]
    assert (
        sorted(path.name for part in ("incoming", "outbox") for path in (two.folder / part).iterdir()) == [two.name] * 2
    )
    touched -= 2 * module._FORGOTTEN
    os.utime(file, (touched, touched))
    two.adopt()
    assert [file.name for file in (two.folder / "workers").iterdir()] == [two.name]


def test_where_files_cannot_be_locked_workers_go_by_the_touches(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any, **more: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(module.FileLock, "acquire", refuse)
    one, two = start(), start()
    next(one.each(STUDIES.items()))
    assert [key for key, _ in two.each(STUDIES.items())] == [*"bcd"]
    os.utime(two.folder / "workers" / one.name, (0, 0))
    assert [key for key, _ in two.each([("a", "A")])] == ["a"]


def test_a_living_worker_touches_its_file(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BEAT", 0.01)
    one = start()
    os.utime(one.folder / "workers" / one.name, (0, 0))
    one._ended.wait(0.2)
    assert (one.folder / "workers" / one.name).stat().st_mtime > 0


def test_images_are_private_and_go_with_their_worker(start: Start) -> None:
    one = start()
    assert (one.folder / "incoming").stat().st_mode & 0o077 == one.incoming.stat().st_mode & 0o077 == 0
    (one.incoming / "rest").mkdir()
    die(one)
    two = start()
    assert [path.name for path in (two.folder / "incoming").iterdir()] == [two.name]
    (two.outbox / "1.dcm").touch()
    two.close()
    assert [list((two.folder / part).iterdir()) for part in ("incoming", "outbox")] == [[], [two.outbox]]
    assert not two.lives(two.name)


def test_each_score_is_in_one_table(start: Start, tmp_path: Path) -> None:
    one, two = start(), start()
    for name in "ab":
        one.keep(name, content(name))
    one.list_scores(tmp_path)
    assert one.answered("a")
    assert not one.answered("c")
    two.keep("c", content("c"))
    two.keep("a", content("a"))  # it was thought dead while it scored
    two.list_scores(tmp_path)
    assert listed(tmp_path) == [*"abc"]
    assert len(list(tmp_path.glob("scores_*.csv"))) == 2
    two.list_scores(tmp_path)
    assert len(list(tmp_path.glob("scores_*.csv"))) == 2
    assert list((one.folder / "scores").iterdir()) == []


def test_each_student_has_a_table_of_its_own(start: Start, tmp_path: Path) -> None:
    one = start()
    for name, model in (("a", "m"), ("b", "n"), ("c", "m")):
        one.keep(name, content(name, model))
    one.list_scores(tmp_path)
    found = [{(row.id, row.model) for row in read_scores(table)} for table in tmp_path.glob("scores_*.csv")]
    assert sorted(map(sorted, found)) == [[("a", "m"), ("c", "m")], [("b", "n")]]


class Killed(BaseException):
    """What nothing catches, as a signal."""


@pytest.mark.parametrize(
    ("name", "number", "after"),
    [
        ("write_new", 2, False),  # some studies are marked, others not
        ("write_new", 2, True),
        ("write_content", 1, False),
        ("write_content", 1, True),  # the table is there, and the scores still wait
        ("atomic_write", 1, True),  # of prediction.py: the CSV is there, the JSON not
        ("unlink", 2, True),
    ],
)
def test_a_table_whose_writer_is_killed_is_written_by_the_next(
    name: str, number: int, after: bool, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = start(), start()
    for study in "abc":
        one.keep(study, content(study))
    place: Any = {"atomic_write": module.write_content.__globals__, "unlink": vars(Path)}.get(name, vars(module))
    ordinary, count = place[name], 0

    def killed(*given: Any, **more: Any) -> Any:
        nonlocal count
        count += name != "unlink" or given[0].suffix == ".json"
        if count == number and not after:
            raise Killed
        done = ordinary(*given, **more)
        if count == number:
            raise Killed
        return done

    with monkeypatch.context() as patch:
        if name == "unlink":
            patch.setattr(Path, name, killed)
        else:
            patch.setitem(place, name, killed)
        with pytest.raises(Killed):
            one.list_scores(tmp_path)
    two.list_scores(tmp_path)  # the other one lives, so its table is left to it
    two.keep("d", content("d"))
    die(one)
    two.list_scores(tmp_path)
    assert listed(tmp_path) == [*"abcd"]
    assert list((two.folder / "scores").iterdir()) == []


def test_a_new_file_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_new("one", tmp_path / "file")
    with pytest.raises(FileExistsError):
        write_new("two", tmp_path / "file")

    def refuse(*given: Any) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    write_new("three", tmp_path / "other")
    with pytest.raises(FileExistsError):
        write_new("four", tmp_path / "other")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"file": "one", "other": "three"}


def test_a_mark_that_was_being_written_loses_no_score(start: Start, tmp_path: Path) -> None:
    one = start()
    one.keep("a", content("a"))
    (one.folder / "answered" / "a").touch()
    one.list_scores(tmp_path)
    assert listed(tmp_path) == ["a"]

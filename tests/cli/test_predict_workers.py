"""`monai-rd predict` by several processes on one state folder: each study once, whoever is killed."""

from __future__ import annotations

import csv
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom import dcmread
from typer.testing import CliRunner, Result

pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")

from monai_rd.cli.app import app
from monai_rd.inference import Predictor
from monai_rd.integrations import workers
from monai_rd.integrations.archives.archive import Query
from monai_rd.integrations.archives.archive_url import open_archive
from tests.dicom_files import make_series
from tests.processes import CONTEXT, start_module
from tests.servers import Orthanc
from tests.waiting import wait_for

STUDIES = 32


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ward")
    for number in range(STUDIES):
        make_series(root / f"{number}", seed=number, slices=3, shape=(32, 32))
    return root


@pytest.fixture
def quickly_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of a process that has imported everything, in place of new ones."""
    monkeypatch.setattr(workers, "multiprocessing", SimpleNamespace(get_context=lambda kind: CONTEXT))


def words_of(predictor: Predictor, state: Path, source: object, to: object) -> list[str]:
    where = ["predict", "rd_ct", "--from", str(source), "--to", str(to), "--state", str(state), "--modality", "CT"]
    return [*where, "--workers", "1", "--", "--bundle_root", str(predictor.student.root), "--device", "cpu"]


def say(words: list[str], workers: int) -> Result:
    words[words.index("--workers") + 1] = str(workers)
    return CliRunner().invoke(app, words)


def series_of(root: Path) -> list[str]:
    return sorted(dcmread(next(folder.iterdir())).SeriesInstanceUID for folder in root.iterdir())


def rows_of(folder: Path) -> list[str]:
    """Series of all rows of all tables."""
    found = []
    for table in folder.glob("scores_*.csv"):
        with open(table, newline="") as file:
            found += [row["series"] for row in csv.DictReader(file)]
    return sorted(found)


def reports_in(folder: Path) -> list[str]:
    """Series of all reports."""
    return sorted(path.name.removesuffix("_sr.dcm") for path in (folder / "dicom").glob("*_sr.dcm"))


def left_in(state: Path) -> dict[str, int]:
    """What is left of work; not of files that were being written, which go later."""
    found = {part: [path for path in (state / part).rglob("*") if path.suffix != ".tmp"] for part in NOTHING}
    return {part: len(files) for part, files in found.items()}


NOTHING = {"claims": 0, "incoming": 0, "outbox": 0, "scores": 0}


def answers(state: Path) -> int:
    return sum(path.suffix == ".json" for path in (state / "scores").glob("*"))


def meanwhile(state: Path, act: Callable[[], None]) -> threading.Thread:
    """Act as soon as a study is answered."""

    def wait() -> None:
        wait_for(lambda: answers(state) > 0, 120)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.usefixtures("quickly_started")
def test_two_workers_are_counted_together(predictor: Predictor, ward: Path, tmp_path: Path) -> None:
    words = words_of(predictor, tmp_path / "state", ward, tmp_path / "out")
    done = say(words, 2)
    assert done.exit_code == 0, done.output
    assert f"{STUDIES} studies scored, 0 left out" in done.output
    assert rows_of(tmp_path / "out") == series_of(ward)
    assert len(list(tmp_path.glob("out/scores_*.csv"))) == 1
    assert reports_in(tmp_path / "out") == series_of(ward)
    assert left_in(tmp_path / "state") == NOTHING
    again = say(words, 1)
    assert (again.exit_code, "0 studies scored, 0 left out" in again.output) == (0, True)
    assert rows_of(tmp_path / "out") == series_of(ward)


@pytest.mark.slow
@pytest.mark.usefixtures("quickly_started")
def test_a_killed_worker_stops_no_other(
    predictor: Predictor, ward: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    thread = meanwhile(state, lambda: multiprocessing.active_children()[0].kill())
    done = say(words_of(predictor, state, ward, tmp_path / "out"), 2)
    thread.join()
    assert "a worker has ended before its time: exit code -9" in caplog.text
    if done.exit_code:  # the other one had ended before
        assert "The same command again goes on" in done.output
        done = say(words_of(predictor, state, ward, tmp_path / "out"), 1)
    assert done.exit_code == 0, done.output
    assert rows_of(tmp_path / "out") == series_of(ward)
    assert left_in(state) == NOTHING


@pytest.mark.slow
@pytest.mark.usefixtures("quickly_started")
def test_an_interrupt_ends_all_after_their_study(predictor: Predictor, ward: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    thread = meanwhile(state, lambda: os.kill(os.getpid(), signal.SIGINT))
    done = say(words_of(predictor, state, ward, tmp_path / "out"), 2)
    thread.join()
    assert multiprocessing.active_children() == []
    assert left_in(state) == NOTHING
    scored = rows_of(tmp_path / "out")
    assert 0 < len(scored) <= STUDIES
    assert done.exit_code not in (0, 3) or len(scored) == STUDIES  # a busy machine may interrupt too late
    done = say(words_of(predictor, state, ward, tmp_path / "out"), 1)
    assert f"{STUDIES - len(scored)} studies scored" in done.output
    assert rows_of(tmp_path / "out") == series_of(ward)


@pytest.mark.usefixtures("quickly_started")
def test_what_no_worker_can_do_is_told_once(predictor: Predictor, tmp_path: Path) -> None:
    words = words_of(predictor, tmp_path / "state", "http://127.0.0.1:9/dicom-web", tmp_path / "out")
    words.remove("--modality")
    words.remove("CT")
    done = say(words, 2)
    assert isinstance(done.exception, ValueError)
    assert str(done.exception).startswith("no worker could go on: give --modality")


@pytest.mark.parametrize(
    ("words", "told"), [((), "give --state"), (("--state", "state", "--listen", "4104"), "leave out --listen")]
)
def test_what_workers_need_is_told(words: tuple[str, ...], told: str, ward: Path, tmp_path: Path) -> None:
    given = ["predict", "rd_ct", "--from", str(ward), "--to", str(tmp_path / "out"), "--workers", "2", *words]
    assert told in str(CliRunner().invoke(app, given).exception)


def test_a_folders_studies_are_answered_once_if_a_state_is_given(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others that come do not change who they are: pictures are numbered, and copies are told apart."""
    from PIL import Image

    (tmp_path / "in").mkdir()
    for name, grey in (("b", 1), ("copy of b", 1), ("c", 2)):
        Image.new("L", (32, 32), grey).save(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "d.webp").write_bytes(b"of a kind that is not read")
    words = words_of(predictor, tmp_path / "state", tmp_path / "in", tmp_path / "out")
    assert "3 studies scored, 1 left out" in say(words, 1).output
    Image.new("L", (32, 32), 3).save(tmp_path / "in" / "a.png")
    assert "1 studies scored, 0 left out" in say(words, 1).output
    assert "0 studies scored, 0 left out" in say(words, 1).output


def killed_at_random(words: list[str], state: Path, kills: int, output: Path) -> None:
    """Two workers, of which one is killed again and again and replaced; then one more run."""
    chance = random.Random(0)

    def start() -> Any:
        return start_module("monai_rd", *words, cwd=Path.cwd(), output=output)

    (state / "scores").mkdir(parents=True)
    running = [start(), start()]
    for moment in sorted(chance.sample(range(1, STUDIES - 2), kills)):
        while answers(state) < moment and any(one.is_alive() for one in running):
            time.sleep(0.01)
        time.sleep(chance.random() / 20)
        victim = chance.choice(running)
        victim.kill()
        victim.join()
        running[running.index(victim)] = start()
    for one in [*running, start()]:
        one.join()


@pytest.mark.slow
def test_killed_at_random_each_study_of_a_folder_is_scored_once(
    predictor: Predictor, ward: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    words = words_of(predictor, state, ward, tmp_path / "out")
    killed_at_random(words, state, 6, tmp_path / "output.txt")
    assert say(words, 1).exit_code == 0
    assert rows_of(tmp_path / "out") == series_of(ward), (tmp_path / "output.txt").read_text()
    assert reports_in(tmp_path / "out") == series_of(ward)
    assert left_in(state) == NOTHING


@pytest.mark.slow
def test_killed_at_random_each_study_of_an_archive_is_answered_once(
    predictor: Predictor, ward: Path, orthanc: Orthanc, tmp_path: Path
) -> None:
    archive, state = open_archive(orthanc.web), tmp_path / "state"
    for folder in ward.iterdir():
        archive.store(sorted(folder.iterdir()))
    words = words_of(predictor, state, orthanc.web, orthanc.web)
    killed_at_random(words, state, 6, tmp_path / "output.txt")
    assert say(words, 1).exit_code == 0
    assert rows_of(state) == series_of(ward), (tmp_path / "output.txt").read_text()
    studies = archive.studies(Query("CT"))
    assert [list(archive.series(study, "SR").values()) for study in studies] == [[1]] * STUDIES
    assert left_in(state) == NOTHING

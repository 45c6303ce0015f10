"""What runs on Windows, whose rules processes are given here (`tests/windows_rules.py`)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from monai_rd.protocol import children
from tests.bundles.commands import BUNDLES, QUICK, ROOT
from tests.protocol.conftest import a_run, data  # noqa: F401 - a fixture
from tests.protocol.test_scheduler import BENCHMARK, alive, starts
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which files are open")
RULES = "import tests.windows_rules\n"
# Phantoms to train on, to validate and to test, instead of 240.
FEW = "import monai_rd.phantoms.cohort as c; c.SPLIT = {'training': 8, 'validation': 4, 'test': 4}; "


def process(code: str, *words: object, **settings: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RULES + code, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def printed(code: str, *words: object, **settings: str) -> str:
    started = process(code, *words, **settings)
    text = started.communicate()[0]
    assert started.returncode == 0, text[-6000:]
    return text


def test_the_rules_are_in_force(tmp_path: Path) -> None:
    code = """
import os, sys
def refused(do):
    try:
        do()
    except (ImportError, OSError, ValueError, AttributeError):
        return True
place = sys.argv[1]
a, b = (os.path.join(place, name) for name in "ab")
with open(a, "w"), open(b, "w"):
    print(refused(lambda: os.replace(b, a)), refused(lambda: os.remove(a)))
print(refused(lambda: os.replace(b, a)), refused(lambda: open(a + ":x", "w")), refused(lambda: __import__("fcntl")))
"""
    assert printed(code, tmp_path).split() == ["True", "True", "None", "True", "True"]


def test_a_benchmark_runs_each_training_once(data: Path, tmp_path: Path) -> None:  # noqa: F811
    for _ in range(2):
        printed(BENCHMARK, data, tmp_path, 2, 2)
    assert [starts(a_run(data, seed=seed), tmp_path) for seed in range(2)] == [1, 1]


def test_a_benchmark_that_is_ended_ends_its_trainings(data: Path, tmp_path: Path) -> None:  # noqa: F811
    run = a_run(data)
    started = process(BENCHMARK, data, tmp_path, 1, 1, FAKE_SECONDS="60")
    wait_for(lambda: (run.folder(tmp_path) / "last.pt").is_file())
    started.send_signal(signal.SIGINT)
    started.communicate()
    running = int((run.folder(tmp_path) / "starts.txt").read_text())
    wait_for(lambda: not alive(running), seconds=5)
    assert run.result(tmp_path) is None


def test_a_locked_run_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "fcntl", None)
    held = children.lock(tmp_path / "lock")
    assert held is not None
    assert children.lock(tmp_path / "lock") is None
    held.release()
    again = children.lock(tmp_path / "lock")
    assert again is not None
    again.release()


@pytest.mark.slow
def test_workers_share_a_state_folder(tmp_path: Path) -> None:
    """Two of one process, and a third whose process has ended without a word."""
    code = """
import os, sys
from pathlib import Path
from monai_rd.inference.prediction import Prediction, scores_content
from monai_rd.integrations.archives.state import State
place = Path(sys.argv[1])
def content(name):
    return scores_content([Prediction(name, problem="X", message="no")], ["a"], {"sha256": ""})
content("a")  # imports what both processes need
if not (third := os.fork()):
    one = State(place / "state")
    next(one.each({"a": 1, "b": 2}.items()))
    one.keep("b", content("b"))
    (one.outbox / "1.dcm").touch()
    os._exit(0)
os.waitpid(third, 0)
(dead,) = (place / "state" / "workers").iterdir()
one = State(place / "state")
os.utime(dead, (0, 0))  # its lock is no lock of Windows
two = State(place / "state")
first, second = one.each({"b": 2, "c": 3}.items()), two.each({"a": 1, "c": 3, "b": 2}.items())
print(next(first), next(second), one.lives(two.name))
for worker in (first, second):
    for key, _ in worker:
        print(key)
        two.keep(key, content(key))
two.list_scores(place)
print(len(two.waiting()))
two.waiting()[0].unlink()
for worker in (one, two):
    worker.close()
print(*[len(list((place / "state" / part).iterdir())) for part in ("claims", "incoming", "outbox", "scores")])
"""
    assert printed(code, tmp_path, PYTHONWARNINGS="ignore").splitlines() == [
        "('b', 2) ('c', 3) True",
        "b",
        "a",
        "1",
        "0 0 0 0",
    ]
    (table,) = tmp_path.glob("scores_*.csv")
    assert [line[0] for line in table.read_text().splitlines()] == ["i", "a", "b"]


@pytest.mark.slow
def test_a_training_and_its_predictions(tmp_path: Path) -> None:
    root = shutil.copytree(BUNDLES / "rd_ct", tmp_path / "rd_ct", ignore=shutil.ignore_patterns("models", "eval"))
    monai = FEW + "import runpy; runpy.run_module('monai.bundle', run_name='__main__', alter_sys=True)"
    config = ["--config_file", root / "configs/train.json", "--bundle_root", root]
    printed(monai, "run", *config, *QUICK[2:], "--max_epochs", 1)
    (cohort,) = (root / "eval").glob("phantoms_*")
    own = "from monai_rd.cli.app import main; main()"
    words = ["--from", cohort, "--to", tmp_path / "shared", "--state", tmp_path / "state", "--no-sr", "--workers", 2]
    printed(own, "predict", root, *words)
    (table,) = (tmp_path / "shared").glob("scores_*.csv")
    assert len(table.read_text().splitlines()) == 1 + 16

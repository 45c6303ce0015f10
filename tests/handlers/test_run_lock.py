"""Two trainings in one folder, and data that change between a kill and its resumption."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_rd.datasets.lists import DataList, compare_identities
from monai_rd.handlers import RunLock, run_lock
from tests.processes import CONTEXT
from tests.tiny_run import TinyRun


def _hold(folders: list[Path]) -> None:
    sys.argv = ["/lib/monai/bundle/__main__.py", "run", "--dataset_dir", "/data/MUELLER"]
    lock = RunLock(folders)
    lock.acquire()
    time.sleep(60)


@contextmanager
def holding(*folders: Path) -> Iterator[BaseProcess]:
    """Another process that holds folders."""
    process = CONTEXT.Process(target=_hold, args=(list(folders),))
    process.start()
    try:
        while not all((folder / ".training.json").is_file() for folder in folders):
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize("which", ["models", "eval"])
def test_a_second_training_is_told_who_is_at_work(which: str, tmp_path: Path) -> None:
    with holding(tmp_path / which) as other:
        run = TinyRun(tmp_path, max_epochs=1)
        with pytest.raises(OSError, match="another training is at work here") as caught:
            run.trainer.run()
        said = str(caught.value)
        assert f"(monai.bundle run, process {other.pid} on " in said
        assert " since 20" in said
        assert "give another --bundle_root and --output_dir" in said
        assert "MUELLER" not in said + (tmp_path / which / ".training.json").read_text()
        assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {".training.lock", ".training.json"}
        assert not run.checkpoint._lock._held  # of the folder that was free
    run = TinyRun(tmp_path, max_epochs=1)  # the other one was killed
    run.trainer.run()
    names = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert names == ["best_method.pt", "last.pt", "model.pt", "settings.json"]


def test_a_killed_one_keeps_nobody_out(tmp_path: Path) -> None:
    with holding(tmp_path) as other:
        assert other.pid is not None
        os.kill(other.pid, signal.SIGKILL)
        other.join()
        assert (tmp_path / ".training.json").is_file()
        lock = RunLock([tmp_path])
        lock.acquire()
        assert json.loads((tmp_path / ".training.json").read_text())["pid"] == os.getpid()
        lock.release()
    assert not list(tmp_path.iterdir())


def test_one_process_is_one_training(tmp_path: Path) -> None:
    outer, inner = RunLock([tmp_path]), RunLock([tmp_path, tmp_path / "."])
    outer.acquire()
    inner.acquire()
    inner.release()
    inner.release()
    assert (tmp_path / ".training.json").is_file()
    outer.release()
    assert not list(tmp_path.iterdir())


def test_other_ranks_hold_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "rank", lambda: 1)
    with holding(tmp_path):
        RunLock([tmp_path]).acquire()


def test_a_disk_that_knows_no_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def cannot(self: Any, timeout: float) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("filelock.FileLock.acquire", cannot)
    lock = RunLock([tmp_path])
    lock.acquire()
    lock.release()
    assert "cannot be locked" in caplog.text


# ---------------------------------------------------------------------------------------------------------- the data


def item(name: str, label: Any, uid: str = "", folder: str = "/data") -> dict[str, Any]:
    return {"image": f"{folder}/{name}" if not uid else [f"{folder}/{name}/1.dcm"], "label": label, "id": uid}


def made(training: list[dict[str, Any]], **others: Any) -> DataList:
    given = {"class_names": ("a", "b"), "validation": [item("v.png", 0)], "test": [item("t.png", 1)], **others}
    return DataList(training=training, **given)


FOUR = [item("a/MUELLER.png", 0), item("a/2.png", 0), item("b/1.png", 1), item("x", 1, uid="1.2.3")]


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (made(FOUR), ""),
        (made([item(one["image"][6:], one["label"], folder="/elsewhere") if not one["id"] else one for one in FOUR],
              validation=[item("v.png", 0, folder="/elsewhere")], test=[item("t.png", 1, folder="/elsewhere")]), ""),
        (made([*FOUR, item("b/9.png", 1)]), "training: 1 came (of 4)"),
        (made(FOUR[1:]), "training: 1 went (of 4)"),
        (made([*FOUR[:2], {**FOUR[2], "label": 0}, {**FOUR[3], "label": 0}]), "training: 2 changed their label (of 4)"),
        (made([*FOUR[:3], item("x", 1, uid="1.2.4")]), "training: 1 came, 1 went (of 4)"),
        (made(FOUR[::-1]), "training: the same items in another order (of 4)"),
        (made(FOUR[:3], validation=[item("v.png", 0), FOUR[3]]), "training: 1 went (of 4); validation: 1 came (of 1)"),
        (made(FOUR, test=[item("t.png", 0)]), "test: 1 changed their label (of 1)"),
        (made([*FOUR, FOUR[0]]), "training: 1 came (of 4)"),
        (made(FOUR, class_names=("a", "c"), test=[]), "training: 2 changed their label (of 4); test: 1 went (of 1)"),
    ],
)  # fmt: skip
def test_what_changed_is_counted(now: DataList, said: str) -> None:
    before = made(FOUR).identity()
    assert compare_identities(before, now.identity()) == said
    assert "MUELLER" not in str(before)
    assert compare_identities(json.loads(json.dumps(before)), now.identity()) == said


def test_several_labels_have_an_identity_too() -> None:
    several = replace(made([]), training=[item("1.png", [1.0, 0.0]), item("2.png", [0.0, 0.0])], multi_label=True)
    several = replace(several, validation=[], test=[])
    changed = replace(several, training=[item("1.png", [1.0, 1.0]), item("2.png", [0.0, 0.0])])
    assert compare_identities(several.identity(), changed.identity()) == "training: 1 changed their label (of 2)"


def killed(tmp_path: Path, data: DataList, **also: Any) -> TinyRun:
    """A run with an identity, stopped after its first epoch."""
    run = with_data(TinyRun(tmp_path, max_epochs=2), data, **also)
    save: Callable[[Any], None] = run.checkpoint._save

    def stop(engine: Any) -> None:
        save(engine)
        engine.terminate()

    run.checkpoint._save = stop  # type: ignore[method-assign]
    run.checkpoint.attach(run.trainer)
    run.trainer.run()
    return run


def with_data(run: TinyRun, data: DataList, **also: Any) -> TinyRun:
    run.checkpoint.data, run.checkpoint.also = data.identity(), also
    return run


def test_a_run_is_not_resumed_on_other_data(tmp_path: Path) -> None:
    killed(tmp_path, made(FOUR), teacher_weights="abc")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    changed = made([{**FOUR[0], "label": 1}, *FOUR[1:]])
    other = with_data(TinyRun(tmp_path, max_epochs=2, resume=True), changed, teacher_weights="abc")
    with pytest.raises(ValueError, match=r"the data have changed: training: 1 changed their label \(of 4\)\. Bring"):
        other.trainer.run()
    for data in (changed, made(FOUR[1:]), made([*FOUR, item("b/9.png", 1)])):  # and so a setting that follows from them
        other = with_data(TinyRun(tmp_path, max_epochs=2, resume=True), data, teacher_weights="abc", scope={"n": 5})
        with pytest.raises(ValueError, match="cannot resume: the data have changed: training: 1 "):
            other.trainer.run()
    other = with_data(TinyRun(tmp_path, max_epochs=2, resume=True), made(FOUR), teacher_weights="abd")
    with pytest.raises(ValueError, match=r"other settings \(teacher_weights was 'abc', now 'abd'\)"):
        other.trainer.run()
    assert all(path.read_bytes() == content for path, content in before.items())
    same = with_data(TinyRun(tmp_path, max_epochs=2, resume=True), made(FOUR), teacher_weights="abc")
    same.trainer.run()
    assert torch.load(same.checkpoint.last, weights_only=True)["epoch"] == 2

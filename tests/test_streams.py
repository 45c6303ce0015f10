"""Consoles that cannot show a character, and readers who go."""

from __future__ import annotations

import errno
import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Events
from PIL import Image
from tqdm.auto import tqdm

from monai_rd.console import terminal
from monai_rd.handlers import HistoryHandler, ProgressHandler
from monai_rd.streams import robust_stream

NAMES = "Läsion ± ☃ \ud800"
ENCODINGS = ["ascii", "latin-1", "cp1252", "cp437", "utf-8"]


def narrow(encoding: str, monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    """Give this process a console of an encoding, as `make_streams_robust` makes it."""
    shown = io.BytesIO()
    monkeypatch.setattr(
        sys, "stdout", robust_stream(io.TextIOWrapper(shown, encoding, errors="strict", write_through=True))
    )
    return shown


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("way", ["print", "table", "bar", "log"])
def test_every_way_to_show_a_name(way: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.table import Table

    shown = narrow(encoding, monkeypatch)
    if way == "print":
        print(NAMES)
    elif way == "table":
        table = Table(title=NAMES)
        table.add_column(NAMES)
        table.add_row("┏ – ×")
        terminal().print(table)
    elif way == "bar":
        tqdm.write(NAMES, file=sys.stdout)
        with tqdm(total=2, desc=NAMES, file=sys.stdout) as bar:
            bar.update()
    else:
        handler = logging.StreamHandler(sys.stdout)
        handler.handleError = lambda record: pytest.fail("not logged")  # type: ignore[assignment]
        handler.emit(logging.LogRecord("x", logging.INFO, "", 0, NAMES, None, None))
    text = shown.getvalue().decode(encoding)
    assert "L\\xe4sion" in text if encoding == "ascii" else "Läsion" in text
    assert "\\ud800" in text


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_training_goes_on(
    encoding: str, tiny_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, run = narrow(encoding, monkeypatch), tiny_run(max_epochs=1)
    run.evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update({NAMES: 0.5}))
    HistoryHandler(tmp_path / "history.json", run.evaluator).attach(run.trainer)
    ProgressHandler(run.evaluator).attach(run.trainer)
    run.trainer.run()
    assert "epoch   1/1" in shown.getvalue().decode(encoding)


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, ""), OSError(errno.EIO, ""), OSError(errno.ENOSPC, "")])
def test_a_reader_who_goes(error: OSError) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise error

    stream = robust_stream(Gone())
    assert [stream.write("abc"), stream.write("abc")] == [3, 3]
    stream.flush()
    assert robust_stream(stream) is stream
    assert stream.isatty() is False


SCRIPT = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
from monai_rd.bundle import explain_errors
explain_errors()
for number in range(20000):
    print("Läsion", number)
    logging.info("Läsion %d", number)
    print("Läsion", number, file=sys.stderr)
open(sys.argv[1], "w").close()
"""


@pytest.mark.skipif(os.name != "posix", reason="a pipeline of a POSIX shell")
@pytest.mark.parametrize("pipeline", ["| head -n 1", "2>&1 | head -n 1", "> /dev/full", ">&-"])
def test_the_work_is_done_without_a_reader(pipeline: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    line = f'set -o pipefail; "$0" script.py done {pipeline}'
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = ["bash", "-c", line, sys.executable]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "done").exists()
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="a pipeline of a POSIX shell")
@pytest.mark.slow
def test_our_own_command_on_a_narrow_console(tmp_path: Path) -> None:
    for name in ("Läsion ☃", "gesund"):
        for number in range(12):
            folder = tmp_path / "data" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((16, 16), 20 + number).save(folder / f"{number}.png")
    line = 'set -o pipefail; "$0" -m monai_rd datalist data --out list.json --key key | cat'
    environment = {
        **os.environ,
        "PYTHONIOENCODING": "ascii",
        "PYTHONUTF8": "0",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = ["bash", "-c", line, sys.executable]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "L\\xe4sion \\u2603" in done.stdout

"""`monai-rd serve`, as it is typed, used and ended."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monai_rd.cli.app import app
from tests.processes import start_module
from tests.waiting import wait_for

pytest.importorskip("uvicorn", reason='the page needs pip install "monai_rd[serve]"')


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
@pytest.mark.parametrize(
    "end", ["SIGTERM", *(pytest.param(one, marks=pytest.mark.slow) for one in ("SIGINT", "SIGHUP"))]
)
def test_it_runs_until_it_is_ended_and_leaves_nothing(bundle_of: Callable[..., Path], tmp_path: Path, end: str) -> None:
    words = ["serve", "rd_ct", "--port", "0", "--", "--bundle_root", str(bundle_of()), "--device", "cpu"]
    temporary, said = tmp_path / "temporary", tmp_path / "said.txt"
    temporary.mkdir()
    process = start_module("monai_rd", *words, cwd=tmp_path, output=said, TMPDIR=str(temporary))
    try:
        wait_for(lambda: said.exists() and "Ctrl+C" in said.read_text(), seconds=120)
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+/", said.read_text())
        with urllib.request.urlopen(address) as page:
            assert "Show it images" in page.read().decode()
        assert [path.name[:15] for path in temporary.glob("monai_rd_*")] == ["monai_rd_serve_"]
        assert process.pid is not None
        os.kill(process.pid, getattr(signal, end))
        process.join(60)
        assert process.exitcode is not None
    finally:
        process.kill()
    assert list(temporary.glob("monai_rd_*")) == []
    assert "Traceback" not in said.read_text()


def test_a_port_in_use_and_a_host_elsewhere() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = CliRunner().invoke(app, ["serve", "rd_ct", "--port", port])
    assert isinstance(said.exception, ValueError)
    assert f"--host 127.0.0.1 --port {port}: " in str(said.exception)
    said = CliRunner().invoke(app, ["serve", "rd_ct", "--host", "192.0.2.1", "--port", "0"])
    assert "--host an address of this computer" in str(said.exception)


def test_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_rd.cli.serve.find_spec", lambda name: None)
    said = CliRunner().invoke(app, ["serve", "rd_ct"])
    assert 'the page needs fastapi, uvicorn, highdicom: pip install "monai_rd[serve]"' in str(said.exception)

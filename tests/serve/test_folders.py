"""Folders of servers are private, removed at the end, and those of killed ones at the next start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from monai_rd.serve.folders import new_folder


def left(place: Path, name: str) -> Path:
    folder = place / f"monai_rd_serve_{name}"
    (folder / "uploads").mkdir(parents=True)
    folder.chmod(0o700)
    (folder / "uploads" / "1.dcm").write_bytes(b"x")
    (folder / "lock").touch()
    return folder


def test_it_is_private_and_removed(tmp_path: Path) -> None:
    with new_folder(tmp_path) as folder:
        assert list(folder.iterdir()) == []
        (own,) = tmp_path.iterdir()
        if os.name == "posix":
            assert own.stat().st_mode & 0o077 == 0
        (folder / "1.dcm").write_bytes(b"x")
        with new_folder(tmp_path):
            assert (folder / "1.dcm").exists()  # of a server that runs
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_server_left_is_removed(tmp_path: Path) -> None:
    left(tmp_path, "killed")
    running = left(tmp_path, "running")
    starting = left(tmp_path, "starting")
    (starting / "lock").unlink()
    (tmp_path / "monai_rd_serve_file").touch()
    with FileLock(running / "lock"), new_folder(tmp_path):
        names = {path.name for path in tmp_path.iterdir()} - {"monai_rd_serve_file"}
        assert "monai_rd_serve_killed" not in names
        assert {running.name, starting.name} < names


@pytest.mark.skipif(sys.platform == "win32", reason="folders for temporary files are a user's own in Windows")
def test_what_others_could_have_made_is_not_touched(tmp_path: Path) -> None:
    left(tmp_path, "of_others").chmod(0o777)
    (tmp_path / "monai_rd_serve_link").symlink_to(left(tmp_path, "aim").rename(tmp_path / "aim"))
    with new_folder(tmp_path):
        assert (tmp_path / "monai_rd_serve_of_others").exists()
        assert (tmp_path / "aim" / "uploads" / "1.dcm").exists()

"""Hashes that are remembered: what is hashed again, and what a damaged memory does."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monai_rd.cache.file_hashes import item_keys
from monai_rd.cache.fingerprints import item_key


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is hashed; files count as old as soon as they are there."""
    calls: list[Any] = []
    monkeypatch.setattr("monai_rd.cache.file_hashes._YOUNG", -(10**18))
    monkeypatch.setattr("monai_rd.cache.file_hashes.item_key", lambda source: calls.append(source) or item_key(source))
    return calls


@pytest.fixture
def sources(tmp_path: Path) -> list[Any]:
    folder = tmp_path / "Doe^Jane"
    folder.mkdir()
    for name in ("1.dcm", "2.dcm", "3.dcm"):
        (folder / name).write_bytes(name.encode() * 99)
    return [folder, str(folder / "1.dcm"), [str(folder / "1.dcm"), str(folder / "3.dcm")]]


def test_what_has_not_changed_is_not_hashed_again(sources: list[Any], tmp_path: Path, hashed: list[Any]) -> None:
    memory = tmp_path / "cache" / "hashes.sqlite"
    expected = [item_key(source) for source in sources]
    for again in range(3):
        assert item_keys(sources[::-1], memory) == expected[::-1]
        assert len(hashed) == 3, again
    assert item_keys(sources, None) == expected
    assert len(hashed) == 6
    assert b"Doe" not in memory.read_bytes()


def _rewrite(path: Path) -> None:
    times = path.stat()
    path.write_bytes(path.read_bytes().swapcase())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # size and modification time are as before


def _replace(path: Path) -> None:
    times = path.stat()
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes().swapcase())
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.rename(path)


@pytest.mark.parametrize("change", [_rewrite, _replace, lambda path: path.write_bytes(b"more")])
def test_what_has_changed_is(
    sources: list[Any], tmp_path: Path, hashed: list[Any], change: Callable[[Path], None]
) -> None:
    before = item_keys(sources, tmp_path / "hashes.sqlite")
    change(Path(sources[0]) / "3.dcm")
    after = item_keys(sources, tmp_path / "hashes.sqlite")
    assert after == [item_key(source) for source in sources]
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True, False]
    assert len(hashed) == 3 + 2


def test_files_of_one_size_and_time_are_told_apart(
    sources: list[Any], tmp_path: Path, hashed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = Path.stat

    def coarse(path: Path, **how: Any) -> Any:
        real = stat(path, **how)
        named = {name: getattr(real, name) for name in ("st_mode", "st_dev", "st_ino", "st_size")}
        return SimpleNamespace(**named, st_mtime_ns=10**9, st_ctime_ns=10**9)

    monkeypatch.setattr(Path, "stat", coarse)
    alone = [sources[0] / name for name in ("1.dcm", "2.dcm", "3.dcm")]
    for _ in range(2):
        assert item_keys(alone, tmp_path / "hashes.sqlite") == [item_key(one) for one in alone]
    assert len(hashed) == 3


def test_files_that_have_just_changed_are_not_remembered(
    sources: list[Any], tmp_path: Path, hashed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("monai_rd.cache.file_hashes.item_key", lambda source: hashed.append(source) or item_key(source))
    for _ in range(2):
        item_keys(sources, tmp_path / "hashes.sqlite")
    assert len(hashed) == 6


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(
    sources: list[Any], tmp_path: Path, hashed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(sources[1])

    def hash_then_change(source: Any) -> str:
        key = item_key(source)
        path.write_bytes(path.read_bytes() + b".")
        return key

    with monkeypatch.context() as changed:
        changed.setattr("monai_rd.cache.file_hashes.item_key", hash_then_change)
        item_keys([path], tmp_path / "hashes.sqlite")
    assert item_keys([path], tmp_path / "hashes.sqlite") == [item_key(path)]
    assert len(hashed) == 1


@pytest.mark.parametrize("damage", [lambda whole: b"no database" * 99, lambda whole: whole[:5000] + b"\xff" * 9000])
def test_a_damaged_memory_is_begun_anew(
    sources: list[Any], tmp_path: Path, hashed: list[Any], damage: Callable[[bytes], bytes]
) -> None:
    memory = tmp_path / "hashes.sqlite"
    expected = item_keys(sources, memory)
    memory.write_bytes(damage(memory.read_bytes()))
    assert item_keys(sources, memory) == expected
    assert item_keys(sources, memory) == expected
    assert len(hashed) in (3, 6)


def test_several_processes_at_once(sources: list[Any], tmp_path: Path, hashed: list[Any]) -> None:
    context = multiprocessing.get_context("fork")
    memory = tmp_path / "hashes.sqlite"
    processes = [context.Process(target=item_keys, args=(sources, memory)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0] * 4
    item_keys(sources, memory)
    assert hashed == []


def test_what_is_not_there_or_cannot_be_written_is_told(tmp_path: Path) -> None:
    for memory in (tmp_path / "hashes.sqlite", None):
        assert item_keys([tmp_path / "Doe^Jane.png"], memory) == [""]
    with pytest.raises(OSError, match=r"unable to open.*; give a --cache_dir that can be written to"):
        item_keys([], tmp_path)

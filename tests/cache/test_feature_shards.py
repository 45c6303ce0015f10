"""Shards of a fill on a disk without locks: together they leave what one process leaves."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from monai_rd.cache import feature_dataset, file_hashes
from monai_rd.locks import can_lock
from tests.cache.filled_stores import ITEMS, TAP, VIEWS, Counting, dataset, extraction, filled
from tests.methods.steps import tiny_teacher

pytestmark = pytest.mark.usefixtures("few_threads")


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS whose server knows no locks."""

    def cannot(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", cannot)
    monkeypatch.setattr("fcntl.lockf", cannot)
    can_lock.cache_clear()


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """An item a file."""
    monkeypatch.setattr("monai_rd.cache.feature_extraction._FILE", 1)


def content(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def shown(paths: list[Path], store: Path, number: int, count: int) -> int:
    """Fill a shard, and say how many views the teacher was shown beside the one that tells the size."""
    teacher = Counting()
    extraction(paths, store, teacher).fill((number, count))
    return teacher.seen - 1


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("count", [1, 2, 3, ITEMS + 1])
def test_shards_leave_what_one_process_leaves(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, count: int
) -> None:
    twice = [*images, images[1]]
    filled(twice, tmp_path / "one")
    request.getfixturevalue("no_locks")
    views = [shown(twice, tmp_path / "shards", number, count) for number in range(count, 0, -1)]
    assert sum(views) == ITEMS * VIEWS
    assert max(views) - min(views) <= VIEWS
    assert content(tmp_path / "shards") == content(tmp_path / "one")
    assert extraction(twice, tmp_path / "shards").verify()[1:3] == (0, 0)
    assert [shown(twice, tmp_path / "shards", number, count) for number in range(1, count + 1)] == [-1] * count


@pytest.mark.usefixtures("small_files", "no_locks")
def test_what_a_shard_left_out_the_training_computes(
    images: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shown(images, tmp_path / "store", 1, 2)
    assert extraction(images, tmp_path / "store").verify().missing == ITEMS // 2
    assert not caplog.messages
    taught: Any = feature_dataset(dataset(images), tiny_teacher(), TAP, VIEWS, directory=tmp_path / "store")
    assert "cannot be locked ([Errno 37] No locks available)" in caplog.text
    assert len(taught.store) == ITEMS
    assert not [name for name in content(tmp_path) if name.endswith((".lock", ".tmp"))]


@pytest.mark.usefixtures("no_locks")
def test_hashes_are_not_kept_without_locks(images: list[Path], tmp_path: Path) -> None:
    kept = tmp_path / "cache" / "hashes.sqlite"
    assert file_hashes.item_keys([str(path) for path in images], kept) == extraction(images, tmp_path).views.keys
    assert not list(kept.parent.iterdir())


@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (1, 0)])
def test_a_shard_that_is_none(images: list[Path], tmp_path: Path, shard: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="there is no shard"):
        extraction(images, tmp_path / "store").fill(shard)

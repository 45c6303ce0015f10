"""Items on disk: what is a miss, and what damage, kills and other processes leave."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.transforms import MapTransform
from PIL import Image

from monai_rd.cache.fingerprints import item_key
from tests.cache.cached_items import ITEMS, LOADED, chain, files, loads, on_disk


def test_a_second_start_loads_nothing(images: list[Path], tmp_path: Path) -> None:
    assert loads(images, tmp_path / "cache") == ITEMS
    assert loads(images, tmp_path / "cache") == 0
    assert loads(images[::-1], tmp_path / "cache") == 0
    assert loads([path.rename(path.with_name(f"moved {path.name}")) for path in images], tmp_path / "cache") == 0
    assert loads(sorted(images[0].parent.iterdir()), tmp_path / "cache", chain(flip=0.1)) == 0  # after the cached part


def test_another_transform_before_the_random_ones_is_a_miss(images: list[Path], tmp_path: Path) -> None:
    loads(images, tmp_path / "cache")
    assert loads(images, tmp_path / "cache", chain(size=8)) == ITEMS
    assert on_disk(images, tmp_path / "cache", chain(size=8))[0]["image"].shape == (3, 8, 8)
    assert on_disk(images, tmp_path / "cache")[0]["image"].shape == (3, 16, 16)
    assert loads(images, tmp_path / "cache", chain(first=[Named()])) == ITEMS


def test_another_version_of_a_library_is_a_miss(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads(images, tmp_path / "cache")
    monkeypatch.setattr("monai_rd.cache.items.version", lambda name: "99" if name == "pillow" else "1")
    assert loads(images, tmp_path / "cache") == ITEMS


def test_an_images_bytes_are_a_miss_of_that_image(images: list[Path], tmp_path: Path) -> None:
    loads(images, tmp_path / "cache")
    old, times = images[2].read_bytes(), images[2].stat()
    black = Image.new("RGB", (24, 24))
    black.save(images[2])
    images[2].write_bytes(images[2].read_bytes().ljust(len(old), b"\0"))
    os.utime(images[2], ns=(times.st_atime_ns, times.st_mtime_ns))  # the same size and time of modification
    assert loads(images, tmp_path / "cache") == 1
    assert on_disk(images, tmp_path / "cache")[2]["image"].max() == 0
    images[2].write_bytes(old)
    assert loads(images, tmp_path / "cache") == 0


def test_a_file_that_changes_while_it_is_read_is_never_cached(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hash_then_change(sources: Sequence[Any], memory: Any) -> list[str]:
        keys = [item_key(source) for source in sources]
        Image.new("RGB", (24, 24)).save(images[3])
        return keys

    monkeypatch.setattr("monai_rd.cache.datasets.item_keys", hash_then_change)
    with pytest.raises(OSError, match="changed during the run: start again"):
        on_disk(images, tmp_path / "cache")
    monkeypatch.undo()
    assert len(files(tmp_path / "cache")) < ITEMS
    assert loads(images, tmp_path / "cache") >= 1
    assert on_disk(images, tmp_path / "cache")[3]["image"].max() == 0


def test_a_damaged_file_is_found_and_written_anew(
    images: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = on_disk(images, tmp_path / "cache", chain(flip=0.0))
    expected, path = data[2]["image"], data._path(2)
    whole = path.read_bytes()
    LOADED.clear()
    places = (3, 20, len(whole) // 2, len(whole) - 1)  # in its length, its header, its values, its checksum
    broken = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in places]
    for content in (*broken, whole[:-7], whole[:5], b""):
        path.write_bytes(content)
        assert torch.equal(data[2]["image"], expected)
        assert path.read_bytes() == whole
    assert len(LOADED) == caplog.text.count("is damaged and written anew") == 7
    path.unlink()
    assert torch.equal(data[2]["image"], expected)
    assert path.read_bytes() == whole


def _in_processes(count: int, target: Callable[..., None], *args: Any) -> list[int | None]:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=target, args=args) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    return [process.exitcode for process in processes]


def _fill_and_be_killed(paths: Sequence[Path], cache: Path, whole: int) -> None:
    """End, without a word, in the middle of writing, when some items are whole."""
    rename = os.replace

    def replace(*names: Any) -> None:
        if len(files(cache)) >= whole:
            os._exit(9)
        rename(*names)

    os.replace = replace
    on_disk(paths, cache)


def test_a_killed_fill_goes_on_where_it_stopped(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monai_rd.cache.items.own_cores", lambda: 1)
    assert _in_processes(1, _fill_and_be_killed, images, tmp_path / "cache", 4) == [9]
    (left,) = tmp_path.rglob("*.tmp")
    assert loads(images, tmp_path / "cache") == ITEMS - 4
    assert left.exists()  # its process might be alive
    os.utime(left, (0, 0))
    assert loads(images, tmp_path / "cache") == 0
    assert not left.exists()


def test_several_processes_fill_one_cache(images: list[Path], tmp_path: Path) -> None:
    assert _in_processes(3, on_disk, images, tmp_path / "cache") == [0] * 3
    assert len(files(tmp_path / "cache")) == ITEMS
    assert list((tmp_path / "cache").rglob("*.tmp")) == []
    assert loads(images, tmp_path / "cache") == 0


def test_nothing_in_a_cache_names_a_file(images: list[Path], tmp_path: Path) -> None:
    secret = images[0].with_name("Doe^Jane_19500101.png")
    images[0].rename(secret)
    on_disk([secret, *images[1:]], tmp_path / "cache", chain(first=[Named()]))
    found = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(found) == ITEMS + 1
    for path in found:
        assert "Doe" not in path.name
        assert b"Doe" not in path.read_bytes()
        assert str(tmp_path).encode() not in path.read_bytes()


class Named(MapTransform):
    """Puts into the meta what MONAI's own loader does."""

    def __init__(self) -> None:
        super().__init__("image")

    def __call__(self, data: Any) -> Any:
        data["image"].meta["filename_or_obj"] = "Doe^Jane_19500101.png"
        return data

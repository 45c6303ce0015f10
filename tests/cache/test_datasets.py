"""Caches in memory and on disk: which is chosen, that both give the same, what the policy leaves out."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import MapTransform, Resized

from monai_rd.cache import DiskCacheDataset, SkippingCacheDataset, cached_dataset, feature_dataset, is_on_device
from monai_rd.cache.fingerprints import item_key
from monai_rd.errors import UnreadableImageError
from monai_rd.networks import Reads
from tests.cache.cached_items import ALIVE, ITEMS, LOADED, PEAK, chain, files, items, on_disk, pictures
from tests.methods.steps import tiny_teacher


@pytest.fixture(autouse=True)
def nothing_loaded() -> None:
    LOADED.clear()


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Say how much memory is left."""
    return lambda left: monkeypatch.setattr("monai_rd.cache.datasets.available_memory", lambda: left)


@pytest.fixture(params=[10**9, 0], ids=["memory", "disk"])
def cached(request: pytest.FixtureRequest, memory: Any, tmp_path: Path) -> Callable[..., Any]:
    """Make a data set of either kind."""
    memory(request.param)

    def make(paths: Sequence[Path], policy: Any = None, transform: Any = None) -> Any:
        return cached_dataset(items(paths), transform or chain(), policy, cache_dir=tmp_path / "cache")

    return make


ALL = ITEMS * 3 * 16 * 16 * 4  # bytes of all items


@pytest.mark.parametrize(
    ("left", "ranks", "expected"),
    [
        (2 * ALL, 1, SkippingCacheDataset),
        (2 * ALL - 2, 1, DiskCacheDataset),
        (2 * ALL, 2, DiskCacheDataset),
        (4 * ALL, 2, SkippingCacheDataset),
        (0, 1, DiskCacheDataset),
        (None, 1, SkippingCacheDataset),
    ],
)
def test_the_size_and_the_memory_that_is_left_decide(
    images: list[Path],
    tmp_path: Path,
    memory: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    left: int | None,
    ranks: int,
    expected: type,
) -> None:
    memory(left)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    with caplog.at_level(logging.INFO):
        made = cached_dataset(items(images), chain(), cache_dir=tmp_path / "cache")
    assert type(made) is expected
    assert len(LOADED) == ITEMS * (2 if expected is DiskCacheDataset else 1)  # what was measured is not loaded again
    where = "on disk" if expected is DiskCacheDataset else "in memory"
    assert f"cache: {where}; 6 items of 3.1 kB are 18.4 kB, and {ranks} process(es) may take half of" in caplog.text
    assert (tmp_path / "cache").exists() == (expected is DiskCacheDataset)


def test_a_gpu_without_room_leaves_the_items_in_memory(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (2 * ALL - 2, 4 * ALL))
    with caplog.at_level(logging.INFO):
        made = cached_dataset(items(images), chain(), cache_dir=tmp_path / "cache", device="cuda:1")
    assert asked == [torch.device("cuda:1")]
    assert not is_on_device(made)
    assert not is_on_device(Dataset(items(images), chain()))
    assert made[0]["image"].device.type == "cpu"
    assert (
        "18.4 kB do not fit into half of the 36.9 kB that cuda:1 has left: images are augmented on the" in caplog.text
    )
    assert "cache: in memory;" in caplog.text


def test_both_give_equal_items(images: list[Path], tmp_path: Path, memory: Any) -> None:
    made: list[Any] = []
    for left in (10**9, 0):
        memory(left)
        made.append(cached_dataset(items(images), chain(), cache_dir=tmp_path / "cache"))
        assert len(made[-1].item_keys) == ITEMS
    held, stored = made
    assert held.transform_fingerprint == stored.transform_fingerprint
    assert held.item_keys == stored.item_keys
    for again in range(2):
        for one in made:
            one.transform.set_random_state(seed=again)
        for ours, theirs, item in zip(held, stored, items(images), strict=True):
            assert ours.keys() == theirs.keys() == item.keys()
            assert {key: ours[key] for key in ("label", "index", "id")} == {
                k: item[k] for k in ("label", "index", "id")
            }
            assert torch.equal(ours["image"].as_tensor(), theirs["image"].as_tensor())
            assert torch.equal(ours["image"].affine, theirs["image"].affine)
            assert ours["image"].meta["intensity"] == theirs["image"].meta["intensity"] == "display"
    batches = list(DataLoader(stored, batch_size=4, num_workers=2))
    assert [len(batch["label"]) for batch in batches] == [4, 2]


def test_teacher_features_are_the_same_over_both(images: list[Path], tmp_path: Path, memory: Any) -> None:
    shown = []
    for left in (10**9, 0):
        memory(left)
        data: Any = cached_dataset(items(images), chain(32, last=[Bag("image")]), cache_dir=tmp_path / "cache")
        taught: Any = feature_dataset(data, tiny_teacher(), Reads(tap=True), 2, directory=tmp_path / "features")
        assert taught.keys is data.item_keys
        shown.append([taught[index]["teacher_features"]["tap"] for index in range(ITEMS)])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*shown, strict=True))
    assert len(list((tmp_path / "features").glob("*/store.json"))) == 1  # the second found the first one's


class Bag(MapTransform):
    def __call__(self, data: Any) -> Any:
        return {**data, "image": data["image"][None] / 255}


def test_nothing_of_the_items_is_held(tmp_path: Path, memory: Any) -> None:
    memory(0)
    many = 200
    PEAK.clear()
    data: Any = cached_dataset(items(pictures(tmp_path / "many", many)), chain(), cache_dir=tmp_path / "cache")
    assert len(PEAK) >= many
    assert max(PEAK) <= 8 + 4  # what was measured, and one for each thread
    assert len(ALIVE) == 0
    assert len(files(tmp_path / "cache")) == many
    assert not any(isinstance(value, torch.Tensor) for value in vars(data).values())
    item = weakref.ref(data[0]["image"])
    assert item() is None  # nor what was read


def test_threads_do_not_share_what_a_transform_is_at(
    images: list[Path], cached: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(MapTransform):
        def __call__(self, data: Any) -> Any:
            self.now = data
            time.sleep(0.005)
            return self.now

    monkeypatch.setattr("monai_rd.cache.items.own_cores", lambda: 4)
    monkeypatch.setattr("monai_rd.cache.datasets._MEASURED", 1)
    wanted = [item["image"] for item in cached(images, transform=chain(flip=0.0))]
    found = [item["image"] for item in cached(images, transform=chain(flip=0.0, first=[Slow("image")]))]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, wanted, strict=True))


def test_what_no_cache_can_hold_is_refused(images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Texts(MapTransform):
        def __call__(self, data: Any) -> Any:
            return {**data, "name": "Doe^Jane"}

    with pytest.raises(TypeError, match="leave a str as 'name': only tensors"):
        on_disk(images, tmp_path / "cache", chain(first=[Texts("image")]))
    with pytest.raises(RuntimeError) as caught:
        on_disk(images, tmp_path / "cache", chain(first=[Resized("label", spatial_size=8)]))
    assert "Key `label` of transform `Resized` was missing" in str(caught.value.__cause__)
    monkeypatch.setattr("monai_rd.cache.datasets.free_space", lambda folder: ALL - 1)
    LOADED.clear()
    with pytest.raises(OSError, match=r"need 18\.4 kB more of the disk of cache_dir, which has 18\.4 kB free"):
        DiskCacheDataset(items(images), chain(), cache_dir=tmp_path / "cache", item_bytes=ALL // ITEMS)
    assert LOADED == []


def test_what_the_policy_skips_is_left_out_and_counted(
    images: list[Path], cached: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    for torn in (images[1], images[4]):
        torn.write_bytes(torn.read_bytes()[:60])
    for _ in range(2):  # filled, then found
        caplog.clear()
        data = cached(images, {"default": "skip"})
        assert [item["index"] for item in data] == [0, 2, 3, 5]
        assert data.item_keys == [item_key(images[index]) for index in (0, 2, 3, 5)]
        assert "2 of 6 studies left out: 2 UNREADABLE_IMAGE" in caplog.text
    with pytest.raises(ValueError, match="no study is left, all were left out: 2 UNREADABLE_IMAGE"):
        cached([images[1], images[4]], {"default": "skip"})


def test_the_first_study_that_the_policy_does_not_skip_stops_the_run(
    images: list[Path], cached: Callable[..., Any]
) -> None:
    for torn in images[1:]:
        torn.write_bytes(torn.read_bytes()[:60])
    for _ in range(3):  # whichever thread is first
        with pytest.raises(UnreadableImageError, match=r"study 1\.2\.1: .* --policy \"\{'UNREADABLE_IMAGE': 'skip'\}"):
            cached(images)

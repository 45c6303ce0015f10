"""Caches in memory and on disk: which is chosen, what is a miss, what damage, kills and other processes leave."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, MapTransform, RandFlipd, Resized
from PIL import Image

from monai_rd.cache import DiskCacheDataset, SkippingCacheDataset, cached_dataset, feature_dataset, is_on_device
from monai_rd.cache.fingerprints import describe, item_key
from monai_rd.errors import UnreadableImageError
from monai_rd.memory import available_memory
from monai_rd.networks import Reads
from monai_rd.transforms import LoadImageOrSeriesd, SliceStackd
from tests.methods.steps import tiny_teacher

ITEMS = 6
LOADED: list[str] = []
ALIVE: weakref.WeakSet[Any] = weakref.WeakSet()
PEAK: list[int] = []


class Load(LoadImageOrSeriesd):
    """Tells what was loaded, and how much of it is alive."""

    def _transform(self, source: Any) -> MetaTensor:
        LOADED.append(Path(source).name)
        made = super()._transform(source)
        ALIVE.add(made)
        PEAK.append(len(ALIVE))
        return made


def chain(size: int = 16, flip: float = 0.5, first: Sequence[Any] = (), last: Sequence[Any] = ()) -> Compose:
    return Compose(
        [
            Load("image"),
            SliceStackd("image", slices=1, colour=True),
            *first,
            Resized("image", spatial_size=[size, size], mode="bilinear"),
            RandFlipd("image", prob=flip, spatial_axis=1),
            *last,
        ]
    )


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    LOADED.clear()
    return pictures(tmp_path / "images", ITEMS)


def pictures(folder: Path, count: int) -> list[Path]:
    rng = np.random.default_rng(0)
    folder.mkdir()
    paths = [folder / f"{n}.png" for n in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(path)
    return paths


def items(paths: Sequence[Path]) -> list[dict[str, Any]]:
    return [{"image": str(path), "label": n % 2, "index": n, "id": f"1.2.{n}"} for n, path in enumerate(paths)]


def on_disk(paths: Sequence[Path], cache: Path, transform: Any = None, policy: Any = None) -> DiskCacheDataset:
    return DiskCacheDataset(items(paths), transform or chain(), policy, cache_dir=cache)


def loads(paths: Sequence[Path], cache: Path, transform: Any = None) -> int:
    """How many images a new data set, read once, loads."""
    LOADED.clear()
    assert len([item["image"].sum() for item in on_disk(paths, cache, transform)]) == len(paths)
    return len(LOADED)


def files(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.item"))


# ----------------------------------------------------------------------------------------------------------- the choice


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


# ------------------------------------------------------------------------------------------------- a hit is never stale


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


def test_the_code_that_reads_and_prepares_images_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from monai_rd.cache import fingerprints

    def code() -> Any:
        fingerprints._code_of.cache_clear()
        fingerprints._reading_code.cache_clear()
        return describe(LoadImageOrSeriesd)["code"]

    before, of = code(), fingerprints.sha256
    assert code() == before
    readers = ("dicom/pixels", "images/pictures", "images/nifti", "walk", "transforms/load", "transforms/ct")
    for module, counts in (*((name, True) for name in readers), ("losses/cka", False), ("methods/rd", False)):
        monkeypatch.setattr(
            fingerprints,
            "sha256",
            lambda path, module=module: "another" if str(path).endswith(f"{module}.py") else of(path),
        )
        assert (code() != before) == counts
    monkeypatch.undo()
    assert code() == before


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


# ------------------------------------------------------------------------------------- damage, kills, other processes


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


# ----------------------------------------------------------------------------------------------------------- the policy


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


# ----------------------------------------------------------------------------------------------------------- the memory


def _system(root: Path, groups: str, limits: dict[str, dict[str, str]]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 1000 kB\n", "proc/self/cgroup": groups}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for folder, content in limits.items():
        for name, text in content.items():
            (root / "sys/fs/cgroup" / folder).mkdir(parents=True, exist_ok=True)
            (root / "sys/fs/cgroup" / folder / name).write_text(text)
    return root


def _v2(limit: str, used: int, droppable: int) -> dict[str, str]:
    stat = f"anon 1\ninactive_file {droppable}\n"
    return {"memory.max": f"{limit}\n", "memory.current": f"{used}\n", "memory.stat": stat}


def _v1(limit: int, used: int, droppable: int) -> dict[str, str]:
    stat = f"inactive_file 1\ntotal_inactive_file {droppable}\n"
    return {"memory.limit_in_bytes": f"{limit}\n", "memory.usage_in_bytes": f"{used}\n", "memory.stat": stat}


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/\n", {}, 1_024_000),
        ("0::/job/step\n", {"job": _v2("max", 5, 1), "job/step": _v2("max", 5, 1)}, 1_024_000),
        ("0::/job/step\n", {"job": _v2("5000", 4000, 300), "job/step": _v2("9000", 10, 0)}, 1300),
        ("0::/../outside\n", {".": _v2("800", 900, 0)}, 0),
        ("4:cpu,memory:/job\n0::/\n", {"memory/job": _v1(7000, 1000, 20), "memory": _v1(2**63 - 4096, 9, 9)}, 6020),
        ("4:memory:/docker/abc\n", {"memory": _v1(600, 100, 0)}, 500),
        ("4:cpuset:/a\n", {"memory": _v1(600, 100, 0)}, 1_024_000),
    ],
    ids=["none", "no limit", "above", "over it", "version 1", "in a container", "another controller"],
)
def test_the_memory_that_is_left(tmp_path: Path, groups: str, limits: dict[str, dict[str, str]], expected: int) -> None:
    assert available_memory(_system(tmp_path, groups, limits)) == expected


def test_the_memory_of_this_machine_and_of_none(tmp_path: Path) -> None:
    if Path("/proc/meminfo").exists():
        assert 10**6 < (available_memory() or 0) < 10**15
    assert available_memory(tmp_path) is None

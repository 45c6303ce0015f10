"""The store of teacher features: what a kill, a flipped byte or several processes leave, and what it refuses."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_rd.cache.feature_extraction import Agreement
from monai_rd.cache.feature_store import FeatureStore, clear_stores, list_stores
from tests.cache.filled_stores import ITEMS, VIEWS, Counting, extraction, filled
from tests.methods.steps import tiny_teacher
from tests.processes import CONTEXT

pytestmark = pytest.mark.usefixtures("few_threads")


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """An item a file."""
    monkeypatch.setattr("monai_rd.cache.feature_extraction._FILE", 1)


@pytest.mark.usefixtures("small_files")
def test_a_killed_fill_goes_on_where_it_stopped(images: list[Path], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        filled(images, tmp_path / "store", teacher=Counting(kill_after=1 + 2 * VIEWS), batch_size=1)
    assert [info.items for info in list_stores(tmp_path / "store")] == [2]
    assert filled(images, tmp_path / "store") == (ITEMS - 2) * VIEWS
    (info,) = list_stores(tmp_path / "store")
    assert {path.suffix for path in info.folder.iterdir()} == {".json", ".safetensors"}


@pytest.mark.usefixtures("small_files")
def test_a_flipped_byte_is_found_and_mended(
    images: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(images, tmp_path / "store")
    shards = sorted((tmp_path / "store").rglob("*.safetensors"))
    assert len(shards) == ITEMS
    whole = shards[3].read_bytes()
    for place in (3, len(whole) // 2, len(whole) - 1):  # in its length, its header or features, its last value
        shards[3].write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert filled(images, tmp_path / "store") == VIEWS
        assert shards[3].read_bytes() == whole
    assert caplog.text.count("is damaged and computed again") == 3
    shards[3].write_bytes(whole[:-2])
    assert filled(images, tmp_path / "store") == VIEWS


def test_verify_counts_what_is_wrong(images: list[Path], tmp_path: Path) -> None:
    made = extraction(images, tmp_path / "store")
    assert made.verify() == Agreement(0, 0, ITEMS, 0.0, 1.0)
    filled(images, tmp_path / "store")
    found = extraction(images, tmp_path / "store").verify(sample=7)
    assert (found.views, found.damaged, found.missing) == (7, 0, 0)
    assert found.difference < 1e-3
    assert found.cosine > 0.999
    shards = sorted((tmp_path / "store").rglob("*.safetensors"))
    assert len(shards) > 1  # of few items too, so that several processes have something to share
    for shard in shards:
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)
    assert extraction(images, tmp_path / "store").verify() == Agreement(0, len(shards), ITEMS, 0.0, 1.0)


def test_verify_sees_features_of_another_teacher(images: list[Path], tmp_path: Path) -> None:
    class Renamed(Counting):
        def fingerprint(self) -> str:
            return tiny_teacher().fingerprint()

    filled(images, tmp_path / "store")
    torch.manual_seed(1)
    other = tiny_teacher()
    for parameter in other.backbone.parameters():  # type: ignore[union-attr]
        parameter.data.normal_()
    assert extraction(images, tmp_path / "store", Renamed(other)).verify().cosine < 0.99


def _fill(paths: list[Path], store: Path, queue: Any) -> None:
    teacher = Counting()
    made = extraction(paths, store, teacher)
    made.fill()
    queue.put((teacher.seen, len(made.store)))


@pytest.mark.usefixtures("small_files")
@pytest.mark.slow
def test_processes_share_the_work(images: list[Path], tmp_path: Path) -> None:
    queue = CONTEXT.Queue()
    processes = [CONTEXT.Process(target=_fill, args=(images, tmp_path / "store", queue)) for _ in range(3)]
    for process in processes:
        process.start()
    seen = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert [held for _, held in seen] == [ITEMS] * 3
    assert ITEMS * VIEWS <= sum(shown for shown, _ in seen) <= ITEMS * VIEWS + 3  # each measured an item's size


def test_a_store_that_does_not_fit_is_refused_before_it_is_begun(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monai_rd.cache.feature_extraction.free_space", lambda folder: 1000)
    with pytest.raises(OSError, match=r"11\.8 kB for 5 items in 3 views.*fewer --feature_views"):
        filled(images, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_features_beyond_half_precision_are_refused(images: list[Path], tmp_path: Path) -> None:
    class Loud(Counting):
        def rows(self, image: Tensor, reads: Any, indices: Tensor | None = None) -> dict[str, Tensor]:
            return {name: part * 1e6 for name, part in super().rows(image, reads).items()}

    with pytest.raises(ValueError, match="do not fit into half precision"):
        filled(images, tmp_path / "store", teacher=Loud())


def test_stores_are_listed_and_cleared_and_nothing_else(images: list[Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    filled(images, store)
    filled(images[:2], store, seed=1)
    (store / "mine.txt").write_text("keep")
    (store / "folder").mkdir()
    infos = sorted(list_stores(store), key=lambda info: info.items)
    assert [(info.items, info.views, info.notes) for info in infos] == [
        (2, VIEWS, {"teacher": "tiny"}),
        (ITEMS, VIEWS, {"teacher": "tiny"}),
    ]
    assert infos[1].bytes > ITEMS * VIEWS * 8 * 4 * 4 * 2
    clear_stores(infos)
    assert sorted(path.name for path in store.iterdir()) == ["folder", "mine.txt"]
    with pytest.raises(FileNotFoundError, match="features_dir"):
        list_stores(tmp_path / "nowhere")


def test_nothing_in_a_store_names_a_file(images: list[Path], tmp_path: Path) -> None:
    secret = images[0].with_name("Doe^Jane_19500101.png")
    images[0].rename(secret)
    filled([secret, *images[1:]], tmp_path / "store")
    for path in (tmp_path / "store").rglob("*"):
        assert "Doe" not in path.name
        assert path.is_dir() or b"Doe" not in path.read_bytes()


def test_parts_of_several_shapes_and_items(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, {"views": 2})
    given = {
        key: {"tap": torch.randn(2, n + 1, 3).half(), "logits": torch.randn(2, 2).half()} for n, key in enumerate("abc")
    }
    store.write("first", {"a": given["a"], "b": given["b"]}, locked=True)
    store.write(
        "second", {"c": given["c"], "a": {"tap": torch.zeros(2, 1, 3), "logits": torch.zeros(2, 2)}}, locked=False
    )
    store.refresh(check=True)
    assert len(store) == 3
    for key, view in itertools.product("abc", range(2)):
        found = store.read(key, view)
        assert found.keys() == given[key].keys()
        for part in found:
            assert torch.equal(found[part], given[key][part][view])
    with pytest.raises(KeyError):
        store.read("d", 0)

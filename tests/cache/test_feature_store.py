"""The store of teacher features: what is found, what is missed, what a kill or a flipped byte leaves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import Dataset
from monai.transforms import (
    Compose,
    MapTransform,
    RandFlipd,
    RandomizableTransform,
    RandScaleIntensityd,
    Resized,
    ScaleIntensityRanged,
)
from PIL import Image
from torch import Tensor

from monai_rd.adapters import CrossFittedTeacher
from monai_rd.cache import FeatureExtractor, SkippingCacheDataset, feature_dataset
from monai_rd.cache.batches import ItemView
from monai_rd.cache.feature_extraction import Agreement
from monai_rd.cache.feature_store import FeatureStore, clear_stores, list_stores
from monai_rd.networks import FrozenFoundationModel, Reads
from monai_rd.teacher_features import UNSEEN
from monai_rd.teacher_image import TEACHER_IMAGE
from monai_rd.transforms import ChannelsToBagd, LoadImageOrSeriesd, SliceStackd
from tests.methods.steps import tiny_teacher
from tests.processes import CONTEXT

ITEMS, VIEWS = 5, 3
TAP = Reads(tap=True)


class Counting:
    """A teacher that counts the images that it is shown."""

    def __init__(self, teacher: FrozenFoundationModel | None = None, kill_after: int | None = None) -> None:
        self.teacher, self.kill_after, self.seen = teacher or tiny_teacher(), kill_after, 0
        self.name = self.teacher.name

    def fingerprint(self) -> str:
        return self.teacher.fingerprint()

    def offload(self, folder: Path) -> None:
        self.teacher.offload(folder)

    def rows(self, image: Tensor, reads: Any, indices: Tensor | None = None) -> dict[str, Tensor]:
        self.seen += len(image)
        if self.kill_after is not None and self.seen > self.kill_after:
            raise KeyboardInterrupt
        return self.teacher.rows(image, reads, indices)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / "images" / f"{n}.png" for n in range(ITEMS)]
    paths[0].parent.mkdir()
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    return paths


def transforms(flip: float = 0.5, more: Sequence[Any] = ()) -> Compose:
    return Compose(
        [
            LoadImageOrSeriesd("image"),
            SliceStackd("image", slices=1, colour=True),
            Resized("image", spatial_size=[32, 32], mode="bilinear"),
            ScaleIntensityRanged("image", 0, 255, 0, 1),
            RandScaleIntensityd("image", factors=0.5, prob=1.0),
            RandFlipd("image", prob=flip, spatial_axis=1),
            *more,
            ChannelsToBagd("image", windows=3),
        ]
    )


def dataset(paths: Sequence[Path], transform: Compose | None = None) -> Dataset:
    items = [{"image": str(path), "label": n % 2, "index": n} for n, path in enumerate(paths)]
    return SkippingCacheDataset(items, transform or transforms())


def extraction(
    paths: Sequence[Path], store: Path, teacher: Any = None, reads: Reads = TAP, transform: Any = None, **changed: Any
) -> FeatureExtractor:
    settings: dict[str, Any] = {"views": VIEWS, "seed": 0, "batch_size": 4} | changed
    views = settings.pop("views")
    return FeatureExtractor(dataset(paths, transform), teacher or Counting(), reads, views, directory=store, **settings)


def filled(paths: Sequence[Path], store: Path, **changed: Any) -> int:
    """Fill, and say how many views the teacher was shown (beside the one that tells the size)."""
    teacher = changed.pop("teacher", Counting())
    made = extraction(paths, store, teacher, **changed)
    made.fill()
    assert made._missing(range(len(paths))) == []
    return max(teacher.seen - 1, 0)


# ------------------------------------------------------------------------------------------------------- what is stored


def test_the_student_sees_the_views_that_the_teacher_saw(images: list[Path], tmp_path: Path) -> None:
    teacher = tiny_teacher()
    taught = feature_dataset(dataset(images), teacher, TAP, VIEWS, directory=tmp_path / "store")
    shown, new = set(), set()
    for time in range(4 * VIEWS):
        for index in range(ITEMS):
            item: Any = taught[ItemView(index, time)]  # type: ignore[call-overload]
            if time % 2:
                assert item["teacher_features"] == UNSEEN
                new.add(float(item["image"].sum()))
                continue
            wanted = teacher.rows(item["image"].as_tensor()[None], TAP)["tap"][0]
            torch.testing.assert_close(item["teacher_features"]["tap"].float(), wanted, atol=2e-3, rtol=2e-3)
            assert (item["label"], item["index"]) == (index % 2, index)
            shown.add((index, float(item["image"].sum())))
    assert len(shown) == ITEMS * VIEWS  # every view of every item, and no other
    assert len(new - {total for _, total in shown}) == 2 * VIEWS * ITEMS


@pytest.mark.parametrize("workers", [0, 2])
def test_views_do_not_depend_on_process_order_or_place_in_the_list(images: list[Path], workers: int) -> None:
    from torch.utils.data import DataLoader

    from monai_rd.cache import ReplayedViews

    one, other = ReplayedViews(dataset(images), VIEWS, 7), ReplayedViews(dataset(images[::-1]), VIEWS, 7)
    for time in (0, 1):
        order: Any = [ItemView(index, time) for index in range(ITEMS)]
        loader: Any = DataLoader(other, batch_size=None, sampler=order, num_workers=workers)
        expected: list[Any] = [one[ItemView(index, time)] for index in (3, 1, 0, 4, 2)]
        by_index = {int(item["index"]): item["image"] for item in loader}
        assert len(by_index) == ITEMS
        for item in expected:
            assert torch.equal(by_index[ITEMS - 1 - item["index"]], item["image"])


def test_no_new_views_where_labels_alone_teach_nothing(images: list[Path], tmp_path: Path) -> None:
    taught: Any = feature_dataset(
        dataset(images), tiny_teacher(), TAP, VIEWS, directory=tmp_path / "store", new_views=False
    )
    shown = set()
    for time in range(VIEWS):
        shown |= {(index, taught.turn(index, time)) for index in range(ITEMS)}
        assert all(taught[ItemView(index, time)]["teacher_features"] for index in range(ITEMS))
    assert shown == {(index, view) for index in range(ITEMS) for view in range(VIEWS)}


def test_every_part_comes_back_as_it_was_read(images: list[Path], tmp_path: Path) -> None:
    from monai_rd.networks.features import from_rows
    from monai_rd.transforms import bag_collate

    teacher = tiny_teacher()
    reads = Reads(tap=True, grid=2, pooled=True, levels=teacher.levels)
    taught: Any = feature_dataset(dataset(images), teacher, reads, VIEWS, directory=tmp_path / "store", batch_size=2)
    batch = bag_collate([taught[index] for index in range(ITEMS)])
    found = from_rows(batch["teacher_features"], 2)
    wanted = teacher.read(batch["image"].as_tensor(), reads)
    assert found.parts.keys() == wanted.parts.keys()
    for name, part in wanted.parts.items():
        torch.testing.assert_close(found.parts[name].float(), part, atol=5e-3, rtol=5e-3, msg=name)


def test_a_teacher_in_folds_answers_in_the_store_as_in_the_loop(images: list[Path], tmp_path: Path) -> None:
    """The first three items are of a training list, of which one fold each is; the others have no label."""
    base, reads, fitted = tiny_teacher(), Reads(logits=True), []
    known: dict[str, Any] = {"channels": base.channels, "kind": base.kind, "preprocessing": base.preprocessing}
    for seed in range(3):
        torch.manual_seed(seed)
        head = torch.nn.Linear(base.channels, 2)
        fitted.append(FrozenFoundationModel(base.backbone, **known, name="fitted", head=head))
    made = CrossFittedTeacher(fitted, torch.tensor([2, 0, 1]))
    folder = tmp_path / "store"
    taught: Any = feature_dataset(dataset(images), made, reads, VIEWS, directory=folder, batch_size=2)
    for place in range(ITEMS):
        item = taught[place]
        image = item["image"].as_tensor()[None]
        every = torch.stack([one.read(image, reads).logits[0] for one in fitted])
        wanted = every[[2, 0, 1][place]] if place < 3 else every.mean(dim=0)
        torch.testing.assert_close(item["teacher_features"]["logits"].float(), wanted, atol=2e-3, rtol=2e-3)
        in_the_loop = made.read(image, reads, torch.tensor([place])).logits[0]
        torch.testing.assert_close(in_the_loop, wanted)
    other = CrossFittedTeacher(fitted, torch.tensor([2, 1, 0]))
    feature_dataset(dataset(images), other, reads, VIEWS, directory=folder)
    assert len(list_stores(folder)) == 2


def test_the_teacher_is_shown_its_own_image(images: list[Path], tmp_path: Path) -> None:
    class Larger(MapTransform):
        def __call__(self, data: Any) -> Any:
            return {**data, TEACHER_IMAGE: data["image"].repeat_interleave(2, -1).repeat_interleave(2, -2) / 2}

    teacher = tiny_teacher()
    chain = transforms()
    chain.transforms = (*chain.transforms, Larger("image"))
    data = dataset(images, chain)
    taught: Any = feature_dataset(data, teacher, TAP, VIEWS, directory=tmp_path / "store")
    for index in range(ITEMS):
        item = taught[index]
        assert TEACHER_IMAGE not in item
        shown = Larger("image")({"image": item["image"].as_tensor()})[TEACHER_IMAGE]
        wanted = teacher.rows(shown[None], TAP)["tap"][0]
        torch.testing.assert_close(item["teacher_features"]["tap"].float(), wanted, atol=2e-3, rtol=2e-3)


def test_studies_and_single_images_in_one_list(images: list[Path], tmp_path: Path) -> None:
    """A stack of three frames among images of one."""
    from monai_rd.networks.features import from_rows
    from monai_rd.transforms import bag_collate

    class ThreeOfThem(MapTransform):
        def __call__(self, data: Any) -> Any:
            if data["index"] != 1:
                return data
            return {**data, "image": torch.cat([data["image"], data["image"] / 2, data["image"] / 3])}

    teacher = tiny_teacher()
    reads = Reads(tap=True, pooled=True, levels=teacher.levels)
    chain = transforms(more=[ThreeOfThem("image")])
    taught: Any = feature_dataset(dataset(images, chain), teacher, reads, VIEWS, directory=tmp_path / "store")
    for chosen in ([0, 2], [1], [0, 1, 4]):
        batch = bag_collate([taught[index] for index in chosen])
        found, wanted = from_rows(batch["teacher_features"], 2), teacher.read(batch["image"].as_tensor(), reads)
        for name, part in wanted.parts.items():
            torch.testing.assert_close(found.parts[name].float(), part, atol=5e-3, rtol=5e-3, msg=name)


def test_no_views_or_no_teacher_leave_the_data_set_alone(images: list[Path], tmp_path: Path) -> None:
    plain = dataset(images)
    assert feature_dataset(plain, tiny_teacher(), TAP, 0, directory=tmp_path / "store") is plain
    assert feature_dataset(plain, None, TAP, 4, directory=tmp_path / "store") is plain
    assert feature_dataset(plain, tiny_teacher(), Reads(), 4, directory=tmp_path / "store") is plain
    assert not (tmp_path / "store").exists()
    with pytest.raises(ValueError, match="feature_views"):
        feature_dataset(plain, tiny_teacher(), TAP, -1, directory=tmp_path / "store")


def test_filling_leaves_the_random_state_alone(images: list[Path], tmp_path: Path) -> None:
    drawn = []
    for _ in range(2):  # fills, then finds all there
        torch.manual_seed(3)
        feature_dataset(dataset(images), tiny_teacher(), TAP, VIEWS, directory=tmp_path / "store")
        drawn.append(torch.rand(4))
    assert torch.equal(*drawn)


# ------------------------------------------------------------------------------------------------- a hit is never stale


def test_a_second_training_computes_nothing(images: list[Path], tmp_path: Path) -> None:
    assert filled(images, tmp_path / "store") == ITEMS * VIEWS
    assert filled(images, tmp_path / "store") == 0
    assert filled(images[::-1], tmp_path / "store") == 0
    assert filled(images[2:4], tmp_path / "store") == 0


def _other_weights() -> Counting:
    teacher = tiny_teacher()
    next(teacher.backbone.parameters()).data[0, 0, 0, 0] += 1e-3  # type: ignore[union-attr]
    return Counting(teacher)


@pytest.mark.parametrize(
    "changed",
    [
        {"teacher": _other_weights},
        {"transform": lambda: transforms(flip=0.4)},
        {"seed": lambda: 1},
        {"views": lambda: VIEWS + 1},
        {"reads": lambda: Reads(pooled=True)},
        {"reads": lambda: Reads(tap=True, grid=2)},
        {"reads": lambda: Reads(tap=True, levels=tiny_teacher().levels[:1])},
        {"amp": lambda: True},
    ],
    ids=["weights", "transform", "seed", "views", "tap", "grid", "levels", "precision"],
)
def test_whatever_decides_the_features_is_a_miss(
    images: list[Path], tmp_path: Path, changed: dict[str, Callable[[], Any]]
) -> None:
    filled(images, tmp_path / "store")
    settings = {name: make() for name, make in changed.items()}
    assert filled(images, tmp_path / "store", **settings) == ITEMS * settings.get("views", VIEWS)
    assert len(list_stores(tmp_path / "store")) == 2


def test_an_images_bytes_are_a_miss_of_that_image(images: list[Path], tmp_path: Path) -> None:
    filled(images, tmp_path / "store")
    content = bytearray(images[2].read_bytes())
    Image.fromarray(255 - np.asarray(Image.open(images[2]))).save(images[2])
    assert filled(images, tmp_path / "store") == VIEWS
    images[2].write_bytes(content)
    assert filled(images, tmp_path / "store") == 0
    another = images[0].with_name("new.png")
    Image.fromarray(np.zeros((40, 40, 3), dtype=np.uint8)).save(another)
    assert filled([another, *images], tmp_path / "store") == VIEWS


def test_a_file_that_changes_during_the_training_is_found(images: list[Path], tmp_path: Path) -> None:
    taught: Any = feature_dataset(
        Dataset([{"image": str(path)} for path in images], transforms()),
        tiny_teacher(),
        TAP,
        VIEWS,
        directory=tmp_path / "store",
    )
    taught[0]
    Image.fromarray(255 - np.asarray(Image.open(images[0]))).save(images[0])
    with pytest.raises(ValueError, match="its file changed during the training"):
        taught[0]


def test_random_numbers_that_cannot_be_replayed_are_found(images: list[Path], tmp_path: Path) -> None:
    class Noise(MapTransform):
        def __call__(self, data: Any) -> Any:
            return {**data, "image": data["image"] + torch.rand(1) * 0.1}

    chain = transforms(more=[Noise("image")])
    taught: Any = feature_dataset(dataset(images, chain), tiny_teacher(), TAP, VIEWS, directory=tmp_path / "store")
    with pytest.raises(ValueError, match="draws random numbers that MONAI's set_random_state does not reach"):
        list(taught)


def test_a_transform_that_is_seeded_in_its_own_way_is_replayed(images: list[Path], tmp_path: Path) -> None:
    class Noise(RandomizableTransform, MapTransform):
        """Draws by PyTorch, as MONAI's contract allows."""

        def __init__(self) -> None:
            RandomizableTransform.__init__(self)
            MapTransform.__init__(self, "image")
            self.generator = torch.Generator()

        def set_random_state(self, seed: int | None = None, state: Any = None) -> Any:
            self.generator.manual_seed(seed or 0)
            return self

        def __call__(self, data: Any) -> Any:
            return {**data, "image": data["image"] + torch.rand(1, generator=self.generator) * 0.1}

    chain = transforms(more=[Noise()])
    taught: Any = feature_dataset(dataset(images, chain), tiny_teacher(), TAP, VIEWS, directory=tmp_path / "store")
    shown = set()
    for time in range(0, 4 * VIEWS, 2):
        shown |= {float(taught[ItemView(index, time)]["image"].sum()) for index in range(ITEMS)}
    assert len(shown) == ITEMS * VIEWS


# ------------------------------------------------------------------------------------------------- kills and damage


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """An item a shard."""
    monkeypatch.setattr("monai_rd.cache.feature_extraction._SHARD", 1)


@pytest.mark.usefixtures("small_shards")
def test_a_killed_fill_goes_on_where_it_stopped(images: list[Path], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        filled(images, tmp_path / "store", teacher=Counting(kill_after=1 + 2 * VIEWS), batch_size=1)
    assert [info.items for info in list_stores(tmp_path / "store")] == [2]
    assert filled(images, tmp_path / "store") == (ITEMS - 2) * VIEWS
    (info,) = list_stores(tmp_path / "store")
    assert {path.suffix for path in info.folder.iterdir()} == {".json", ".safetensors"}


@pytest.mark.usefixtures("small_shards")
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


@pytest.mark.usefixtures("small_shards")
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


# ------------------------------------------------------------------------------------------------------------ refusals


def test_a_store_that_does_not_fit_is_refused_before_it_is_begun(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monai_rd.cache.feature_extraction.free_space", lambda folder: 1000)
    with pytest.raises(OSError, match=r"11\.5 kB for 5 items in 3 views.*fewer --feature_views"):
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
    store.write("first", {"a": given["a"], "b": given["b"]})
    store.write("second", {"c": given["c"], "a": {"tap": torch.zeros(2, 1, 3), "logits": torch.zeros(2, 2)}})
    store.refresh(check=True)
    assert len(store) == 3
    for key, view in itertools.product("abc", range(2)):
        found = store.read(key, view)
        assert found.keys() == given[key].keys()
        for part in found:
            assert torch.equal(found[part], given[key][part][view])
    with pytest.raises(KeyError):
        store.read("d", 0)


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

"""Teacher features of a data set: what is stored of a view, what is found again, what is missed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import Dataset
from monai.transforms import MapTransform
from PIL import Image

from monai_rd.adapters import CrossFittedTeacher, build_adapter
from monai_rd.cache import feature_dataset
from monai_rd.cache.batches import ItemView
from monai_rd.cache.feature_store import list_stores
from monai_rd.cache.views import PROBE
from monai_rd.networks import FrozenFoundationModel, Reads
from monai_rd.teacher_features import UNSEEN
from monai_rd.teacher_image import TEACHER_IMAGE
from tests.cache.filled_stores import ITEMS, TAP, VIEWS, Counting, dataset, filled, transforms
from tests.methods.steps import tiny_teacher

pytestmark = pytest.mark.usefixtures("few_threads")


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


@pytest.mark.parametrize("probes", ["", "tiny"])
def test_a_teacher_in_folds_answers_in_the_store_as_in_the_loop(
    probes: str, images: list[Path], tmp_path: Path
) -> None:
    """The first three items are of a training list, of which one fold each is; the others have no label."""
    base, reads, fitted = tiny_teacher(), Reads(logits=True), []
    known: dict[str, Any] = {"channels": base.channels, "kind": base.kind, "preprocessing": base.preprocessing}
    for seed in range(3):
        torch.manual_seed(seed)
        head = torch.nn.Linear(base.channels, 2)
        fitted.append(FrozenFoundationModel(base.backbone, **known, name="fitted", head=head, probes=probes))
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
    assert len(list_stores(folder)) == (1 if probes else 2)  # probes share the features of their teacher
    if probes:
        unnumbered = Dataset([{"image": str(images[0])}], transforms())
        with pytest.raises(ValueError, match="give batches their `index`"):
            _ = feature_dataset(unnumbered, made, reads, VIEWS, directory=folder)[0]


@pytest.mark.parametrize(("reads", "asked"), [(Reads(logits=True), {"logits"}), (TAP, {"tap"})])
@pytest.mark.parametrize("pooled", [False, True])
def test_probes_of_a_teacher_share_its_store(
    pooled: bool, reads: Reads, asked: set[str], images: list[Path], tmp_path: Path
) -> None:
    """The second head costs no look of the teacher, nor does the teacher without a head."""
    base, reads, folder = tiny_teacher(), replace(reads, pooled=pooled), tmp_path / "store"
    assert isinstance(base.backbone, torch.nn.Module)
    looks: list[int] = []
    base.backbone.register_forward_hook(lambda _, inputs, __: looks.append(len(inputs[0])))
    for number in range(2):
        torch.manual_seed(number)
        probe = build_adapter("linear_probe", base, num_classes=2).frozen(torch.nn.Linear(base.channels, 2))
        looks.clear()
        taught: Any = feature_dataset(dataset(images), probe, reads, VIEWS, directory=folder)
        assert sum(looks) == (0 if number else ITEMS * VIEWS + 1)  # the first look tells the size
        for place in range(ITEMS):
            item = taught[place]
            wanted = probe.rows(item["image"].as_tensor()[None], reads)
            assert item["teacher_features"].keys() == wanted.keys() == asked | ({"pooled"} if pooled else set())
            for name, part in wanted.items():
                torch.testing.assert_close(item["teacher_features"][name].float(), part[0], atol=2e-3, rtol=2e-3)
    alone = replace(reads, logits=False, pooled=pooled or reads.logits)
    looks.clear()
    feature_dataset(dataset(images), base, alone, VIEWS, directory=folder)
    assert not looks
    (info,) = list_stores(folder)
    assert (info.items, info.notes) == (ITEMS, {"teacher": "tiny"})


def test_features_of_another_backbone_are_stored_apart(images: list[Path], tmp_path: Path) -> None:
    """A teacher of which more than the head was fitted keeps its logits in the store."""
    base, folder = tiny_teacher(), tmp_path / "store"
    taught: Any = feature_dataset(
        dataset(images),
        build_adapter("full", base, num_classes=2).frozen(),
        Reads(logits=True),
        VIEWS,
        directory=folder,
    )
    assert taught.store.read(taught.keys[0], 0).keys() == {"logits", PROBE}
    assert [info.notes for info in list_stores(folder)] == [{"teacher": "tiny+full"}]


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
        {"amp": lambda: True},
    ],
    ids=["weights", "transform", "seed", "views", "precision"],
)
def test_whatever_decides_the_features_is_a_miss(
    images: list[Path], tmp_path: Path, changed: dict[str, Callable[[], Any]]
) -> None:
    filled(images, tmp_path / "store")
    settings = {name: make() for name, make in changed.items()}
    assert filled(images, tmp_path / "store", **settings) == ITEMS * settings.get("views", VIEWS)
    assert len(list_stores(tmp_path / "store")) == 2


@pytest.mark.parametrize(
    "reads",
    [Reads(tap=True, grid=2), Reads(tap=True, levels=tiny_teacher().levels[:1]), Reads(levels=tiny_teacher().levels)],
    ids=["grid", "level beside it", "levels"],
)
def test_another_feature_is_a_miss_in_the_same_store(reads: Reads, images: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "store"
    filled(images, folder)
    assert filled(images, folder, reads=reads) == ITEMS * VIEWS
    assert [(info.items, info.views) for info in list_stores(folder)] == [(ITEMS, VIEWS)]
    for wanted in (TAP, reads):
        assert filled(images, folder, reads=wanted) == 0
        taught: Any = feature_dataset(dataset(images), tiny_teacher(), wanted, VIEWS, directory=folder)
        item = taught[0]
        parts = tiny_teacher().rows(item["image"].as_tensor()[None], wanted)
        assert item["teacher_features"].keys() == parts.keys()
        for name, part in parts.items():
            torch.testing.assert_close(item["teacher_features"][name].float(), part[0], atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("reads", [TAP, Reads(tap=True, grid=2), Reads(tap=True, levels=tiny_teacher().levels)])
def test_with_a_map_its_mean_is_stored(reads: Reads, images: list[Path], tmp_path: Path) -> None:
    """A linear probe after RD needs no pass of the teacher; RD after a linear probe does."""
    folder, pooled = tmp_path / "store", Reads(pooled=True)
    assert filled(images, folder, reads=reads) == ITEMS * VIEWS
    assert filled(images, folder, reads=pooled) == 0
    taught: Any = feature_dataset(dataset(images), tiny_teacher(), pooled, VIEWS, directory=folder)
    for item in (taught[index] for index in range(ITEMS)):
        wanted = tiny_teacher().rows(item["image"].as_tensor()[None], pooled)["pooled"][0]
        assert item["teacher_features"].keys() == {"pooled"}
        torch.testing.assert_close(item["teacher_features"]["pooled"].float(), wanted, atol=2e-3, rtol=2e-3)
    other = tmp_path / "other"
    assert [filled(images, other, reads=one) for one in (pooled, reads, pooled)] == [ITEMS * VIEWS] * 2 + [0]


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

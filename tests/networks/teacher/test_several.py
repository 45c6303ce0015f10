"""Several teachers as one: standardised, on one grid, side by side; fitted once, kept, stored, probed, refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import Dataset
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.adapters import build_adapter, load_adapted, save_adapted, standardise
from monai_rd.cache import TrainingItems, feature_dataset
from monai_rd.cache.batches import ItemView
from monai_rd.cache.feature_store import list_stores
from monai_rd.methods import METHODS, build_method
from monai_rd.networks import FrozenFoundationModel, Preprocessing, Reads, VolumePreprocessing, load_teacher
from monai_rd.networks.teacher.several import SeveralTeachers, join_teachers
from monai_rd.networks.teacher.zoo.loading import in_order, teacher_names
from tests.cache.filled_stores import dataset, transforms
from tests.methods.steps import small_student, step, tiny_teacher
from tests.networks.teacher.test_blackbox import classifier, export, tiny_tflite

LABELS = [0, 1] * 4


def teacher(
    channels: int = 5, kind: str = "map", dims: int = 2, side: int = 24, scale: float = 1.0
) -> FrozenFoundationModel:
    """Maps of a quarter of `side`, or vectors, with values of the order of `scale`."""
    with torch.random.fork_rng():
        torch.manual_seed(channels)
        network: list[nn.Module] = [nn.Conv2d(3, channels, 4, 4) if dims == 2 else nn.Conv3d(1, channels, 4, 4)]
    with torch.no_grad():
        for parameter in network[0].parameters():
            parameter.mul_(scale)
    if kind == "vector":
        network += [nn.AdaptiveAvgPool2d(1) if dims == 2 else nn.AdaptiveAvgPool3d(1), nn.Flatten()]
    plain: Any = Preprocessing(side, (0.5,) * 3, (0.25,) * 3) if dims == 2 else VolumePreprocessing(side)
    return FrozenFoundationModel(
        nn.Sequential(*network), channels=channels, kind=kind, preprocessing=plain, name=f"{kind}{channels}"
    )


def counted(teachers: Sequence[FrozenFoundationModel], images: Tensor) -> FrozenFoundationModel:
    joined = join_teachers(teachers)
    assert isinstance(joined.backbone, SeveralTeachers)
    for part in images.split(3):
        joined.backbone.update(part)
    return joined


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / "images" / f"{n}.png" for n in range(5)]
    paths[0].parent.mkdir()
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    return paths


# ----------------------------------------------------------------------------------------------------- what they give


def alone(features: Tensor, dims: int) -> Tensor:
    """The features of the only window of a volume."""
    return features[:, 0] if dims == 3 else features


@pytest.mark.parametrize("dims", [2, 3])
def test_each_channel_is_standardised_and_all_lie_on_the_finest_grid(dims: int) -> None:
    image = torch.rand(8, *((3, 24, 24) if dims == 2 else (1, 24, 24, 24)))
    coarse, fine, vector = teacher(4, dims=dims, side=16, scale=1e3), teacher(5, dims=dims), teacher(6, "vector", dims)
    joined = counted([coarse, fine, vector], image)
    found = alone(joined(image), dims)
    assert (joined.kind, joined.channels, joined.name) == ("map", 15, "map4,map5,vector6")
    assert (joined.parts, vector.parts) == ((4, 5, 6), (6,))
    assert found.shape == (8, 15, *(6,) * dims)
    expected, over = [], [0, *range(2, 2 + dims)]
    for one in (coarse, fine, vector):
        maps = alone(one(image), dims)
        maps = maps if one.kind == "map" else maps[(...,) + (None,) * dims].expand(-1, -1, *(2,) * dims)
        centred = maps - maps.mean(over, keepdim=True)
        pool = F.adaptive_avg_pool2d if dims == 2 else F.adaptive_avg_pool3d
        expected.append(pool(centred / centred.square().mean(over, keepdim=True).sqrt(), (6,) * dims))
    torch.testing.assert_close(found, torch.cat(expected, dim=1), atol=1e-4, rtol=1e-3)
    read = joined.read(image, Reads(tap=True, grid=3, pooled=True))
    assert alone(read.tap, dims).shape == (8, 15, *(3,) * dims)
    torch.testing.assert_close(read.pooled, found.flatten(2).mean(2))


def test_vectors_alone_are_a_vector_and_bags_are_their_slices() -> None:
    bags = torch.rand(2, 4, 3, 24, 24)
    vectors = counted([teacher(5, "vector"), teacher(6, "vector")], bags.flatten(0, 1))
    assert (vectors.kind, vectors(bags).shape) == ("vector", (2, 4, 11))
    both = counted([teacher(5), teacher(6, "vector")], bags.flatten(0, 1))
    torch.testing.assert_close(both(bags).flatten(0, 1), both(bags.flatten(0, 1)))


def test_black_boxes_beside_networks(tmp_path: Path) -> None:
    onnx = export(classifier(), torch.rand(2, 3, 32, 32), tmp_path / "n.onnx", dynamic=True)
    tiny_tflite(tmp_path / "n.tflite")
    names = f"phantom_ct,{onnx}, {tmp_path / 'n.tflite'}"
    options = [{}, {"channel_order": "BGR"}, {"mean": 0.5, "std": 0.5}]
    joined, image = load_teacher(names, options=options), torch.rand(3, 3, 64, 64)
    assert isinstance(joined.backbone, SeveralTeachers)
    joined.backbone.update(image)
    assert joined.name == "phantom_ct,n.onnx,n.tflite"
    assert [one.preprocessing.channel_order for one in joined.backbone.teachers] == ["RGB", "BGR", "RGB"]
    assert joined(image).shape == (3, 256 + 16 + 4, 8, 8)
    others = load_teacher(names)
    assert isinstance(others.backbone, SeveralTeachers)
    others.backbone.scales.load_state_dict(joined.backbone.scales.state_dict())
    assert others.fingerprint() != joined.fingerprint()


def test_the_fingerprint_is_of_all_teachers_and_their_scale() -> None:
    image, made = torch.rand(4, 3, 24, 24), [teacher(4), teacher(5)]
    prints = [counted(made, image).fingerprint() for _ in range(2)]
    assert prints[0] == prints[1]
    others = (
        counted(made, image[:3]),
        counted(made[::-1], image),
        counted([made[0], teacher(6)], image),
        join_teachers(made),
    )
    assert len({prints[0], *(one.fingerprint() for one in others)}) == 5
    assert join_teachers(made).state_dict() == {}


def test_they_rest_like_one(tmp_path: Path) -> None:
    image = torch.rand(2, 3, 24, 24)
    joined = counted([teacher(4), teacher(5)], image)
    before, print_before = joined(image), joined.fingerprint()
    joined.offload(tmp_path)
    assert torch.equal(joined(image), before)
    assert joined.fingerprint() == print_before


# ------------------------------------------------------------------------------------------------- the scale is kept


def test_the_scale_is_taken_once_and_found_again(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fitted(out: str, teachers: Sequence[FrozenFoundationModel] | None = None, some: Any = None) -> str:
        joined = join_teachers(teachers or [tiny_teacher(), teacher(4)])
        state = torch.get_rng_state()
        standardise(joined, some or dataset(images), tmp_path / out, "cpu", tmp_path / "shared")
        assert torch.equal(torch.get_rng_state(), state)
        assert joined(torch.zeros(1, 3, 32, 32)).isfinite().all()
        return joined.fingerprint()

    counts = []
    plain = SeveralTeachers.update
    monkeypatch.setattr(SeveralTeachers, "update", lambda self, image: (counts.append(1), plain(self, image))[0])
    first = fitted("a")
    assert len(counts) == 5
    assert fitted("a") == fitted("b") == first  # here, and by way of `shared`
    assert len(counts) == 5
    (tmp_path / "a" / "teacher_statistics.safetensors").unlink()  # the name of a file that has others
    (tmp_path / "a" / "teacher_statistics.safetensors").write_bytes(b"damaged")
    assert fitted("a") == first
    assert len(counts) == 5
    assert fitted("a", [tiny_teacher(), teacher(6)]) != first
    assert fitted("a", some=dataset(images[:4])) != first
    assert len(counts) == 14


def test_the_scale_is_that_of_the_images_whichever_have_a_label(images: list[Path], tmp_path: Path) -> None:
    """So the trainings of a benchmark, each with other labels, share a feature store."""
    lists = ((images[:2], images[2:]), (images[:1:-1], images[1::-1]), (images, None))
    folder, prints = tmp_path / "store", []
    for number, (labelled, others) in enumerate(lists):
        joined = join_teachers([tiny_teacher(), teacher(4)])
        chain = transforms()
        items = TrainingItems(dataset(labelled, chain), others and dataset(others, chain))
        standardise(joined, items, tmp_path / str(number), "cpu")
        feature_dataset(items, joined, Reads(pooled=True), 2, directory=folder)
        prints.append(joined.fingerprint())
    assert len(set(prints)) == 1
    assert [info.items for info in list_stores(folder)] == [len(images)]


def test_one_teacher_is_left_alone_and_several_are_not_used_without(images: list[Path], tmp_path: Path) -> None:
    standardise(tiny_teacher(), dataset(images), tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()
    with pytest.raises(RuntimeError, match=r"brought to one scale .* monai_rd\.adapters\.standardise"):
        join_teachers([teacher(4), teacher(5)])(torch.rand(1, 3, 24, 24))
    with pytest.raises(ValueError, match="no training item"):
        standardise(join_teachers([teacher(4), teacher(5)]), Dataset([]), tmp_path, "cpu")


def test_the_store_holds_what_they_give(images: list[Path], tmp_path: Path) -> None:
    joined = join_teachers([tiny_teacher(), teacher(4), teacher(6, "vector")])
    data, reads = dataset(images), Reads(tap=True, grid=4, pooled=True)
    standardise(joined, data, tmp_path / "out", "cpu")
    taught = feature_dataset(data, joined, reads, 2, directory=tmp_path / "store")
    for index in range(5):
        item: Any = taught[ItemView(index, 0)]  # type: ignore[call-overload]
        wanted = joined.rows(item["image"].as_tensor()[None], reads)
        assert wanted["tap"].shape == (1, 1, 18, 4, 4)  # a bag of one slice
        for part, one in wanted.items():
            torch.testing.assert_close(item["teacher_features"][part].float(), one[0], atol=4e-3, rtol=4e-3)


# --------------------------------------------------------------------------------------------- methods and adapters


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"ce"}))
def test_methods_learn_from_several_or_refuse_them(name: str) -> None:
    torch.manual_seed(0)
    image, target = torch.rand(8, 3, 32, 32), torch.arange(8) % 2
    joined: FrozenFoundationModel = counted([tiny_teacher(), teacher(4)], image)
    single = tiny_teacher()
    if METHODS[name].needs_logits:
        joined, single = (build_adapter("linear_probe", one, 2).frozen() for one in (joined, single))
    student = small_student("small")
    if build_method(name, student, single, LABELS, batch_size=8, unlabelled=4).reads.levels:
        with pytest.raises(ValueError, match="several teachers at once have none"):
            build_method(name, student, joined, LABELS, unlabelled=4)
        return
    method = build_method(name, student, joined, LABELS, unlabelled=4)
    terms = step(method, method.prepare(student), joined, image, target, torch.arange(8))
    assert all(term.isfinite() for term in terms.values())


def test_a_probe_of_several(tmp_path: Path) -> None:
    image = torch.rand(8, 3, 32, 32)
    joined = counted([tiny_teacher(), teacher(4, scale=1e3)], image)
    network = build_adapter("linear_probe", joined, 2)
    assert network.adapter_state() == {}
    network.train()
    network(image)  # its normalisation
    network.eval()
    tuned = network.frozen()
    torch.testing.assert_close(tuned.read(image, Reads(logits=True)).logits, network(image))
    save_adapted(tmp_path / "probe.safetensors", network, joined)
    again = load_adapted(tmp_path / "probe.safetensors", joined)
    assert again.fingerprint() == tuned.fingerprint()
    assert again.name == "tiny,map4+linear_probe"
    with pytest.raises(ValueError, match=r"other weights or preprocessing"):
        load_adapted(tmp_path / "probe.safetensors", counted([tiny_teacher(), teacher(4)], image))
    for adapter in ("full", "lora"):
        with pytest.raises(ValueError, match=rf"adapter '{adapter}' changes one teacher, not several \(tiny,map4\)"):
            build_adapter(adapter, joined, 2)


# --------------------------------------------------------------------------------------------------- how they are named


def test_names_files_and_options_stand_in_one_order(tmp_path: Path) -> None:
    assert teacher_names("a,b, timm:c") == ["a", "b", "timm:c"]
    odd = tmp_path / "a,b.onnx"
    odd.touch()
    assert teacher_names(str(odd)) == [str(odd)]
    made = in_order(["a", "b", "c"], "x.pth,, y.pth", [{}, {"size": 3}, {}])
    assert made == [("a", "x.pth", {}), ("b", None, {"size": 3}), ("c", "y.pth", {})]
    with pytest.raises(ValueError, match="teacher_checkpoint names 2 files for 3 teachers"):
        in_order(["a", "b", "c"], "x.pth,y.pth", None)
    for options in ({"size": 3}, [{}]):
        with pytest.raises(ValueError, match="teacher_options for 2 teachers are a list of as many tables"):
            in_order(["a", "b"], None, options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown teacher ''"):
        load_teacher("phantom_ct,")
    with pytest.raises(ValueError, match="unknown teacher 'phantom_cd'"):
        load_teacher("phantom_ct,phantom_cd")


def test_images_and_volumes_do_not_mix() -> None:
    with pytest.raises(ValueError, match="all read images or all read volumes: map5 reads volumes, map4 images"):
        join_teachers([teacher(4), teacher(5, dims=3)])

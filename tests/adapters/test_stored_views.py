"""Linear probes that are fitted to stored features."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, Randomizable
from PIL import Image

from monai_rd.adapters import tuned_teacher
from monai_rd.cache import SkippingCacheDataset, feature_dataset
from monai_rd.cache.feature_store import list_stores
from monai_rd.cache.orders import BalancedSampler, labels_of
from monai_rd.handlers import key_metric
from monai_rd.losses import ClassificationLoss
from monai_rd.networks import FrozenFoundationModel, Reads
from monai_rd.transforms import bag_collate
from tests.adapters.tiny import teacher
from tests.cache.filled_stores import dataset, transforms
from tests.processes import in_two_processes

ITEMS, VIEWS = 12, 3


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Red and blue by turns."""
    (tmp_path / "images").mkdir()
    paths = [tmp_path / "images" / f"{number}.png" for number in range(ITEMS)]
    for number, path in enumerate(paths):
        Image.new("RGB", (32, 32), ((200, 30, 10 + number), (10 + number, 30, 200))[number % 2]).save(path)
    return paths


def fitted(
    base: FrozenFoundationModel,
    images: list[Path],
    folder: Path,
    views: int = VIEWS,
    adapter: str = "linear_probe",
    balanced: bool = False,
    multi_label: bool = False,
    **changed: Any,
) -> FrozenFoundationModel:
    items = [
        {"image": str(path), "label": [float(place % 2), 1.0] if multi_label else place % 2, "index": place}
        for place, path in enumerate(images)
    ]
    steady = Compose([one for one in transforms().transforms if not isinstance(one, Randomizable)])
    data, plain = SkippingCacheDataset(items, transforms()), SkippingCacheDataset(items, steady)
    order: dict[str, Any] = {"sampler": BalancedSampler(labels_of(items), 0)} if balanced else {"shuffle": True}
    settings: dict[str, Any] = {
        "num_classes": 2,
        "key_metric": key_metric(multi_label, torch.device("cpu")),
        "output_dir": folder,
        "max_epochs": 6,
        "device": "cpu",
        "criterion": ClassificationLoss(multi_label),
        "learning_rate": 0.05,
        "store": partial(feature_dataset, views=views, directory=folder / "store"),
        **changed,
    }
    train_loader = DataLoader(data, batch_size=4, drop_last=True, collate_fn=bag_collate, **order)
    val_loader = DataLoader(plain, batch_size=4, collate_fn=bag_collate)
    made = tuned_teacher(base, adapter, train_loader, val_loader, **settings)
    assert made is not None
    return made


def counted(base: FrozenFoundationModel) -> list[int]:
    """The number of images of each look of the teacher."""
    looks: list[int] = []
    assert isinstance(base.backbone, torch.nn.Module)
    base.backbone.register_forward_hook(lambda _, inputs, __: looks.append(len(inputs[0])))
    return looks


@pytest.mark.parametrize("changed", [{}, {"balanced": True}, {"multi_label": True}], ids=["", "balanced", "labels"])
def test_the_teacher_looks_at_each_stored_view_once(
    changed: dict[str, Any], images: list[Path], tmp_path: Path
) -> None:
    base = teacher("plain")
    looks = counted(base)
    made = fitted(base, images, tmp_path, **changed)
    assert sum(looks) == 1 + ITEMS * VIEWS + ITEMS  # the first tells the size, the last are the validation images
    looks.clear()
    shown: Any = feature_dataset(dataset(images), made, Reads(logits=True), VIEWS, directory=tmp_path / "store")
    assert not looks
    logits = torch.stack([shown[place]["teacher_features"]["logits"] for place in range(ITEMS)]).float()
    truth = torch.arange(ITEMS) % 2
    found = logits[:, 0] > 0 if changed.get("multi_label") else logits.argmax(dim=1)
    assert torch.equal(found.long(), truth)
    assert [(info.items, info.views) for info in list_stores(tmp_path / "store")] == [(ITEMS, VIEWS)]


def test_in_folds_too(images: list[Path], tmp_path: Path) -> None:
    base = teacher("plain")
    looks = counted(base)
    fitted(base, images, tmp_path, folds=[number // 2 % 2 for number in range(ITEMS)])
    assert sum(looks) == 1 + ITEMS * VIEWS + 2 * ITEMS


def test_a_probe_of_other_views_is_fitted_anew(
    images: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def anew(**changed: Any) -> bool:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            fitted(teacher("plain"), images, tmp_path, **changed)
        return "was tuned before" not in caplog.text

    assert [anew(), anew(), anew(views=2), anew(views=0), anew(views=0)] == [True, False, True, True, False]


def test_without_views_it_looks_at_new_ones_in_each_epoch(images: list[Path], tmp_path: Path) -> None:
    base = teacher("plain")
    looks = counted(base)
    fitted(base, images, tmp_path, views=0)
    assert sum(looks) == 6 * ITEMS + ITEMS


def test_an_adapter_that_changes_features_is_shown_images(images: list[Path], tmp_path: Path) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError

    fitted(teacher("plain"), images, tmp_path, adapter="vpt_deep", store=never)


def _rank(rank: int, folder: Path, images: list[Path]) -> None:
    torch.set_num_threads(1)
    base = teacher("plain")
    looks = counted(base)
    made = fitted(base, images, folder)
    (folder / f"{rank}.txt").write_text(f"{sum(looks)} {made.fingerprint()}")


@pytest.mark.slow
def test_two_processes_share_the_views(images: list[Path], tmp_path: Path) -> None:
    in_two_processes(_rank, tmp_path, images)
    looks, prints = zip(*((tmp_path / f"{rank}.txt").read_text().split() for rank in range(2)), strict=True)
    assert len(set(prints)) == 1
    # Both look at the validation images; a process that finds all views there needs no look that tells the size.
    validated = 2 * ITEMS
    assert validated + 1 + ITEMS * VIEWS <= sum(map(int, looks)) < validated + 2 + 2 * ITEMS * VIEWS

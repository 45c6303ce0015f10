"""A training that has ended, without the training: what a card is written from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from PIL import Image

from monai_rd.card import ModelCard
from monai_rd.datasets import DataList
from monai_rd.datasets.studies import item_of_image
from monai_rd.inference import TrainedBundle
from monai_rd.licences import Origin
from monai_rd.report import FinalReport
from tests.trained import VOLUMES, trained_bundle

TEACHER = Origin("teacher weights", "phantom_ct", "Apache-2.0", "here", "the zoo")
DATA = Origin("training images and labels", "the user's own", source="the user")


def ended(
    to: Path,
    class_names: tuple[str, ...] = ("clear", "opacity"),
    multi_label: bool = False,
    origins: tuple[Origin, ...] = (TEACHER, DATA),
    operating_point: str | None = None,
    conformal_groups: str | None = None,
    per_class: int = 24,
    volumes: bool = False,
    **groups: tuple[str, ...],
) -> ModelCard:
    """Make the results of a student with random weights on random images, and the card to be written of them.

    Args:
        to: a folder, which gets the bundle and, in `dataset`, the images.
        class_names: of the student.
        multi_label: an image may have several; the first class is that of every second image, and so on.
        origins: of the student.
        operating_point: which is asked for.
        conformal_groups: the same.
        per_class: items of each class in each split.
        volumes: the student takes volumes.
        groups: such as `site=("A", "B")`, which take turns over the items.
    """
    more: dict[str, Any] = VOLUMES if volumes else {}
    root = trained_bundle(to, class_names=list(class_names), multi_label=multi_label, **more)
    trained = TrainedBundle(root, device="cpu")
    settings = json.loads((root / "models" / "settings.json").read_text())
    random, splits = np.random.default_rng(0), {}
    for split in ("training", "validation", "test"):
        items = []
        for number in range(per_class * len(class_names)):
            path = to / "dataset" / f"{split}_{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
            label: Any = number % len(class_names)
            if multi_label:
                label = [float(number % (index + 2) == 0) for index in range(len(class_names))]
            own = {kind: values[number // len(class_names) % len(values)] for kind, values in groups.items()}
            items.append({**item_of_image(path), "label": label, "patient": f"{split}{number}", **own})
        splits[split] = items
    data = DataList(tuple(class_names), **splits, multi_label=multi_label)

    def loaded(split: str) -> Dataset:
        shape = (1, 32, 32, 32) if volumes else (3, 32, 32)
        images = torch.rand(len(splits[split]), *shape, generator=torch.Generator().manual_seed(len(split)))
        rows = zip(images, splits[split], strict=True)
        return Dataset([{**one, "image": image, "label": torch.tensor(one["label"])} for image, one in rows])

    settings |= {"phantom": False, "adapter": None, "seed": 0, "method": "rd", "teacher": "t", "learning_rate": 0.001}
    FinalReport(
        root / "models" / "model.pt",
        root / "eval",
        trained.network,
        DataLoader(loaded("test"), batch_size=16),
        class_names,
        "cpu",
        settings=settings,
        multi_label=multi_label,
        page=False,
        validation=loaded("validation"),
        operating_point=operating_point,
        conformal_groups=conformal_groups,
    ).run()
    row = {"epoch": 1, "seconds": 1.5, "best": True, "terms": {}, "weights": {}, "validation": {}}
    (root / "eval" / "history.json").write_text(json.dumps([row]))
    return ModelCard(
        bundle="rd_ct",
        bundle_root=str(root),
        output_dir=str(root / "eval"),
        data=data,
        settings=settings,
        origins=origins,
        device="cpu",
        amp=False,
        cache_dir=str(to / "cache"),
    )

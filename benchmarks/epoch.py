"""An epoch of RD with the store, against an epoch of cross entropy alone as MONAI's Model Zoo trains classifiers.

    python benchmarks/epoch.py                           # the CT phantoms: DICOM series
    python benchmarks/epoch.py --dataset COVID-CT --students resnet18,mobilenet_v2,shufflenet_v2_x1_0

The same student, images, batch and random transforms. On one side the trainer of `rd_ct`'s own train.json with
`--feature_views`; the store is filled before anything is timed. On the other a trainer as the Zoo's classification
bundles write it: MONAI's LoadImaged, EnsureChannelFirstd and so on, its DataLoader, Adam, SupervisedTrainer and
Accuracy, all at their defaults, once loading each image in every epoch, as they do, and once from a CacheDataset.
Epochs take turns; validation, checkpoints and logs are left out on both sides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.metrics import Accuracy
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import from_engine
from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    Lambdad,
    LoadImaged,
    RandAffined,
    RandFlipd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    Resized,
    ScaleIntensityRanged,
)
from parts import random_teacher
from rich.console import Console
from rich.table import Table
from timing import arguments, in_turn, machine, middle, ratios

from monai_rd.bundle import bundle_root
from monai_rd.memory import keep_freed_memory
from monai_rd.networks import Student

KEPT = ("EpochSeedHandler", "CoTrainingHandler", "LrScheduleHandler", "CPUAutocast")


def ours(student: str, words: dict[str, Any], teacher: Any, epochs: int = 1) -> SupervisedTrainer:
    """The trainer of the bundle, without the handlers that write; with a store its first epoch brings features."""
    content = ConfigParser.load_config_file(f"{bundle_root('rd_ct')}/configs/train.json")
    handlers = content["train"]["handlers"]
    content["train"]["handlers"] = [one for one in handlers if one["_target_"].rpartition(".")[2] in KEPT]
    parser = ConfigParser({**content, **words, "student": student, "max_epochs": epochs, "adapter": None})
    parser["teacher_def"] = teacher
    trainer: SupervisedTrainer = parser.get_parsed_content("train#trainer")
    return trainer


def zoo(student: str, trainer: SupervisedTrainer, batch_size: int, slices: int, size: int, cached: bool) -> Any:
    """A trainer of the Zoo's kind on the same items."""
    images = [one["image"] for one in trainer.data_loader.dataset.data]
    series = not isinstance(images[0], str)  # the files of a series, which MONAI's reader wants by their folder
    labels = [one["label"] for one in trainer.data_loader.dataset.data]
    items = [
        {"image": str(Path(image[0]).parent) if series else image, "label": label}
        for image, label in zip(images, labels, strict=True)
    ]
    values = (-1350, 150) if series else (0, 255)  # the lung window, or an 8-bit image
    steps: list[Any] = [
        LoadImaged("image"),
        EnsureChannelFirstd("image"),
        Lambdad("image", lambda image: as_slices(image, slices)),
        ScaleIntensityRanged("image", *values, 0, 1, clip=True),
        Resized("image", spatial_size=(size, size), mode="bilinear"),
        RandFlipd("image", prob=0.5, spatial_axis=1),
        RandAffined("image", prob=0.5, rotate_range=0.15, scale_range=0.1, mode="bilinear", padding_mode="border"),
        RandScaleIntensityd("image", factors=0.1, prob=0.5),
        RandShiftIntensityd("image", offsets=0.03, prob=0.5),
        Lambdad("image", lambda image: image[:, None].expand(-1, 3, -1, -1)),
        EnsureTyped("image"),
    ]
    data = CacheDataset(items, Compose(steps), progress=False) if cached else Dataset(items, Compose(steps))
    network = Student(student, 2).to(trainer.state.device)
    return SupervisedTrainer(
        device=trainer.state.device,
        max_epochs=1,
        train_data_loader=DataLoader(data, batch_size=batch_size, shuffle=True, drop_last=True, num_workers=4),
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=0.001),
        loss_function=torch.nn.CrossEntropyLoss(),
        postprocessing=Compose([AsDiscreted(("pred", "label"), argmax=(True, False), to_onehot=(2, 2))]),
        key_train_metric={"accuracy": Accuracy(output_transform=from_engine(["pred", "label"]))},
        amp=torch.device(trainer.state.device).type == "cuda",
    )


def as_slices(image: Any, slices: int) -> Any:
    """A picture in grey, or some slices of a volume as channels."""
    if image.ndim == 3:
        return image[:3].mean(dim=0, keepdim=True)
    depth = image.shape[-1]
    return image[0].permute(2, 0, 1)[[int((k + 0.5) * depth / slices) for k in range(slices)]]


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__, rounds=5, size=0)  # 0: the bundle's own
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--dataset", help="a data set of rd_ct; the phantoms by default")
    parser.add_argument("--students", default="resnet18")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--batch", type=int, default=0, help="0: the bundle's own")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    table = Table(
        "student", "RD, store: s an epoch", "CE, Zoo: s", "CE, Zoo, cached: s", "RD / Zoo", "RD / Zoo, cached"
    )
    with tempfile.TemporaryDirectory() as folder:
        words: dict[str, Any] = {"output_dir": folder, "feature_views": options.views, "device": str(options.device)}
        words |= {"dataset_dir": options.dataset} if options.dataset else {}
        words |= {"image_size": options.size} if options.size else {}
        words |= {"batch_size": options.batch} if options.batch else {}
        teacher = random_teacher(options.teacher, 224)
        for student in options.students.split(","):
            rd = ours(student, words, teacher)
            image = rd.data_loader.dataset[0]["image"]  # [S, 3, H, W]
            batch = rd.data_loader.batch_size
            turns: dict[str, Callable[[], object]] = {"RD": rd.run}
            for name, cached in (("Zoo", False), ("cached", True)):
                turns[name] = zoo(student, rd, batch, len(image), image.shape[-1], cached).run
            times = in_turn(turns, options.rounds, options.device)
            against = [ratios(times["RD"], times[name]) for name in ("Zoo", "cached")]
            table.add_row(student, *(middle(times[name]) for name in turns), *(middle(one) for one in against))
            what = f"{len(rd.data_loader.dataset)} items of {list(image.shape)}, batch {batch}"
    table.caption = f"{what}, {options.rounds} rounds; {machine(options.device, options.threads)}"
    Console(width=150).print(table)


if __name__ == "__main__":
    main()

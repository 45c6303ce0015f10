"""A training of a few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from monai.transforms import RandGaussianNoised
from torch import Tensor, nn

from monai_rd.handlers import CoTrainingHandler, EpochSeedHandler, RunCheckpoint, TeacherPathWatch
from monai_rd.methods import build_method, trainable_parameters
from monai_rd.networks import FrozenFoundationModel, Preprocessing


class TinyStudent(nn.Module):
    """A student in ten lines, with everything the contract names."""

    def __init__(self, feature_dim: int = 6, num_classes: int = 2) -> None:
        super().__init__()
        self.feature_dim, self.spatial_dims = feature_dim, 2
        self.backbone = nn.Sequential(nn.Conv2d(3, feature_dim, 3, 2), nn.BatchNorm2d(feature_dim), nn.ReLU())
        self.classifier = nn.Linear(feature_dim, num_classes)
        self.register_buffer("temperature", torch.ones(()))

    def features(self, image: Tensor) -> Tensor:
        return self.slice_features(image).mean(dim=1)

    def slice_features(self, image: Tensor) -> Tensor:
        return self.backbone(image).mean(dim=(2, 3))[:, None]

    def logits(self, features: Tensor) -> Tensor:
        return self.classifier(features) / self.temperature

    def forward(self, image: Tensor) -> Tensor:
        return self.logits(self.features(image))


def tiny_teacher(channels: int = 5) -> FrozenFoundationModel:
    with torch.random.fork_rng():
        torch.manual_seed(99)
        backbone = nn.Sequential(nn.Conv2d(3, channels, 4, 4), nn.BatchNorm2d(channels), nn.Dropout(0.5))
    plain = Preprocessing(None, (0.0,) * 3, (1.0,) * 3)
    return FrozenFoundationModel(backbone, channels=channels, kind="map", preprocessing=plain, name="tiny")


class TinyRun:
    """A whole training on 16 random images: the parts of a bundle's train.json without its data and size.

    With `method` other than RD, and another student by `student`, which makes it.
    """

    def __init__(
        self,
        folder: Path,
        max_epochs: int = 4,
        resume: bool = False,
        num_workers: int = 0,
        selection: Literal["best", "last"] = "best",
        method: str = "rd",
        student: Callable[[], nn.Module] | None = None,
        device: str = "cpu",
        **options: Any,
    ) -> None:
        torch.manual_seed(0)
        images, labels = torch.rand(16, 3, 16, 16), torch.arange(16) % 2
        images[labels == 1, 0] += 0.3
        items = [{"image": images[i], "label": int(labels[i]), "index": i} for i in range(len(images))]
        data = CacheDataset(items, RandGaussianNoised("image", prob=0.7, std=0.1), progress=False)
        self.loader = DataLoader(data, batch_size=8, shuffle=True, drop_last=True, num_workers=num_workers)
        plain: Any = (student or TinyStudent)()
        self.teacher = tiny_teacher().to(device)
        options = {"width": 8, "blocks": 1, **options} if method == "rd" else options
        self.method = build_method(method, plain, self.teacher, labels, options).to(device)
        self.network = self.method.prepare(plain).to(device)
        self.optimizer = torch.optim.AdamW(trainable_parameters(self.network, self.method), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, max_epochs)
        self.evaluator = SupervisedEvaluator(
            device=device,
            val_data_loader=DataLoader(CacheDataset(items, progress=False), batch_size=8),
            network=self.network,
            key_val_metric={"accuracy": _accuracy()},
            decollate=False,
        )
        self.checkpoint = RunCheckpoint(
            folder / "models" / "model.pt",
            folder / "eval",
            self.network,
            self.method,
            {"optimizer": self.optimizer, "lr_scheduler": self.scheduler},
            self.evaluator,
            {"max_epochs": max_epochs, "class_names": ["a", "b"]},
            resume,
            selection,
        )
        self.trainer = SupervisedTrainer(
            device=device,
            non_blocking=True,
            max_epochs=max_epochs,
            train_data_loader=self.loader,
            network=self.network,
            optimizer=self.optimizer,
            loss_function=nn.CrossEntropyLoss(),
            decollate=False,
            train_handlers=[
                EpochSeedHandler(0, self.loader),
                CoTrainingHandler(self.network, self.method, self.teacher),
                LrScheduleHandler(self.scheduler, print_lr=False),
                ValidationHandler(1, self.evaluator),
                TeacherPathWatch(self.network, self.method, self.teacher, self.evaluator),
                self.checkpoint,
            ],
        )


def _accuracy() -> Any:
    from ignite.metrics import Accuracy

    return Accuracy(output_transform=lambda output: (output["pred"], output["label"]))

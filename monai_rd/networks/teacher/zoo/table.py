"""The output of `monai-rd teachers`: the zoo as a table, and the check of a file with weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor, nn

from monai_rd.finite import NotFiniteError
from monai_rd.networks.teacher.foundation import FrozenFoundationModel
from monai_rd.networks.teacher.zoo.entries import TEACHERS
from monai_rd.networks.teacher.zoo.entry import TeacherEntry
from monai_rd.networks.teacher.zoo.loading import is_black_box, is_shipped, load_teacher, open_teacher
from monai_rd.networks.teacher.zoo.recommend import Recommendation

__all__ = [
    "FileCheck",
    "check_file",
    "files_by_hand",
    "looks_untrained",
    "recommendation_table",
    "teachers_table",
]


def _file(entry: TeacherEntry) -> str:
    if is_shipped(entry.name):
        return "shipped"
    if entry.hub is None:
        return "by hand"
    return "download, gated" if entry.gated else "download"


def teachers_table() -> Table:
    """The zoo as a table, one row per teacher; GMACs and features are for one image or volume (96 x 96 x 96 voxels)."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in ("teacher", "trained on", "params M", "GMACs", "features", "licence", "file"):
        number = heading in ("params M", "GMACs")
        table.add_column(
            heading, justify="right" if number else "left", overflow="fold", no_wrap=heading in ("teacher", "features")
        )
    for entry in TEACHERS.values():
        table.add_row(
            entry.name,
            entry.modality,
            f"{entry.params:.1f}",
            f"{entry.gmacs:.1f}",
            "x".join(map(str, (entry.channels, *entry.grid))),
            entry.licence,
            _file(entry),
        )
    return table


def recommendation_table(recommended: Sequence[Recommendation]) -> Table:
    """Recommended teachers in their order, one row each with the reasons for it."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in ("teacher", "trained on", "commercial use", "file", "GMACs"):
        table.add_column(
            heading, justify="right" if heading == "GMACs" else "left", overflow="fold", no_wrap=heading == "teacher"
        )
    for one in recommended:
        reasons = (one.fit[1], one.commercial_use[1], one.file[1], f"{one.entry.gmacs:.1f}")
        table.add_row(one.entry.name, *reasons)
    return table


def files_by_hand() -> list[str]:
    """One line for each teacher whose file must be fetched by hand: the file and its source."""
    return [f"{entry.name}: {entry.file} of {entry.source}" for entry in TEACHERS.values() if _file(entry) == "by hand"]


_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class FileCheck:
    """The result of `check_file`; `str()` gives it as text.

    Attributes:
        coverage: which of the file's tensors were loaded, as text.
        shape: shape of the features of one image.
        mean: mean of the features.
        std: standard deviation of the features.
        zeros: fraction of the features that are exactly 0.
        finite: whether all weights and features are finite; if not, `coverage` names those that are not.
        untrained: whether the weights look untrained, see `looks_untrained`.
    """

    coverage: str
    shape: tuple[int, ...]
    mean: float
    std: float
    zeros: float
    finite: bool
    untrained: bool

    @property
    def usable(self) -> bool:
        """Whether the features can be used: finite, not constant, and of a trained network."""
        return self.finite and self.std > 0 and not self.untrained

    def __str__(self) -> str:
        lines = [
            f"loaded: {self.coverage}",
            f"features of a fixed image: {list(self.shape)}, mean {self.mean:.4g}, std {self.std:.4g}, "
            f"{self.zeros:.1%} zeros, {'all finite' if self.finite else 'NOT ALL FINITE'}",
        ]
        if self.untrained:
            lines.append("looks UNTRAINED: every normalisation layer is as its constructor left it")
        if self.finite and self.std == 0:
            lines.append("all features are EQUAL: they say nothing about an image")
        return "\n".join(lines)


def looks_untrained(network: nn.Module) -> bool:
    """Whether every normalisation layer has its initial values: weights all 1 (or all 0), biases all 0.

    Training changes them, and some published files contain untrained weights. False if there are no such layers.
    """
    norms = [module for module in network.modules() if isinstance(module, _NORMS) and module.weight is not None]
    fresh = [
        norm.weight.unique().tolist() in ([0.0], [1.0]) and (norm.bias is None or not bool(norm.bias.any()))
        for norm in norms
    ]
    return bool(fresh) and all(fresh)


def _fixed_image(teacher: FrozenFoundationModel) -> Tensor:
    """An image or volume in [0, 1] that is the same on every machine: a soft disc in noise."""
    size = teacher.preprocessing.size or TeacherEntry.OWN_SIZE
    sides = (size,) * teacher.spatial_dims if isinstance(size, int) else tuple(size)
    axes = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in sides), indexing="ij")
    disc = (-4 * torch.stack(axes).square().sum(dim=0)).exp()
    noise = torch.rand(sides, generator=torch.Generator().manual_seed(0))
    image = (0.8 * disc + 0.2 * noise).clamp(0, 1)
    return image.expand(1, 3 if teacher.spatial_dims == 2 else 1, *sides)


def check_file(name: str, file: str | Path | None = None, options: Mapping[str, Any] | None = None) -> FileCheck:
    """Load a teacher and check its features of a fixed image.

    Args:
        name: of one teacher, see `load_teacher`.
        file: its weights, unless the name is itself a file.
        options: changes to its preprocessing, see `load_teacher`.

    Raises:
        OSError: no such file.
        ValueError: an unknown name or option, or a file of another teacher.
    """
    told = dict(options or {})
    try:
        if is_black_box(name):
            teacher, coverage = load_teacher(name, file, options=told), "a whole network"
        else:
            teacher, _, found = open_teacher(name, file, told.pop("tap", "map"), options=told)
            coverage = str(found)
        features = teacher(_fixed_image(teacher))
        if teacher.spatial_dims == 3:  # of the only window
            features = features[:, 0]
    except NotFiniteError as error:
        return FileCheck(f"nothing of {error}", (), math.nan, math.nan, math.nan, finite=False, untrained=False)
    return FileCheck(
        coverage=coverage,
        shape=tuple(features.shape[1:]),
        mean=features.mean().item(),
        std=features.std().item(),
        zeros=(features == 0).float().mean().item(),
        finite=bool(features.isfinite().all()),
        untrained=isinstance(teacher.backbone, nn.Module) and looks_untrained(teacher.backbone),
    )

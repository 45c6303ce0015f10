r"""Decision boundaries on the plane through three images, and the agreement of two networks there.

Somepalli et al., arXiv 2203.08124, Section 2: with $v_1 = x_2 - x_1$ and $v_2 = x_3 - x_1$, the plane is spanned by
$v_1$ and the part of $v_2$ that is orthogonal to it, and extends a little beyond the three images on every side. Points
of the plane are not clipped to [0, 1]. The share of points on which two networks predict the same class, averaged over
many triplets, is the paper's reproducibility score (its Section 3.3).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

__all__ = ["Plane", "decision_plane", "plane_figure", "plot_planes"]


@dataclass(frozen=True)
class Plane:
    """The predictions of networks on a plane through three images.

    Attributes:
        images: the three images in [0, 1], `[3, C, H, W]` or bags `[3, S, C, H, W]`.
        corners: their coordinates on the plane, in Euclidean distance, `[3, 2]`.
        x: coordinates of the grid's columns `[R]`.
        y: coordinates of the grid's rows `[R]`.
        probabilities: by network, the softmax at each point `[R, R, classes]`, rows along y.
    """

    images: Tensor
    corners: Tensor
    x: Tensor
    y: Tensor
    probabilities: Mapping[str, Tensor]

    @property
    def labels(self) -> dict[str, Tensor]:
        """By network, the most probable class at each point `[R, R]`."""
        return {name: found.argmax(dim=-1) for name, found in self.probabilities.items()}

    def agreement(self, first: str, second: str) -> float:
        """Share of points, 0 to 1, on which two networks predict the same class: the reproducibility of one triplet."""
        labels = self.labels
        return float((labels[first] == labels[second]).double().mean())


@torch.no_grad()
def decision_plane(
    networks: Mapping[str, Callable[[Tensor], Tensor]],
    images: Tensor,
    resolution: int = 50,
    extent: float = 0.1,
    batch_size: int = 32,
) -> Plane:
    """Evaluate networks on a grid of the plane through three images.

    Args:
        networks: by name, functions from images to logits `[B, classes]` on the images' device; modules must be in eval
            mode.
        images: `[3, C, H, W]`, or bags `[3, S, C, H, W]` (volumes `[3, 1, D, H, W]`).
        resolution: R, number of points along each side.
        extent: how far the grid extends beyond the three images on each side, as a share of their span; the paper's
            value is 0.1.
        batch_size: points in one forward pass.

    Returns:
        The predictions on the plane.

    Raises:
        ValueError: not three images, images that lie on one line, a module in training mode, or an option out of range.
    """
    if len(images) != 3:
        raise ValueError(f"a plane goes through three images, got {len(images)}")
    if resolution < 2 or extent < 0 or batch_size < 1:
        raise ValueError(
            f"resolution is at least 2, extent at least 0, batch_size at least 1; got {resolution}, {extent}, "
            f"{batch_size}"
        )
    training = [n for n, network in networks.items() if isinstance(network, torch.nn.Module) and network.training]
    if training:
        raise ValueError(f"put networks into eval mode first: {', '.join(training)}")
    origin = images[0].double()
    v1, v2 = (images[index].double() - origin for index in (1, 2))
    length, along = v1.norm(), torch.tensor(0.0)
    if length > 0:
        first = v1 / length
        along = (v2 * first).sum()
        v2 = v2 - along * first
    height = v2.norm()
    if length == 0 or height <= 1e-6 * length:
        raise ValueError("the three images lie on one line or two are the same: choose others")
    second = v2 / height
    corners = torch.stack(
        [torch.zeros(2).double(), torch.tensor([float(length), 0.0]), torch.tensor([float(along), float(height)])]
    ).double()
    x, y = (_grid(corners[:, axis], resolution, extent) for axis in (0, 1))
    points = torch.cartesian_prod(y, x)  # rows along y
    found: dict[str, list[Tensor]] = {name: [] for name in networks}
    for part in points.split(batch_size):
        shape = (-1, *[1] * origin.dim())
        part = part.to(origin)
        batch = origin + part[:, 1].view(shape) * first + part[:, 0].view(shape) * second
        for name, network in networks.items():
            found[name].append(network(batch.to(images.dtype)).float().softmax(dim=1).cpu())
    maps = {name: torch.cat(parts).unflatten(0, (resolution, resolution)) for name, parts in found.items()}
    return Plane(images.cpu(), corners.float(), x.float(), y.float(), maps)


def _grid(positions: Tensor, resolution: int, extent: float) -> Tensor:
    low, high = float(positions.min()), float(positions.max())
    margin = extent * (high - low)
    return torch.linspace(low - margin, high + margin, resolution, dtype=torch.float64)


def plane_figure(planes: Sequence[Plane], class_names: Sequence[str]) -> Figure:
    """Draw one plane per row: the three images, then each network's decision regions, pale where it is unsure.

    Args:
        planes: planes of the same networks, at least one.
        class_names: class names by class index.

    Raises:
        ValueError: no plane, or planes of different networks.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from monai_rd.report.style import STYLE

    names = list(planes[0].probabilities) if planes else []
    if not names or any(list(plane.probabilities) != names for plane in planes):
        raise ValueError("planes of the same networks are needed, at least one")
    with rc_context(STYLE):
        figure = Figure(figsize=(1.1 + 2.6 * len(names), 2.75 * len(planes) + 0.45))
        grid = figure.add_gridspec(len(planes), 1 + len(names), width_ratios=[0.8, *[2.6] * len(names)])
        for row, plane in enumerate(planes):
            _thumbnails(figure, grid[row, 0], plane)
            for column, name in enumerate(names):
                axes = figure.add_subplot(grid[row, column + 1])
                _regions(axes, plane, name, len(class_names))
                agreed = "" if column == 0 else f"  agrees on {plane.agreement(names[0], name):.0%}"
                axes.set_title(f"{name}{agreed}" if row == 0 or agreed else "", fontsize=9.5)
        handles = [
            Patch(color=_colour(index), label=class_name)
            for index, class_name in enumerate(class_names)
            if any((found == index).any() for plane in planes for found in plane.labels.values())
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))
    return figure


def plot_planes(planes: Sequence[Plane], stem: str | os.PathLike[str], class_names: Sequence[str]) -> tuple[Path, Path]:
    """Write `plane_figure` as `STEM.png` and `STEM.svg`; returns their paths."""
    from monai_rd.report.style import save_figure

    return save_figure(plane_figure(planes, class_names), stem)


def _colour(index: int) -> str:
    from monai_rd.report.style import COLOURS

    return COLOURS[index % len(COLOURS)]


def _regions(axes: Axes, plane: Plane, name: str, classes: int) -> None:
    from matplotlib.colors import to_rgb

    probabilities = plane.probabilities[name].numpy()
    chosen = probabilities.argmax(axis=-1)
    sure = (probabilities.max(axis=-1) * classes - 1) / max(classes - 1, 1)  # 0 where all are equal, 1 where certain
    palette = np.array([to_rgb(_colour(index)) for index in range(classes)])
    opacity = (0.35 + 0.6 * np.clip(sure, 0, 1))[..., None]
    picture = palette[chosen] * opacity + (1 - opacity)
    bounds = [float(end) for axis in (plane.x, plane.y) for end in (axis[0], axis[-1])]
    axes.imshow(picture, origin="lower", extent=(bounds[0], bounds[1], bounds[2], bounds[3]), aspect="auto")
    for number, (x, y) in enumerate(plane.corners.tolist(), start=1):
        axes.plot(x, y, "o", color="#fefefe", markeredgecolor="#1c2431", markersize=13)
        axes.text(x, y, str(number), ha="center", va="center_baseline", color="#1c2431", fontsize=8.5)
    axes.set(xticks=(), yticks=())
    axes.grid(visible=False)


def _thumbnails(figure: Figure, place: SubplotSpec, plane: Plane) -> None:
    """Draw the three images below one another; for a study, its middle slice."""
    column = place.subgridspec(3, 1)
    for number, image in enumerate(plane.images):
        while image.dim() > 3:
            image = image[len(image) // 2]
        if image.shape[0] not in (1, 3):  # a volume's [D, H, W] after its channel was taken
            image = image[len(image) // 2][None]
        axes = figure.add_subplot(column[number])
        pixels = image.float().clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy()
        axes.imshow(pixels)
        axes.set_ylabel(str(number + 1), rotation=0, ha="right", va="center", fontsize=9)
        axes.set(xticks=(), yticks=())
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)

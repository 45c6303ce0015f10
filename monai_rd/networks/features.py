"""The student and teacher features that a distillation method receives in a training step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from monai_rd.networks.levels import Level

__all__ = ["Reads", "StudentFeatures", "TeacherFeatures", "from_rows", "pool_features", "pool_to_grid", "to_rows"]


class StudentFeatures(NamedTuple):
    """The student's outputs in one training step, as a method receives them.

    Attributes:
        image: the input batch of the student: `[B, 3, H, W]`, bags `[B, S, 3, H, W]` or volumes `[B, 1, D, H, W]`.
        pooled: f_s `[B, D]`, the input of the classifier.
        logits: z_s `[B, classes]`.
        maps: feature maps of the levels that the method asked for, in the same order, `[N, C, h, w]` (volumes
            `[N, C, d, h, w]`). N is B, or B * S for bags.

    Example:
        >>> import torch
        >>> from monai_rd.networks import Student, StudentFeatures
        >>> student, image = Student("resnet18", num_classes=2).eval(), torch.rand(1, 3, 64, 64)
        >>> pooled = student.features(image)
        >>> seen = StudentFeatures(image, pooled, student.logits(pooled))
        >>> seen.pooled.shape, seen.logits.shape, seen.maps
        (torch.Size([1, 512]), torch.Size([1, 2]), ())
    """

    image: Tensor
    pooled: Tensor
    logits: Tensor
    maps: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Reads:
    """The teacher features that a method needs. No others are computed, kept in memory or written to a feature store.

    Args:
        tap: whether F_t(x) is needed, the output of `FrozenFoundationModel.forward`.
        grid: maximum number of positions along each side of the tap's maps; larger maps are average-pooled to it.
            None keeps them as they are.
        pooled: whether the mean of the tap over positions and slices is needed.
        logits: whether logits are needed; only a teacher that was fitted to the task has them.
        levels: feature maps inside the teacher that are needed.

    Example:
        >>> from monai_rd.networks import Reads
        >>> bool(Reads()), bool(Reads(tap=True, grid=7))
        (False, True)
    """

    tap: bool = False
    grid: int | None = None
    pooled: bool = False
    logits: bool = False
    levels: tuple[Level, ...] = ()

    def __bool__(self) -> bool:
        """Whether any feature is needed."""
        return self.tap or self.pooled or self.logits or bool(self.levels)

    def names(self) -> dict[str, str]:
        """Return a name for each feature that is read, by its name in `TeacherFeatures.parts`.

        The same name means the same feature of a teacher, whatever else is read; a feature store is searched by it.
        """
        grid = "" if self.grid is None else f" {self.grid}"
        named = {"tap": f"tap{grid}"} if self.tap else {}
        named |= {"pooled": "pooled"} if self.pooled else {}
        named |= {"logits": "logits"} if self.logits else {}
        return named | {f"maps.{n}": f"{one.module} {one.layout} {one.prefix}" for n, one in enumerate(self.levels)}


@dataclass(frozen=True)
class TeacherFeatures:
    """The features of a frozen teacher for one batch.

    Args:
        parts: the features by name: "tap", "pooled", "logits", "maps.0", "maps.1", ... Only those that were read.

    Raises:
        KeyError: (on access) a feature that was not read.

    Example:
        >>> import torch
        >>> from monai_rd.networks import TeacherFeatures
        >>> seen = TeacherFeatures.of(tap=torch.rand(2, 2048, 7, 7), maps=[torch.rand(2, 256, 56, 56)])
        >>> seen.tap.shape, len(seen.maps)
        (torch.Size([2, 2048, 7, 7]), 1)
        >>> sorted(seen.parts)
        ['maps.0', 'tap']
    """

    parts: Mapping[str, Tensor]

    @classmethod
    def of(
        cls,
        *,
        tap: Tensor | None = None,
        pooled: Tensor | None = None,
        maps: Sequence[Tensor] = (),
        logits: Tensor | None = None,
    ) -> TeacherFeatures:
        """Make an instance from the features that were read; None is a feature that was not."""
        named = {"tap": tap, "pooled": pooled, "logits": logits, **{f"maps.{n}": one for n, one in enumerate(maps)}}
        return cls({name: part for name, part in named.items() if part is not None})

    @property
    def tap(self) -> Tensor:
        """F_t(x): maps `[B, C, h, w]` (volumes `[B, C, d, h, w]`) or vectors `[B, C]`; for bags S follows B."""
        return self.parts["tap"]

    @property
    def pooled(self) -> Tensor:
        """Mean of the tap over positions and slices `[B, C]`."""
        return self.parts["pooled"]

    @property
    def logits(self) -> Tensor:
        """Logits `[B, classes]` of a teacher that was fitted to the task."""
        return self.parts["logits"]

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """Feature maps of the levels that were read, in the order of `Reads.levels`; shapes as in `StudentFeatures`."""
        return tuple(self.parts[f"maps.{n}"] for n in range(sum(name.startswith("maps.") for name in self.parts)))


def to_rows(features: TeacherFeatures, image: Tensor, spatial_dims: int) -> dict[str, Tensor]:
    """Return the features by name, each with the batch's items along its first axis, as a feature store needs them.

    Maps of bags `[B * S, C, h, w]` become `[B, S, C, h, w]`; so do those of a volume's windows.

    Args:
        features: of one batch.
        image: the batch that they belong to; it tells bags from images.
        spatial_dims: 2 for images and bags, 3 for volumes.
    """
    bags = image.dim() == 5
    return {
        name: part.unflatten(0, (len(image), -1)) if bags and name.startswith("maps.") else part
        for name, part in features.parts.items()
    }


def from_rows(rows: Mapping[str, Tensor], spatial_dims: int) -> TeacherFeatures:
    """Undo `to_rows`."""
    return TeacherFeatures(
        {
            name: part.flatten(0, 1) if name.startswith("maps.") and part.dim() == 3 + spatial_dims else part
            for name, part in rows.items()
        }
    )


def pool_features(tap: Tensor, spatial_dims: int) -> Tensor:
    """Average a teacher's maps or vectors over positions and slices: `[B, C]` for images, bags and volumes."""
    pooled = tap.flatten(-spatial_dims).mean(dim=-1) if tap.dim() >= 2 + spatial_dims else tap
    return pooled.mean(dim=1) if pooled.dim() == 3 else pooled


def pool_to_grid(maps: Tensor, grid: int | None, spatial_dims: int) -> Tensor:
    """Average-pool maps `[..., C, h, w]` (volumes `[..., C, d, h, w]`) to at most `grid` positions along each side.

    Sides of at most `grid` positions are not changed, so pooling twice gives the same as pooling once.
    """
    if grid is None or max(maps.shape[-spatial_dims:]) <= grid:
        return maps
    sides: Any = [min(side, grid) for side in maps.shape[-spatial_dims:]]
    pool = F.adaptive_avg_pool2d if spatial_dims == 2 else F.adaptive_avg_pool3d
    flat = maps.flatten(0, -spatial_dims - 2) if maps.dim() > 2 + spatial_dims else maps
    return pool(flat, sides).unflatten(0, maps.shape[: -spatial_dims - 1])

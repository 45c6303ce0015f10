"""What a method sees of student and teacher in a training step, and what it asks of the teacher."""

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
    """What a method sees of the student in one training step.

    Attributes:
        image: the batch, as the trainer gave it to the student.
        pooled: f_s `[B, D]`, what the classifier read.
        logits: z_s `[B, classes]`.
        maps: of the levels that the method asked for, in its order, `[N, C, h, w]` (volumes `[N, C, d, h, w]`); N is B,
            of bags B * S.
    """

    image: Tensor
    pooled: Tensor
    logits: Tensor
    maps: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Reads:
    """What a method reads of the teacher; nothing else is kept of it, in memory or in a feature store.

    Args:
        tap: F_t(x) as `FrozenFoundationModel.forward` gives it.
        grid: most positions along each side of the tap's maps, which are averaged down to it; None for all.
        pooled: the tap's mean over positions and slices.
        logits: of a teacher that was fitted to the task.
        levels: maps inside the teacher.
    """

    tap: bool = False
    grid: int | None = None
    pooled: bool = False
    logits: bool = False
    levels: tuple[Level, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything is read."""
        return self.tap or self.pooled or self.logits or bool(self.levels)


@dataclass(frozen=True)
class TeacherFeatures:
    """What was read of the frozen teacher for one batch. Asking for a part that was not read is a `KeyError`.

    Attributes:
        parts: "tap", "pooled", "logits" and "maps.0", "maps.1", ... as far as they were read.
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
        """Put them together from those that there are."""
        named = {"tap": tap, "pooled": pooled, "logits": logits, **{f"maps.{n}": one for n, one in enumerate(maps)}}
        return cls({name: part for name, part in named.items() if part is not None})

    @property
    def tap(self) -> Tensor:
        """Maps `[B, C, h, w]` (volumes `[B, C, d, h, w]`) or vectors `[B, C]`; of bags with S after B."""
        return self.parts["tap"]

    @property
    def pooled(self) -> Tensor:
        """The tap's mean over positions and slices `[B, C]`."""
        return self.parts["pooled"]

    @property
    def logits(self) -> Tensor:
        """Of a teacher that was fitted to the task `[B, classes]`."""
        return self.parts["logits"]

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """Of the levels that were read, in their order; see `StudentFeatures`."""
        return tuple(self.parts[f"maps.{n}"] for n in range(sum(name.startswith("maps.") for name in self.parts)))


def to_rows(features: TeacherFeatures, image: Tensor, spatial_dims: int) -> dict[str, Tensor]:
    """The parts with the batch's items along the first axis of each, as a feature store keeps them.

    Maps of bags `[B * S, C, h, w]` become `[B, S, C, h, w]`.
    """
    bags = spatial_dims == 2 and image.dim() == 5
    return {
        name: part.unflatten(0, (len(image), -1)) if bags and name.startswith("maps.") else part
        for name, part in features.parts.items()
    }


def from_rows(rows: Mapping[str, Tensor], spatial_dims: int) -> TeacherFeatures:
    """The inverse of `to_rows`."""
    return TeacherFeatures(
        {
            name: part.flatten(0, 1) if name.startswith("maps.") and part.dim() == 3 + spatial_dims else part
            for name, part in rows.items()
        }
    )


def pool_features(tap: Tensor, spatial_dims: int) -> Tensor:
    """Mean over positions and slices `[B, C]` of a teacher's maps or vectors, of single images, bags or volumes."""
    pooled = tap.flatten(-spatial_dims).mean(dim=-1) if tap.dim() >= 2 + spatial_dims else tap
    return pooled.mean(dim=1) if pooled.dim() == 3 else pooled


def pool_to_grid(maps: Tensor, grid: int | None, spatial_dims: int) -> Tensor:
    """Average maps `[..., C, h, w]` (volumes `[..., C, d, h, w]`) down to at most `grid` positions a side.

    Sides that are no longer than that stay as they are, so doing it twice is doing it once.
    """
    if grid is None or max(maps.shape[-spatial_dims:]) <= grid:
        return maps
    sides: Any = [min(side, grid) for side in maps.shape[-spatial_dims:]]
    pool = F.adaptive_avg_pool2d if spatial_dims == 2 else F.adaptive_avg_pool3d
    flat = maps.flatten(0, -spatial_dims - 2) if maps.dim() > 2 + spatial_dims else maps
    return pool(flat, sides).unflatten(0, maps.shape[: -spatial_dims - 1])

"""The frozen foundation model: a black-box teacher that gives features and takes no gradient."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.files import no_room
from monai_rd.finite import NotFiniteError, not_finite
from monai_rd.memory import give_back_freed_memory
from monai_rd.networks.bag import fold, unfold
from monai_rd.networks.features import Reads, TeacherFeatures, pool_features, pool_to_grid, to_rows
from monai_rd.networks.levels import Level, LevelReader, Levels, find_levels

__all__ = ["FrozenFoundationModel", "Preprocessing", "VolumePreprocessing", "add_weights"]

# ITU-R BT.601, what PIL and OpenCV call grey.
_LUMA = (0.299, 0.587, 0.114)
_AXES = "SPL"  # the project's volumes: inferior to superior, anterior to posterior, right to left
_OPPOSITE = {"S": "I", "I": "S", "P": "A", "A": "P", "L": "R", "R": "L"}
# Whether rows and columns change places, and which of them are flipped after that.
_TURNS: dict[str, tuple[bool, tuple[int, ...]]] = {
    "rotate90": (True, (-2,)),  # counter-clockwise, as np.rot90
    "rotate180": (False, (-2, -1)),
    "rotate270": (True, (-1,)),
    "flip_up_down": (False, (-2,)),
    "flip_left_right": (False, (-1,)),
    "transpose": (True, ()),
    "anti_transpose": (True, (-2, -1)),
    # An axial slice of an array whose first axis runs to the right (left) and whose second to the front (back).
    "RAS": (True, (-2, -1)),
    "LPS": (True, ()),
}


@dataclass(frozen=True)
class Preprocessing:
    """How a teacher wants its image. It is computed in float32 on the image's device.

    The image is turned, which is exact, and resized (antialiased; its sides are not kept in proportion), its channels
    are put in order, and then it becomes `(image - mean) / std`.

    Args:
        size: rows and columns, one number for a square, or None to keep the image's own.
        mean: one number a channel, in the teacher's channel order, for values in [0, 1].
        std: as `mean`, above 0.
        channel_order: what the teacher was trained on; "GRAY" gives one channel of ITU-R BT.601 luma.
        interpolation: "bilinear" or "bicubic" (cut to [0, 1], which it would overshoot).
        turn: how an image as people are shown it is turned for a teacher that was trained on others: "rotate90",
            "rotate180", "rotate270" (counter-clockwise), "flip_up_down", "flip_left_right", "transpose",
            "anti_transpose" (about the other diagonal), or for axial slices what the arrays were oriented to: "RAS",
            "LPS". None: not at all.

    Raises:
        ValueError: an unknown channel order, interpolation or turn, a wrong number of means or stds, or a std or size
            not above 0.
    """

    spatial_dims: ClassVar[Literal[2]] = 2

    size: int | tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: Literal["RGB", "BGR", "GRAY"] = "RGB"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    turn: str | None = None

    def __post_init__(self) -> None:
        if self.turn is not None and self.turn not in _TURNS:
            raise ValueError(f"turn must be one of {', '.join(_TURNS)}, not {self.turn!r}")
        if self.channel_order not in ("RGB", "BGR", "GRAY"):
            raise ValueError(f"channel_order must be 'RGB', 'BGR' or 'GRAY', not {self.channel_order!r}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation must be 'bilinear' or 'bicubic', not {self.interpolation!r}")
        channels = 1 if self.channel_order == "GRAY" else 3
        if len(self.mean) != channels or len(self.std) != channels or min(self.std) <= 0:
            raise ValueError(
                f"{self.channel_order} needs {channels} means and {channels} stds above 0, got {self.mean}, {self.std}"
            )
        if self.size is not None and min(self._rows_columns(self.size)) < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")

    @staticmethod
    def _rows_columns(size: int | tuple[int, int]) -> tuple[int, int]:
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def __call__(self, image: Tensor) -> Tensor:
        """Prepare images `[B, 3, H, W]`, RGB in [0, 1]: float32 `[B, 3, h, w]`, or `[B, 1, h, w]` for "GRAY".

        Raises:
            ValueError: not `[B, 3, H, W]`.
        """
        if image.dim() != 4 or image.shape[1] != 3:
            raise ValueError(f"a teacher's images are [B, 3, H, W], got {list(image.shape)}")
        image = image.float()
        if self.turn is not None:
            swapped, flipped = _TURNS[self.turn]
            image = (image.transpose(-2, -1) if swapped else image).flip(flipped)
        if self.size is not None and tuple(image.shape[2:]) != self._rows_columns(self.size):
            size = self._rows_columns(self.size)
            image = F.interpolate(image, size=size, mode=self.interpolation, align_corners=False, antialias=True)
            if self.interpolation == "bicubic":
                image = image.clamp(0, 1)
        if self.channel_order == "BGR":
            image = image.flip(1)
        elif self.channel_order == "GRAY":
            image = (image * _by_channel(_LUMA, image)).sum(dim=1, keepdim=True)
        return (image - _by_channel(self.mean, image)) / _by_channel(self.std, image)

    def back(self, maps: Tensor) -> Tensor:
        """Maps `[B, C, h, w]` of prepared images as the images lay before they were turned."""
        if self.turn is None:
            return maps
        swapped, flipped = _TURNS[self.turn]
        maps = maps.flip(flipped)
        return maps.transpose(-2, -1) if swapped else maps

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold; `from_dict` reads it back."""
        values = asdict(self)
        if self.turn is None:  # files and fingerprints are what they were before there were turns
            del values["turn"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`, also after JSON has made lists of the tuples."""
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**fields)


def _by_channel(values: tuple[float, ...], image: Tensor) -> Tensor:
    """Constants `[1, C, 1, 1]` where the image is, for which nobody waits: this is done in every step."""
    return torch.tensor(values, dtype=image.dtype).view(1, -1, 1, 1).to(image.device, non_blocking=True)


@dataclass(frozen=True)
class VolumePreprocessing:
    """How a teacher of volumes wants them. It is computed in float32 on the volume's device.

    The axes are permuted and flipped, which is exact, the volume is resized trilinearly, and then it becomes
    `(volume - mean) / std`.

    Args:
        size: voxels along the teacher's axes, one number for a cube, or None to keep the volume's own.
        mean: of values in [0, 1], or None for the mean and the standard deviation of each volume's own voxels other
            than 0, which stay 0 (MONAI's `NormalizeIntensity(nonzero=True)`: what MR models are trained with).
        std: as `mean`, above 0; None together with it.
        axcodes: where the teacher's axes run to, such as "RAS": its first axis to the patient's right, its second to
            the front, its third to the head.
        multiple: every side that the teacher sees is a multiple of it: sides of its own are rounded to the nearest.

    Raises:
        ValueError: axis codes that are none, a std, size or multiple not above 0, a size that is no multiple, or one of
            mean and std without the other.
    """

    spatial_dims: ClassVar[Literal[3]] = 3

    size: int | tuple[int, int, int] | None
    mean: float | None = 0.0
    std: float | None = 1.0
    axcodes: str = _AXES
    multiple: int = 1

    def __post_init__(self) -> None:
        if len(self.axcodes) != 3 or {min(c, _OPPOSITE.get(c, "?")) for c in self.axcodes} != {"I", "A", "L"}:
            raise ValueError(f"axcodes must be three of R/L, A/P and S/I such as 'RAS', not {self.axcodes!r}")
        if (self.mean is None) != (self.std is None) or (self.std is not None and self.std <= 0):
            raise ValueError(f"mean and std must be numbers, the std above 0, or both None: {self.mean}, {self.std}")
        sides = (1,) if self.size is None else self._sides(())
        whole = self.size is None or not any(side % max(self.multiple, 1) for side in sides)
        if self.multiple < 1 or min(sides) < 1 or not whole:
            raise ValueError(f"size {self.size} must be of sides that are multiples of {self.multiple}, all at least 1")

    def _sides(self, own: tuple[int, ...]) -> tuple[int, ...]:
        if self.size is None:
            return tuple(max(round(length / self.multiple), 1) * self.multiple for length in own)
        return (self.size,) * 3 if isinstance(self.size, int) else tuple(self.size)

    def _turn(self) -> tuple[list[int], list[int]]:
        """The order of the axes 2, 3, 4, and which of them are flipped after that."""
        axes = [2 + next(i for i, own in enumerate(_AXES) if own in (code, _OPPOSITE[code])) for code in self.axcodes]
        return axes, [2 + i for i, code in enumerate(self.axcodes) if code not in _AXES]

    def __call__(self, volume: Tensor) -> Tensor:
        """Prepare volumes `[B, 1, D, H, W]` in [0, 1]: float32 `[B, 1, d, h, w]` along `axcodes`.

        D runs from the feet to the head, H from the front to the back, W from the patient's right to left ("SPL").

        Raises:
            ValueError: not `[B, 1, D, H, W]`.
        """
        if volume.dim() != 5 or volume.shape[1] != 1:
            raise ValueError(f"a 3D teacher's volumes are [B, 1, D, H, W], got {list(volume.shape)}")
        volume = volume.float()
        axes, flipped = self._turn()
        volume = volume.permute(0, 1, *axes).flip(flipped)
        sides = self._sides(tuple(volume.shape[2:]))
        if tuple(volume.shape[2:]) != sides:
            volume = F.interpolate(volume, size=sides, mode="trilinear", align_corners=False)
        if self.mean is not None and self.std is not None:
            return (volume - self.mean) / self.std
        inside = volume != 0
        count = inside.sum(dim=(2, 3, 4), keepdim=True).clamp(min=1)
        mean = volume.sum(dim=(2, 3, 4), keepdim=True) / count
        centred = (volume - mean) * inside
        std = (centred.square().sum(dim=(2, 3, 4), keepdim=True) / count).sqrt()
        return centred / torch.where(std > 0, std, 1.0)

    def back(self, maps: Tensor) -> Tensor:
        """Maps `[B, C, d, h, w]` of prepared volumes along the project's axes again."""
        axes, flipped = self._turn()
        return maps.flip(flipped).permute(0, 1, *(2 + axes.index(2 + own) for own in range(3)))

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> VolumePreprocessing:
        """The inverse of `to_dict`, also after JSON has made lists of the tuples."""
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**fields)


class FrozenFoundationModel(nn.Module):
    """A teacher: images to features, never trained and in no checkpoint.

    The backbone is kept out of PyTorch's register of submodules, so `parameters()`, `state_dict()`, optimizers, DDP and
    checkpoints see nothing of it; `.to()` and `.cuda()` move it all the same. It stays in eval mode whatever `train()`
    is told, and runs under `no_grad` in the caller's autocast.

    Args:
        backbone: from a preprocessed image batch to features. A module is frozen in place; any other callable, such as
            an ONNX session, is taken as it is.
        channels: C of the features.
        kind: "map" for features `[B, C, h, w]`, of volumes `[B, C, d, h, w]`; "vector" for `[B, C]`.
        preprocessing: how the backbone wants its images; a `VolumePreprocessing` makes it a teacher of volumes.
        name: what errors and logs call it.
        head: of a teacher that was fitted to the task the linear layer from its pooled features to logits, which is
            frozen in place and kept out of the register like the backbone.

    Attributes:
        spatial_dims: 2 for a teacher of images, 3 for one of volumes.

    Raises:
        ValueError: an unknown kind, or fewer than 1 channel.
    """

    backbone: nn.Module | Callable[[Tensor], Tensor]
    head: nn.Linear | None

    def __init__(
        self,
        backbone: nn.Module | Callable[[Tensor], Tensor],
        *,
        channels: int,
        kind: Literal["map", "vector"],
        preprocessing: Preprocessing | VolumePreprocessing,
        name: str,
        head: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        if kind not in ("map", "vector"):
            raise ValueError(f"kind must be 'map' or 'vector', not {kind!r}")
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        if isinstance(backbone, nn.Module):
            backbone.requires_grad_(False)
        object.__setattr__(self, "backbone", backbone)
        object.__setattr__(self, "head", head if head is None else head.requires_grad_(False))
        self.channels = channels
        self.kind: Literal["map", "vector"] = kind
        self.preprocessing = preprocessing
        self.spatial_dims: Literal[2, 3] = preprocessing.spatial_dims
        self.name = name
        self._levels: Levels | None = None
        self._seen = False
        self.eval()

    def train(self, mode: bool = True) -> FrozenFoundationModel:
        """Stay in eval mode, whatever is asked: MONAI's trainer calls `train()` every iteration."""
        if isinstance(self.backbone, nn.Module):
            self.backbone.eval()
        return super().train(False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> FrozenFoundationModel:
        """Take the unregistered backbone along wherever `.to()`, `.cuda()` or `.half()` go."""
        if isinstance(self.backbone, nn.Module):
            self.backbone._apply(fn, recurse)
        if self.head is not None:
            self.head._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @property
    def levels(self) -> Levels:
        """The maps inside the backbone, from the input to the output; empty where none can be read.

        They are found at the first question, by one run on noise. A module says by `stages` (paths of submodules) and
        `prefix` (tokens before the grid) where to look; another callable has `levels` of its own and
        `read(image, levels)`, which gives its features and their maps.
        """
        if self._levels is None:
            found: Sequence[Level] = getattr(self.backbone, "levels", ())
            if isinstance(self.backbone, nn.Module):
                stages = getattr(self.backbone, "stages", ())
                found = self._find(self.backbone, stages) if stages else ()
            self._levels = Levels.of(f"teacher '{self.name}'", found)
        return self._levels

    def _find(self, backbone: nn.Module, stages: Sequence[str]) -> tuple[Level, ...]:
        size = self.preprocessing.size or (224 if self.spatial_dims == 2 else 96)
        sides = (size,) * self.spatial_dims if isinstance(size, int) else tuple(size)
        noise = torch.rand(1, 3 if self.spatial_dims == 2 else 1, *sides, generator=torch.Generator().manual_seed(0))
        parameter = next(backbone.parameters())
        inputs = self.preprocessing(noise.to(parameter.device)).to(parameter.dtype)
        return find_levels(backbone, stages, inputs, getattr(backbone, "prefix", 0))

    @torch.no_grad()
    def read(self, image: Tensor, reads: Reads, places: Tensor | None = None) -> TeacherFeatures:
        """What a method reads of images as `forward` takes them.

        Args:
            image: see `forward`.
            reads: what; its levels are of `levels`.
            places: of the images in the training list `[B]`, -1 for others. A teacher that was fitted in folds must
                know it; to one alone all are alike.

        Raises:
            ValueError: see `forward`, or logits of a teacher without a head.
        """
        tap, maps = self._run(image, reads.levels)
        pooled = pool_features(tap, self.spatial_dims) if reads.pooled or reads.logits else None
        logits = None
        if reads.logits and pooled is not None:
            if self.head is None:
                raise ValueError(f"the teacher '{self.name}' was not fitted to the task: it gives no logits")
            logits = self.head(pooled.to(self.head.weight.dtype))
        if self.kind == "map":
            tap = pool_to_grid(tap, reads.grid, self.spatial_dims)
        return TeacherFeatures.of(
            tap=tap if reads.tap else None, pooled=pooled if reads.pooled else None, maps=maps, logits=logits
        )

    def rows(self, image: Tensor, reads: Reads, places: Tensor | None = None) -> dict[str, Tensor]:
        """What `read` reads, by part, as a feature store keeps it: see `to_rows`."""
        return to_rows(self.read(image, reads, places), image, self.spatial_dims)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Features of images `[B, 3, H, W]` or bags `[B, S, 3, H, W]`, RGB in [0, 1].

        Maps lie as the images do, however the backbone wants them turned.

        A teacher of volumes takes `[B, 1, D, H, W]` in [0, 1], along the feet to the head, the front to the back and
        the patient's right to left.

        Returns:
            Maps `[B, C, h, w]` or vectors `[B, C]`; of bags `[B, S, C, h, w]` or `[B, S, C]`; of volumes
            `[B, C, d, h, w]` or `[B, C]`.

        Raises:
            ValueError: images of another shape, or features other than `kind` and `channels` state.
            NotFiniteError: the first images or features are not finite; on another device than the CPU that is found by
                the training's loss.
        """
        return self._run(image, ())[0]

    def _run(self, image: Tensor, levels: Sequence[Level]) -> tuple[Tensor, tuple[Tensor, ...]]:
        images, slices = fold(image) if self.spatial_dims == 2 else (image, 1)
        inputs = self.preprocessing(images)
        maps: tuple[Tensor, ...] = ()
        if isinstance(self.backbone, nn.Module):
            dtype = next((p.dtype for p in self.backbone.parameters() if p.is_floating_point()), inputs.dtype)
            with LevelReader(self.backbone, levels) as reader:
                features = self.backbone(inputs.to(dtype))
                maps = reader.take()
        elif levels:
            features, maps = self.backbone.read(inputs, levels)  # type: ignore[attr-defined]  # who has levels has read
        else:
            features = self.backbone(inputs)
        positions = ["d", "h", "w"][-self.spatial_dims :] if self.kind == "map" else []
        if features.dim() != 2 + len(positions) or features.shape[:2] != (len(images), self.channels):
            stated = [len(images), self.channels, *positions]
            raise ValueError(
                f"teacher '{self.name}' states a {self.kind} [{', '.join(map(str, stated))}], but its backbone gave "
                f"{list(features.shape)}"
            )
        if not self._seen and features.device.type == "cpu":  # another device would be waited for in a training step
            self._seen = True
            self._refuse_not_finite(image, features)
        if self.kind == "map":
            features = self.preprocessing.back(features)
        tap = features if image.dim() == 4 or self.spatial_dims == 3 else unfold(features, slices)
        return tap, tuple(map(self.preprocessing.back, maps))

    def _refuse_not_finite(self, image: Tensor, features: Tensor) -> None:
        if not_finite({"image": image}):
            raise NotFiniteError("the images that the teacher is shown hold values that are infinite or not a number")
        wrong = int((~features.isfinite()).sum())
        if wrong:
            raise NotFiniteError(
                f"the teacher '{self.name}' gives features of which {wrong} of {features.numel()} are infinite or not "
                "a number: its file is damaged or its weights overflow; get it again, or try --amp false"
            )

    def rest(self, folder: str | Path) -> None:
        """Give the memory of weights on the CPU back until they are used again, when they are read from a file.

        Nothing else changes. The file lies in `folder` without a name, and goes with the teacher.

        Raises:
            OSError: the file could not be written.
        """
        if (rest := getattr(self.backbone, "rest", None)) is not None:  # of several
            rest(folder)
            return
        if not isinstance(self.backbone, nn.Module) or any(
            one.device.type != "cpu" for one in self.backbone.parameters()
        ):
            return
        handle, path = tempfile.mkstemp(dir=folder, suffix=".tmp")
        os.close(handle)
        try:
            with open(path, "wb") as file:  # of Python's, whose error says why
                torch.save(self.backbone.state_dict(), file)
            self.backbone.load_state_dict(torch.load(path, mmap=True, weights_only=True), assign=True)
        except (OSError, RuntimeError) as error:
            reason = no_room(error) or str(error)
            raise OSError(f"{folder}: the weights of teacher '{self.name}' could not be written: {reason}") from error
        finally:
            with suppress(PermissionError):  # Windows keeps a file that is open
                os.unlink(path)
        give_back_freed_memory()

    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that decides features and logits: weights or file bytes, preprocessing, tap, kind, head.

        It is computed anew at every call, so that two calls show whether anything moved; keep the answer to use it as a
        key.

        Raises:
            TypeError: the backbone is a callable that is neither a module nor has a `fingerprint()` of its own.
        """
        described: list[Any] = [self.kind, self.channels, self.preprocessing.to_dict()]
        if getattr(self.preprocessing, "axcodes", _AXES) != _AXES:
            described.append("maps lie as the volumes")
        if (tap := getattr(self.backbone, "tap", None)) is not None:
            described.append(asdict(tap))
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        if self.head is not None:
            add_weights(digest, self.head)
        if (own := getattr(self.backbone, "fingerprint", None)) is not None:
            digest.update(own().encode())
        elif isinstance(self.backbone, nn.Module):
            add_weights(digest, self.backbone)
        else:
            raise TypeError(
                f"teacher '{self.name}' is a plain callable: give it a fingerprint() method that returns a str"
            )
        return digest.hexdigest()


def add_weights(digest: Any, module: nn.Module) -> None:
    """Add all that a module's state dict holds to a hash of `hashlib`."""
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())

"""Input preprocessing of teachers, and the published normalisation constants (mean, standard deviation)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["AXES", "CLIP_MEAN", "CLIP_STD", "IMAGENET_MEAN", "IMAGENET_STD", "Preprocessing", "VolumePreprocessing"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
AXES = "SPL"  # axes of all volumes here: inferior to superior, anterior to posterior, right to left

# ITU-R BT.601 luma, as PIL and OpenCV convert RGB to grey.
_LUMA = (0.299, 0.587, 0.114)
_OPPOSITE = {"S": "I", "I": "S", "P": "A", "A": "P", "L": "R", "R": "L"}
# Whether rows and columns are transposed, and which axes are flipped after that.
_TURNS: dict[str, tuple[bool, tuple[int, ...]]] = {
    "rotate90": (True, (-2,)),  # counter-clockwise, as np.rot90
    "rotate180": (False, (-2, -1)),
    "rotate270": (True, (-1,)),
    "flip_up_down": (False, (-2,)),
    "flip_left_right": (False, (-1,)),
    "transpose": (True, ()),
    "anti_transpose": (True, (-2, -1)),
    # An axial slice of an array whose first axis points to the right (left) and whose second to the front (back).
    "RAS": (True, (-2, -1)),
    "LPS": (True, ()),
}


@dataclass(frozen=True)
class Preprocessing:
    """The input preprocessing of a 2D teacher, computed in float32 on the image's device.

    In this order: the image is turned (exactly, without interpolation), resized (antialiased, without keeping the
    aspect ratio), converted to the channel order, and normalised: `(image - mean) / std`.

    Args:
        size: rows and columns in pixels, one number for a square, or None to keep the image's size.
        mean: one value per channel, in the teacher's channel order, for images in [0, 1]. None: the mean and standard
            deviation of each image's own pixels, channel by channel.
        std: as `mean`, above 0; None if `mean` is None.
        channel_order: of the teacher's training images; "GRAY" gives one channel, the ITU-R BT.601 luma.
        interpolation: "bilinear", or "bicubic" (clamped to [0, 1], because it overshoots).
        turn: rotation or flip from the displayed orientation to that of the teacher's training images: "rotate90",
            "rotate180", "rotate270" (counter-clockwise), "flip_up_down", "flip_left_right", "transpose",
            "anti_transpose" (about the other diagonal), or "RAS", "LPS" for axial slices of arrays in this
            orientation. None: no change.

    Raises:
        ValueError: an unknown channel order, interpolation or turn, a wrong number of means or stds, a std or size not
            above 0, or only one of mean and std is None.

    Example:
        >>> import torch
        >>> from monai_rd.networks import Preprocessing
        >>> prepare = Preprocessing(size=224, mean=(0.5,) * 3, std=(0.5,) * 3, channel_order="BGR")
        >>> images = prepare(torch.ones(2, 3, 512, 512))
        >>> images.shape, round(images.max().item(), 3)
        (torch.Size([2, 3, 224, 224]), 1.0)
    """

    spatial_dims: ClassVar[Literal[2]] = 2

    size: int | tuple[int, int] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
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
        fits = self.mean is None and self.std is None
        if self.mean is not None and self.std is not None:
            fits = len(self.mean) == len(self.std) == self.channels and min(self.std) > 0
        if not fits:
            raise ValueError(
                f"{self.channel_order} needs {self.channels} means and {self.channels} stds above 0, or both None; got "
                f"{self.mean}, {self.std}"
            )
        if self.size is not None and min(self._rows_columns(self.size)) < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")

    @property
    def channels(self) -> int:
        """Number of channels of a preprocessed image: 1 for "GRAY", else 3."""
        return 1 if self.channel_order == "GRAY" else 3

    @staticmethod
    def _rows_columns(size: int | tuple[int, int]) -> tuple[int, int]:
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def __call__(self, image: Tensor) -> Tensor:
        """Preprocess images.

        Args:
            image: RGB `[B, 3, H, W]` in [0, 1].

        Returns:
            float32 `[B, 3, h, w]`, or `[B, 1, h, w]` for "GRAY".

        Raises:
            ValueError: the shape is not `[B, 3, H, W]`.
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
        if self.mean is None or self.std is None:
            return _standardised(image, torch.ones_like(image, dtype=torch.bool))
        return (image - _by_channel(self.mean, image)) / _by_channel(self.std, image)

    def back(self, maps: Tensor) -> Tensor:
        """Undo the turn for feature maps `[B, C, h, w]`: return them in the orientation of the original images."""
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


def _standardised(values: Tensor, counted: Tensor) -> Tensor:
    """Standardise each channel `[B, C, ...]` by the mean and standard deviation of what is counted; all else is 0."""
    axes = tuple(range(2, values.dim()))
    count = counted.sum(dim=axes, keepdim=True).clamp(min=1)
    mean = (values * counted).sum(dim=axes, keepdim=True) / count
    centred = (values - mean) * counted
    std = (centred.square().sum(dim=axes, keepdim=True) / count).sqrt()
    return centred / torch.where(std > 1e-6, std, 1.0)  # values in [0, 1] that are all equal differ by rounding alone


@dataclass(frozen=True)
class VolumePreprocessing:
    """The input preprocessing of a 3D teacher, computed in float32 on the volume's device.

    In this order: the axes are permuted and flipped (exactly), the volume is resized (trilinear), and normalised:
    `(volume - mean) / std`.

    Args:
        size: voxels along the teacher's axes, one number for a cube, or None to keep the volume's size.
        mean: for volumes in [0, 1]. None: the mean and standard deviation of each volume's own voxels.
        std: as `mean`, above 0; None if `mean` is None.
        axcodes: orientation of the teacher's axes as in nibabel and MONAI. "RAS": the first axis points to the
            patient's right, the second to the front (anterior), the third to the head (superior).
        multiple: with `size=None`, every side is rounded to the nearest multiple of this number of voxels.
        nonzero: with `mean=None`, only voxels other than 0 are counted and changed, as in MONAI's
            `NormalizeIntensity(nonzero=True)`, which is common for MR models. False: all voxels.

    Raises:
        ValueError: invalid axis codes; a std, size or multiple not above 0; a size that is not a multiple of
            `multiple`; or only one of mean and std is None.

    Example:
        A volume with the axes "SPL" (see `__call__`) for a teacher with the axes "RAS".

        >>> import torch
        >>> from monai_rd.networks import VolumePreprocessing
        >>> prepare = VolumePreprocessing(size=None, axcodes="RAS", multiple=32)
        >>> prepare(torch.rand(1, 1, 40, 64, 96)).shape
        torch.Size([1, 1, 96, 64, 32])
    """

    spatial_dims: ClassVar[Literal[3]] = 3

    size: int | tuple[int, int, int] | None
    mean: float | None = 0.0
    std: float | None = 1.0
    axcodes: str = AXES
    multiple: int = 1
    nonzero: bool = True

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
        """The permutation of the axes 2, 3, 4, and which axes are flipped after it."""
        axes = [2 + next(i for i, own in enumerate(AXES) if own in (code, _OPPOSITE[code])) for code in self.axcodes]
        return axes, [2 + i for i, code in enumerate(self.axcodes) if code not in AXES]

    @property
    def voxels(self) -> tuple[int, ...] | None:
        """The size along D, H and W of the volume that `__call__` takes; None if every size is kept."""
        if self.size is None:
            return None
        axes, _ = self._turn()
        return tuple(self._sides(())[axes.index(2 + own)] for own in range(3))

    def __call__(self, volume: Tensor) -> Tensor:
        """Preprocess volumes.

        Args:
            volume: `[B, 1, D, H, W]` in [0, 1]. D runs from feet to head, H from front to back, W from the patient's
                right to left ("SPL").

        Returns:
            float32 `[B, 1, d, h, w]` with the axes of `axcodes`.

        Raises:
            ValueError: the shape is not `[B, 1, D, H, W]`.
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
        return _standardised(volume, volume != 0 if self.nonzero else torch.ones_like(volume, dtype=torch.bool))

    def back(self, maps: Tensor) -> Tensor:
        """Return feature maps `[B, C, d, h, w]` of preprocessed volumes with the axes "SPL" of the original volumes."""
        axes, flipped = self._turn()
        return maps.flip(flipped).permute(0, 1, *(2 + axes.index(2 + own) for own in range(3)))

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold; `from_dict` reads it back."""
        values = asdict(self)
        if self.nonzero:  # files and fingerprints are what they were before there was a choice
            del values["nonzero"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> VolumePreprocessing:
        """The inverse of `to_dict`, also after JSON has made lists of the tuples."""
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**fields)

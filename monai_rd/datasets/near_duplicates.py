"""Finding duplicate images: equal pixels, or nearly the same picture.

The thresholds for images were chosen on COVID-CT (746 figures). Each figure was compared with changed copies of itself
(JPEG quality 20 and 50, a half and a third of the size, gamma 0.6 and 1.6, brightness +40, crops of 4 to 20 % of each
side) and with every other figure. At least 99 % of the copies with up to 10 % of a side cut off reached the required
correlation. So did 19 of the 277,885 pairs of different figures; on inspection, 15 show the same slice twice, and the
four least similar ones (0.960 to 0.965) neighbouring slices of one patient.

The thresholds for volumes were chosen on the project's phantoms, which are more similar to each other than patients
are: the most similar of 1,770 pairs reached 0.934, while 95 % of the copies with noise of 30 HU, smoothing, or half the
size reached 0.965. One in ten pairs of phantoms reaches 0.85 at half the side; the threshold of 0.9 there saves the
closer comparison for nearly all of them.

Not found, because their perceptual hashes differ: rotated copies, crops from one corner by 10 % and more, volumes that
were cropped or shifted by a slice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_rd.datasets.groups import linked

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "IMAGES",
    "VOLUMES",
    "Criterion",
    "Fingerprint",
    "Picture",
    "copies_of",
    "copy_groups",
    "digest_of",
    "fingerprint",
    "near_pairs",
]

Picture = NDArray[np.uint8]

# Thumbnails are compared at these sides, up to their own; a pair is dropped if at one side it falls short of the
# required correlation by more than the margin.
_SIDES, _MARGIN = (32, 64, 128), 0.15

# Candidate pairs differ in at most this many of the 64 bits of the perceptual hash, and their thumbnails of 16 x 16
# pixels have at least this correlation.
HASH_BITS, COARSE_CORRELATION = 12, 0.75


@dataclass(frozen=True)
class Criterion:
    """When two thumbnails count as near duplicates: after registration, their fine structure correlates.

    Attributes:
        side: side of the thumbnails, in pixels.
        detail: structure smaller than `side / detail` pixels is fine.
        correlation: smallest correlation of near duplicates.
        unshifted_correlation: smallest correlation at half the side, before registration; None where copies may be
            shifted.
    """

    side: int
    detail: int
    correlation: float
    unshifted_correlation: float | None = None


IMAGES, VOLUMES = Criterion(64, 12, 0.96), Criterion(128, 48, 0.955, unshifted_correlation=0.9)


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """The compact description by which images are compared.

    Attributes:
        digest: hash of the pixel values; equal for equal images.
        bits: perceptual hash, bool `[64]`.
        mirrored_bits: perceptual hash of the mirrored image, bool `[64]`.
        thumbnail: the image in grey, uint8 `[side, side]`.
    """

    digest: str
    bits: NDArray[np.bool_]
    mirrored_bits: NDArray[np.bool_]
    thumbnail: Picture


def digest_of(values: NDArray[np.generic]) -> str:
    """Return the SHA-256 of an array's shape and values."""
    return hashlib.sha256(str(values.shape).encode() + values.tobytes()).hexdigest()


def fingerprint(picture: Picture, digest: str, criterion: Criterion = IMAGES) -> Fingerprint:
    """Return the fingerprint of an image, given its grey picture `[rows, columns]` and its digest."""
    shown, mirrored = Image.fromarray(picture), Image.fromarray(np.ascontiguousarray(picture[:, ::-1]))
    return Fingerprint(
        digest=digest,
        bits=imagehash.phash(shown).hash.ravel(),
        mirrored_bits=imagehash.phash(mirrored).hash.ravel(),
        thumbnail=np.asarray(shown.resize((criterion.side, criterion.side), Image.Resampling.LANCZOS)),
    )


def copy_groups(prints: Sequence[Fingerprint]) -> list[int]:
    """Number the groups of equal or nearly equal images, linked directly or through other images."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(one.digest, number), number) for number, one in enumerate(prints)]
    pairs += [(i, j) for i, j, _, _ in near_pairs(prints, IMAGES)]
    return linked(len(prints), pairs)


def near_pairs(prints: Sequence[Fingerprint], criterion: Criterion) -> Iterator[tuple[int, int, float, bool]]:
    """Find pairs of nearly but not exactly equal images: recompressed, scaled, brightened, slightly cropped, mirrored.

    Yields:
        The positions i < j, the correlation of their fine structure, and whether one is mirrored.
    """
    yield from _near(prints, prints, criterion, lambda i, j: i < j)


def copies_of(originals: Sequence[Fingerprint], prints: Sequence[Fingerprint], criterion: Criterion) -> set[int]:
    """Return the positions in `prints` of images that are exact or near duplicates of one of the originals."""
    digests = {one.digest for one in originals}
    equal = {place for place, one in enumerate(prints) if one.digest in digests}
    rest = [place for place in range(len(prints)) if place not in equal]
    near = _near([prints[place] for place in rest], originals, criterion, lambda i, j: True)
    return equal | {rest[i] for i, *_ in near}


def _near(
    prints: Sequence[Fingerprint],
    others: Sequence[Fingerprint],
    criterion: Criterion,
    wanted: Callable[[int, int], bool],
) -> Iterator[tuple[int, int, float, bool]]:
    """Yield near duplicates between two sets as `near_pairs` does, limited to the pairs that `wanted` accepts."""
    if not prints or not others:
        return
    thumbnails = np.stack([one.thumbnail for one in prints])
    bits = np.stack([one.bits for one in prints])
    seen: set[tuple[int, int]] = set()
    for mirrored in (False, True):
        other_bits = np.stack([one.mirrored_bits if mirrored else one.bits for one in others])
        other_thumbnails = np.stack([one.thumbnail for one in others])[..., :: -1 if mirrored else 1]
        pairs = [
            (i, j)
            for i, j in _candidates(bits, other_bits, thumbnails, other_thumbnails, criterion)
            if wanted(i, j) and prints[i].digest != others[j].digest and (i, j) not in seen
        ]
        for start in range(0, len(pairs), 512):
            block = pairs[start : start + 512]
            first, second = (list(side) for side in zip(*block, strict=True))
            similarities = _similarity(thumbnails[first], other_thumbnails[second], criterion)
            for (i, j), similarity in zip(block, similarities, strict=True):
                if similarity >= criterion.correlation:
                    seen.add((i, j))
                    yield i, j, similarity, mirrored


def _candidates(
    bits: NDArray[np.bool_], other_bits: NDArray[np.bool_], thumbnails: Picture, others: Picture, criterion: Criterion
) -> Iterator[tuple[int, int]]:
    """Yield candidate pairs from a coarse comparison: matrix products, in blocks."""
    signs, other_signs = (np.where(one, 1, -1).astype(np.float32) for one in (bits, other_bits))
    coarse, other_coarse = (_coarse(one) for one in (thumbnails, others))
    if criterion.unshifted_correlation is not None:
        fine, other_fine = (_fine_rows(one, criterion) for one in (thumbnails, others))
    for start in range(0, len(signs), 1024):
        block = slice(start, start + 1024)
        near = signs[block] @ other_signs.T >= signs.shape[1] - 2 * HASH_BITS
        near &= coarse[block] @ other_coarse.T >= COARSE_CORRELATION
        if criterion.unshifted_correlation is not None:
            near &= fine[block] @ other_fine.T >= criterion.unshifted_correlation
        for row, column in np.argwhere(near):
            yield int(start + row), int(column)


def _coarse(thumbnails: Picture) -> NDArray[np.float32]:
    """Return thumbnails of 16 x 16 pixels as rows whose dot products are correlations."""
    step = thumbnails.shape[1] // 16
    small = thumbnails.reshape(len(thumbnails), 16, step, 16, step).mean((2, 4), dtype=np.float32)
    return _normed(small.reshape(len(small), -1))


def _fine_rows(thumbnails: Picture, criterion: Criterion) -> NDArray[np.float32]:
    """Return the fine structure at half the side as rows whose dot products are correlations."""
    import torch
    from torch.nn.functional import avg_pool2d

    halves = avg_pool2d(torch.from_numpy(np.ascontiguousarray(thumbnails)).float()[:, None], 2)
    return _normed(_fine_structure(halves, criterion.detail).flatten(1).numpy())


def _normed(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _similarity(first: Picture, second: Picture, criterion: Criterion) -> list[float]:
    """Correlation of the fine structure of thumbnails `[N, side, side]` after registering the second to the first.

    Copies taken from two papers are cropped differently; without registration they correlate no better than
    neighbouring slices. Works from low to high resolution and drops pairs that are far from the threshold early.
    """
    import torch
    from torch.nn.functional import avg_pool2d

    a, b = (torch.from_numpy(np.ascontiguousarray(one)).float()[:, None] for one in (first, second))
    similarity, place, near = torch.zeros(len(a)), torch.zeros(len(a), 4), torch.arange(len(a))
    for side in (side for side in _SIDES if side <= criterion.side):
        pooled, laid = (avg_pool2d(one[near], criterion.side // side) for one in (a, b))
        found, place[near] = _laid_over(pooled, laid, place[near], criterion)
        similarity[near] = found
        if side < criterion.side:
            far = found <= criterion.correlation - _MARGIN
            similarity[near[far]] = 0
            near = near[~far]
        if not len(near):
            break
    return similarity.tolist()


def _laid_over(a: Tensor, b: Tensor, place: Tensor, criterion: Criterion) -> tuple[Tensor, Tensor]:
    """Register `b` to `a` (`[N, 1, side, side]`): scale and shift along both axes, by Gauss-Newton steps.

    Args:
        a: fixed pictures.
        b: moving pictures.
        place: initial scales and shifts `[N, 4]`.
        criterion: defines the fine structure.

    Returns:
        The correlations `[N]` where both pictures have pixels, and the scales and shifts found `[N, 4]`.
    """
    import torch
    from torch.nn.functional import grid_sample

    side = a.shape[-1]
    a, b = (_fine_structure(one, criterion.detail) for one in (a, b))
    y, x = torch.meshgrid(*[torch.linspace(-1 + 1 / side, 1 - 1 / side, side)] * 2, indexing="ij")
    dy, dx = torch.gradient(a, spacing=2 / side, dim=(2, 3))
    slopes = torch.stack([dx * x, dy * y, dx, dy], dim=-1).flatten(1, 3)
    normal = slopes.transpose(1, 2) @ slopes
    damping = 1e-3 * normal.diagonal(dim1=1, dim2=2).mean(1) + 1e-6
    step = torch.linalg.solve(normal + damping[:, None, None] * torch.eye(4), slopes.transpose(1, 2))

    def laid(place: Tensor) -> tuple[Tensor, Tensor]:
        scale_x, scale_y, shift_x, shift_y = place[..., None, None].unbind(1)
        grid = torch.stack([(1 + scale_x) * x + shift_x, (1 + scale_y) * y + shift_y], dim=-1)
        inside = (grid.abs() < 1).all(-1)[:, None].float()
        return grid_sample(b, grid, align_corners=False, padding_mode="border"), inside

    for _ in range(10):
        moved, inside = laid(place)
        place = (place + (step @ ((a - moved) * inside).flatten(1)[..., None])[..., 0]).clamp(-0.2, 0.2)
    moved, inside = laid(place)
    pixels = inside.sum((2, 3), keepdim=True)
    one, two = ((t - (t * inside).sum((2, 3), keepdim=True) / pixels) * inside for t in (a, moved))
    product = (one * two).sum((1, 2, 3))
    return product / (one.square().sum((1, 2, 3)) * two.square().sum((1, 2, 3))).sqrt().clamp(min=1e-6), place


def _fine_structure(pictures: Tensor, detail: int) -> Tensor:
    """High-pass filter to unit variance: coarse structure is similar in every chest."""
    blur = _blur(pictures.shape[-1], detail)
    fine = pictures - blur @ pictures @ blur.T
    return fine / fine.std((2, 3), keepdim=True).clamp(min=1e-3)


@cache
def _blur(side: int, detail: int) -> Tensor:
    """Return a 1-D Gaussian filter as a matrix: for small pictures a product is much faster than a convolution."""
    import torch
    from monai.networks.layers import GaussianFilter

    return GaussianFilter(1, side / detail)(torch.eye(side)[:, None])[:, 0]

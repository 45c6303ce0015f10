"""Standardisation of several teachers to one scale, by statistics of training images, computed once and saved."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from monai.data import Dataset
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from monai_rd.cache.fingerprints import fingerprint, transforms_fingerprint
from monai_rd.cache.views import ReplayedViews
from monai_rd.files import atomic_path, link_or_copy
from monai_rd.networks.bag import fold
from monai_rd.networks.teacher.several import SeveralTeachers
from monai_rd.processes import decided_by_rank_zero, rank
from monai_rd.teacher_image import teacher_image

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel

__all__ = ["standardise"]

logger = logging.getLogger(__name__)

_ITEMS = 256  # a channel's standard deviation then has an error of about 4 %, at less than the cost of an epoch
_FILE = "teacher_statistics.safetensors"


@torch.no_grad()
def standardise(
    teacher: FrozenFoundationModel,
    images: Dataset,
    output_dir: str | Path,
    device: torch.device | str,
    shared_dir: str | Path | None = None,
) -> None:
    """Set the mean and standard deviation of each channel of several teachers used as one; a single one is unchanged.

    The statistics are those of at most 256 items, drawn by the hash of their content, with one view of each: trainings
    on the same images have the same ones, whichever of them have a label, and share a feature store. They are saved as
    `teacher_statistics.safetensors` in `output_dir`, and reused if they were computed for the same teachers, images and
    transforms, there or in `shared_dir`, so that a resumed training continues with the same features.

    Args:
        teacher: the teachers; moved to `device`.
        images: the training items, unlabelled ones among them, each with an `image`.
        output_dir: folder for the file.
        device: device to run on.
        shared_dir: see `tuned_teacher`.

    Raises:
        ValueError: the training list is empty.
        OSError: the file cannot be written.
    """
    several = teacher.backbone
    if not isinstance(several, SeveralTeachers):
        return
    if len(images) == 0:
        raise ValueError("no training item to bring several teachers to one scale by")
    path = Path(output_dir) / _FILE
    views = ReplayedViews(images, views=1, seed=0)
    chosen = sorted(range(len(images)), key=views.keys.__getitem__)[:_ITEMS]
    run = fingerprint([teacher.fingerprint(), transforms_fingerprint(images), [views.keys[place] for place in chosen]])
    shared = None if shared_dir is None else Path(shared_dir) / f"{path.stem}_{run[:16]}{path.suffix}"
    teacher.to(device)
    if decided_by_rank_zero(lambda: _taken_before(path, shared, run)):
        several.scales.load_state_dict(load_file(path))
        return
    with torch.random.fork_rng(devices=[torch.device(device)] if torch.device(device).type == "cuda" else []):
        for place in chosen:
            image = teacher_image(views.view(place, 0))[None].to(device)
            several.update(fold(image, teacher.spatial_dims)[0])
    if rank() == 0:
        tensors = {name: one.cpu().contiguous() for name, one in several.scales.state_dict().items()}
        with atomic_path(path) as beside:
            save_file(tensors, beside, metadata={"run": run})
        if shared is not None:
            link_or_copy(path, shared)
    logger.info("teachers %s: brought to one scale by %d training items", teacher.name, len(chosen))


def _taken_before(path: Path, shared: Path | None, run: str) -> bool:
    """Whether `path` has the statistics of this run; a file in the shared folder is linked or copied there first."""
    if _is_of(path, run):
        return True
    if shared is None or not _is_of(shared, run):
        return False
    link_or_copy(shared, path)
    return True


def _is_of(path: Path, run: str) -> bool:
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("run") == run
    except (FileNotFoundError, SafetensorError):  # a damaged file is replaced
        return False

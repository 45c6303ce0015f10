"""Cross-fitting: K teachers, each fitted without one fold, so that for every training image one has not seen it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader, Dataset, DistributedSampler
from torch import Tensor, nn
from torch.utils.data import RandomSampler, Sampler

from monai_rd.cache.fingerprints import transforms_fingerprint
from monai_rd.cache.orders import BalancedSampler, labels_of
from monai_rd.networks.features import Reads, TeacherFeatures
from monai_rd.networks.levels import Level, Levels
from monai_rd.networks.teacher.foundation import FrozenFoundationModel
from monai_rd.networks.teacher.probes import ProbeLogits, unseen, without_place
from monai_rd.processes import world_size

__all__ = ["CrossFittedTeacher", "fold_of_items", "loader_of", "loader_without"]


class CrossFittedTeacher(FrozenFoundationModel):
    """K fitted teachers used as one: a training image gets the logits of the teacher that was fitted without it.

    All other images (unlabelled, validation and test images) get the mean of the K logits. Its probabilities are the
    normalised geometric mean of the K teachers' probabilities, at every temperature and for single- and multi-label
    data; the mean of log-probabilities would be equivalent, as they differ from logits by a constant per image, which
    does not change the softmax.

    Teachers that share one backbone (linear probes) run it once. Otherwise only the teacher whose logits are needed
    runs, and for an image outside the training list all of them; their features differ then, so only logits can be
    read.

    Args:
        teachers: K teachers, fitted to the same task with the same adapter.
        folds: for each item of the training list the index of the teacher that was fitted without it, `[N]`.

    Raises:
        ValueError: a teacher was not fitted to the task.

    Example:
        >>> import torch
        >>> from monai_rd.adapters import CrossFittedTeacher, build_adapter
        >>> from monai_rd.networks import Reads, load_teacher
        >>> base, image = load_teacher("phantom_ct"), torch.rand(3, 3, 64, 64)
        >>> teachers = [build_adapter("linear_probe", base, num_classes=2).frozen() for fold in range(2)]
        >>> several = CrossFittedTeacher(teachers, folds=torch.tensor([0, 1, 1]))
        >>> logits = several.read(image, Reads(logits=True), indices=torch.tensor([0, 1, 2])).logits
        >>> torch.allclose(logits[1:], teachers[1].read(image[1:], Reads(logits=True)).logits, atol=1e-5)
        True
    """

    def __init__(self, teachers: Sequence[FrozenFoundationModel], folds: Tensor) -> None:
        first = teachers[0]
        if first.head is None:
            raise ValueError(f"the teacher '{first.name}' was not fitted to the task: it gives no logits")
        super().__init__(
            first.backbone,
            channels=first.channels,
            kind=first.kind,
            preprocessing=first.preprocessing,
            name=f"{first.name} in {len(teachers)} folds",
            head=first.head,
            probes=first.probes,
        )
        # A ModuleList, so that they move to another device with this module.
        self.teachers: Sequence[FrozenFoundationModel] = nn.ModuleList(teachers)  # type: ignore[assignment]
        self.folds = folds
        self.classes = first.head.out_features
        self.one_backbone = all(one.backbone is first.backbone for one in teachers)

    @property
    def levels(self) -> Levels:
        """Levels of the shared backbone; none if the teachers do not share one."""
        none: tuple[Level, ...] = ()
        return super().levels if self.one_backbone else Levels.of(f"teacher '{self.name}'", none)

    def _run(self, image: Tensor, levels: Sequence[Level]) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not self.one_backbone:
            raise ValueError(f"the teachers of '{self.name}' have features of their own each: only logits can be read")
        return super()._run(image, levels)

    @torch.no_grad()
    def read(self, image: Tensor, reads: Reads, indices: Tensor | None = None) -> TeacherFeatures:
        """Return the features that a method reads, see `FrozenFoundationModel.read`.

        Args:
            image: the images, as `FrozenFoundationModel.read` takes them.
            reads: the features to return.
            indices: indices of the items in the training list `[B]`; values outside 0 to N - 1 for other images.

        Raises:
            ValueError: logits are read without indices, or features are read that the teachers do not share.
        """
        if not reads.logits:
            return super().read(image, reads)
        if indices is None:
            raise without_place(self.name)
        others, parts = replace(reads, logits=False), dict[str, Tensor]()
        if self.one_backbone or others:
            parts |= super().read(image, replace(others, pooled=True)).parts
        pooled = parts.get("pooled")
        # Summed in float32, also under mixed precision.
        logits = torch.zeros(len(image), self.classes, device=image.device)
        answering = unseen(self.folds, len(self.teachers), indices.as_subclass(Tensor).cpu())
        for teacher, column in zip(self.teachers, answering.T, strict=True):
            items = column.nonzero()[:, 0].to(image.device)
            if len(items) == 0:
                continue
            if pooled is None:
                answer = teacher.read(image[items], Reads(logits=True)).logits
            else:
                assert teacher.head is not None
                answer = teacher.head(pooled[items].to(teacher.head.weight.dtype))
            logits.index_add_(0, items, answer.float())
        if not reads.pooled:
            parts.pop("pooled", None)
        logits /= answering.sum(dim=1, keepdim=True).to(image.device)
        return TeacherFeatures({**parts, "logits": logits})

    def _probe_logits(self, keep_pooled: bool) -> ProbeLogits:
        heads = [teacher.head for teacher in self.teachers if teacher.head is not None]
        return ProbeLogits(self.name, heads, self.folds, keep_pooled)

    def offload(self, folder: str | Path) -> None:
        """Free the memory of all backbones, see `FrozenFoundationModel.offload`."""
        for teacher in self.teachers[:1] if self.one_backbone else self.teachers:
            teacher.offload(folder)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the teachers' fingerprints and the folds."""
        digest = hashlib.sha256(repr(self.folds.tolist()).encode())
        for teacher in self.teachers:
            digest.update(teacher.fingerprint().encode())
        return digest.hexdigest()


def fold_of_items(items: Sequence[Mapping[str, Any]], folds: Sequence[int]) -> Tensor:
    """Return the fold of each item of a data set `[items]`.

    Args:
        items: the data set's items, each with its `index` in the training list; not all of the list need to be there.
        folds: the fold of each item of the training list.

    Raises:
        ValueError: an item has no `index`.
    """
    if not all("index" in item for item in items):
        raise ValueError("items have no place in the training list: give them `index`, as `DataList.numbered` does")
    return torch.as_tensor(folds)[torch.tensor([item["index"] for item in items])]


def loader_without(loader: DataLoader, left_out: Tensor) -> DataLoader:
    """Return `loader_of` the items of a loader but for some of them.

    Args:
        loader: a loader of a MONAI data set.
        left_out: mask of the items to leave out, bool `[items]`.
    """
    return loader_of(_Part(loader.dataset, (~left_out).nonzero()[:, 0].tolist()), loader)


def loader_of(dataset: Dataset, like: DataLoader, **others: Any) -> DataLoader:
    """Return a training loader of a data set with the settings of another, shuffled (or balanced) and with `drop_last`.

    Args:
        dataset: the items; a part of the other's, or the same items in another form.
        like: a loader of a MONAI data set.
        others: settings that are not those of the other loader.
    """
    sampler: Sampler = RandomSampler(dataset)
    if isinstance(like.sampler, BalancedSampler):
        sampler = BalancedSampler(labels_of(dataset.data), like.sampler.seed)
    elif world_size() > 1:
        sampler = DistributedSampler(dataset, shuffle=True)
    settings = {"batch_size": like.batch_size, "num_workers": like.num_workers, "collate_fn": like.collate_fn}
    return DataLoader(dataset, sampler=sampler, drop_last=True, **{**settings, **others})


class _Part(Dataset):
    """A subset of a MONAI data set."""

    def __init__(self, whole: Any, indices: Sequence[int]) -> None:
        super().__init__([whole.data[index] for index in indices], whole.transform)
        self.whole, self.indices = whole, indices
        self.transform_fingerprint = transforms_fingerprint(whole)

    def __getitem__(self, index: int) -> Any:
        return self.whole[self.indices[index]]

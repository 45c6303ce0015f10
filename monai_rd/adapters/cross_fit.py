"""Teachers that were each fitted without one fold of the training images, so that one of them has not seen an image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader, Dataset, DistributedSampler
from torch import Tensor, nn
from torch.utils.data import RandomSampler

from monai_rd.cache.fingerprints import transforms_fingerprint
from monai_rd.networks.features import Reads, TeacherFeatures
from monai_rd.networks.levels import Level, Levels
from monai_rd.networks.teacher.foundation import FrozenFoundationModel
from monai_rd.processes import world_size

__all__ = ["CrossFittedTeacher", "fold_of_items", "loader_without"]


class CrossFittedTeacher(FrozenFoundationModel):
    """K fitted teachers that answer as one: to an image that they were fitted to, the one that has not seen it.

    To all other images, unlabelled ones and those of validation and test, the answer is the mean of the K logits. Of
    what the losses make of logits, it is the normalised geometric mean of the K probabilities, at every temperature and
    for either kind of labels; the mean of log-probabilities would be the same, as they differ from logits by a constant
    of each image, which no softmax sees.

    Teachers that share one backbone (linear probes) run it once. Of others the one that is asked runs, and to an image
    that none has seen each; what they have inside is not shared then, so that nothing but logits can be read.

    Args:
        teachers: K of them, fitted to the same task by the same adapter.
        folds: which of them has not seen an item, by its index in the training list `[N]`.

    Raises:
        ValueError: a teacher that was not fitted.
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
        )
        # As a list of modules they move along with this one.
        self.teachers: Sequence[FrozenFoundationModel] = nn.ModuleList(teachers)  # type: ignore[assignment]
        self.folds = folds
        self.classes = first.head.out_features
        self.one_backbone = all(one.backbone is first.backbone for one in teachers)

    @property
    def levels(self) -> Levels:
        """Those of the one backbone, if it is one."""
        none: tuple[Level, ...] = ()
        return super().levels if self.one_backbone else Levels.of(f"teacher '{self.name}'", none)

    def _run(self, image: Tensor, levels: Sequence[Level]) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not self.one_backbone:
            raise ValueError(f"the teachers of '{self.name}' have features of their own each: only logits can be read")
        return super()._run(image, levels)

    @torch.no_grad()
    def read(self, image: Tensor, reads: Reads, indices: Tensor | None = None) -> TeacherFeatures:
        """What a method reads, see `FrozenFoundationModel.read`.

        Raises:
            ValueError: logits of images whose indices are not told; features that the teachers do not share.
        """
        if not reads.logits:
            return super().read(image, reads)
        if indices is None:
            raise ValueError(
                f"'{self.name}' answers by the items' places in the training list: give batches their `index`, as "
                "`DataList.numbered` does"
            )
        others, parts = replace(reads, logits=False), dict[str, Tensor]()
        if self.one_backbone or others:
            parts |= super().read(image, replace(others, pooled=True)).parts
        pooled = parts.get("pooled")
        # Summed in single precision, whatever the step runs in.
        logits = torch.zeros(len(image), self.classes, device=image.device)
        unseen = self._unseen(indices)
        for teacher, column in zip(self.teachers, unseen.T, strict=True):
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
        logits /= unseen.sum(dim=1, keepdim=True).to(image.device)
        return TeacherFeatures({**parts, "logits": logits})

    def _unseen(self, indices: Tensor) -> Tensor:
        """Whose answer counts, on the CPU: bool `[B, K]`."""
        indices = indices.as_subclass(Tensor).cpu()
        among = (indices >= 0) & (indices < len(self.folds))
        fold = self.folds[indices.clamp(0, len(self.folds) - 1)]
        return (fold[:, None] == torch.arange(len(self.teachers))) | ~among[:, None]

    def offload(self, folder: str | Path) -> None:
        """Give the memory of all backbones back, see `FrozenFoundationModel.offload`."""
        for teacher in self.teachers[:1] if self.one_backbone else self.teachers:
            teacher.offload(folder)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the teachers' fingerprints and the folds."""
        digest = hashlib.sha256(repr(self.folds.tolist()).encode())
        for teacher in self.teachers:
            digest.update(teacher.fingerprint().encode())
        return digest.hexdigest()


def fold_of_items(items: Sequence[Mapping[str, Any]], folds: Sequence[int]) -> Tensor:
    """The fold of each item of a data set `[items]`; it may lack some of the training list.

    Raises:
        ValueError: an item without a place.
    """
    if not all("index" in item for item in items):
        raise ValueError("items have no place in the training list: give them `index`, as `DataList.numbered` does")
    return torch.as_tensor(folds)[torch.tensor([item["index"] for item in items])]


def loader_without(loader: DataLoader, left_out: Tensor) -> DataLoader:
    """A training loader like another, in whole batches of shuffled items, without some of its items.

    Args:
        loader: of a MONAI data set.
        left_out: bool `[items]`.
    """
    part = _Part(loader.dataset, (~left_out).nonzero()[:, 0].tolist())
    return DataLoader(
        part,
        batch_size=loader.batch_size,
        sampler=DistributedSampler(part, shuffle=True) if world_size() > 1 else RandomSampler(part),
        drop_last=True,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
    )


class _Part(Dataset):
    """Some of the items of a MONAI data set."""

    def __init__(self, whole: Any, indices: Sequence[int]) -> None:
        super().__init__([whole.data[index] for index in indices], whole.transform)
        self.whole, self.indices = whole, indices
        self.transform_fingerprint = transforms_fingerprint(whole)

    def __getitem__(self, index: int) -> Any:
        return self.whole[self.indices[index]]

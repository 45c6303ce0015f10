"""Skipping studies that cannot be read, as the policy says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

import torch
from monai.data import Dataset, MetaTensor

from monai_rd.errors import Policy, StudyError, original_error
from monai_rd.teacher_image import TEACHER_IMAGE

__all__ = ["TolerantDataset", "reason_to_skip"]


def reason_to_skip(error: Exception, policy: Policy, item: Mapping[str, Any]) -> StudyError:
    """Return the `StudyError` that caused an error if the policy skips it, else raise it.

    Raises:
        StudyError: the policy does not skip it; the message is extended by the study's ID and how to skip it.
        Exception: the error itself, if its cause is not a `StudyError`.
    """
    reason = original_error(error)
    if not isinstance(reason, StudyError):
        raise error
    if policy[reason.code] == "skip":
        return reason
    named = copy(reason)
    which = f"study {item['id']}: " if "id" in item and item["id"] not in str(reason) else ""
    named.args = (f"{which}{reason} [to go on without such studies: --policy \"{{'{reason.code}': 'skip'}}\"]",)
    raise named from error


class TolerantDataset(Dataset):
    """MONAI's `Dataset` that gives a black image for a study that cannot be read, if the policy skips it.

    Each item has the strings `flags`, `problem` and `message`; the last two are empty if there is no problem. If the
    transform raises a `StudyError` that the policy skips, they are the error's code and message, and the image is
    black, so that the item can be part of a batch. Its predictions must be ignored, as `StudyClassifier` and
    `FinalReport` do. All other errors are raised.

    Args:
        data: items with `image`.
        transform: gives a bag of slices `[S, 3, H, W]` or a volume `[1, D, H, W]` as `image`.
        shape: shape of the black image: `[1, 3, H, W]`, or `[1, D, H, W]` for networks of volumes.
        policy: see `Policy`; "warn" is handled by the loading transform.
        teacher_shape: shape of the black teacher image, if items have a separate one.

    Example:
        >>> from pathlib import Path
        >>> from monai_rd.cache import TolerantDataset
        >>> from monai_rd.transforms import LoadImageOrSeriesd
        >>> Path("damaged.png").touch()
        >>> items, load = [{"image": "damaged.png"}], LoadImageOrSeriesd("image")
        >>> dataset = TolerantDataset(items, load, shape=[1, 3, 32, 32], policy={"default": "skip"})
        >>> dataset[0]["problem"], dataset[0]["image"].shape
        ('UNREADABLE_IMAGE', torch.Size([1, 3, 32, 32]))
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[[Any], Any],
        shape: Sequence[int],
        policy: Mapping[str, str] | None = None,
        teacher_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(data, transform)
        self.shape, self.policy, self.teacher_shape = tuple(shape), Policy(policy), teacher_shape

    def _transform(self, index: int) -> dict[str, Any]:
        try:
            made = super()._transform(index)
            return {"flags": "", **made, "problem": "", "message": ""}
        except Exception as error:
            reason = reason_to_skip(error, self.policy, self.data[index])
        blank: dict[str, Any] = {"flags": "", "image": MetaTensor(torch.zeros(self.shape))}
        if self.teacher_shape is not None:
            blank[TEACHER_IMAGE] = MetaTensor(torch.zeros(tuple(self.teacher_shape)))
        return {**self.data[index], **blank, "problem": reason.code, "message": str(reason)}

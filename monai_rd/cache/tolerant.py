"""One study that cannot be read does not stop the others, as far as the policy says so."""

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
    """Return the `StudyError` behind an error if the policy lets its study be left out; raise it if not.

    Raises:
        StudyError: of the same kind, with the id of the study and how to leave it out.
        Exception: the error itself, where no `StudyError` is behind it.
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
    """MONAI's `Dataset` whose items carry `flags`, and `problem` and `message`, empty where all went well.

    An item that its transform refuses with a `StudyError` which the policy skips comes out with the error's code and
    message and a black image, so that it takes part in a batch; whoever reads the predictions must leave it out, as
    `StudyClassifier` and `FinalReport` do. Every other error is raised.

    Args:
        data: items with `image`.
        transform: to a bag of slices `[S, 3, H, W]` or a volume `[1, D, H, W]`.
        shape: of the black image: `[1, 3, H, W]`, or `[1, D, H, W]` for networks of volumes.
        policy: see `Policy`; "warn" is for the loading transform.
        teacher_size: rows and columns of a black image for the teacher, where items have one of its own.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[[Any], Any],
        shape: Sequence[int],
        policy: Mapping[str, str] | None = None,
        teacher_size: int | None = None,
    ) -> None:
        super().__init__(data, transform)
        self.shape, self.policy, self.teacher_size = tuple(shape), Policy(policy), teacher_size

    def _transform(self, index: int) -> dict[str, Any]:
        try:
            made = super()._transform(index)
            return {"flags": "", **made, "problem": "", "message": ""}
        except Exception as error:
            reason = reason_to_skip(error, self.policy, self.data[index])
        blank: dict[str, Any] = {"flags": "", "image": MetaTensor(torch.zeros(self.shape))}
        if self.teacher_size:
            blank[TEACHER_IMAGE] = MetaTensor(torch.zeros(*self.shape[:-2], self.teacher_size, self.teacher_size))
        return {**self.data[index], **blank, "problem": reason.code, "message": str(reason)}

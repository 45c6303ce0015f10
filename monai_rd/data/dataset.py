"""A data set for inference: one study that cannot be read does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data import Dataset, MetaTensor

from monai_rd.bundle import original_error
from monai_rd.data.errors import StudyError

__all__ = ["TolerantDataset"]


class TolerantDataset(Dataset):
    """MONAI's `Dataset` whose items carry `problem` and `message`, empty where all went well.

    An item that its transform refuses with a `StudyError` comes out with the error's code and message and a black
    image, so that it takes part in a batch; whoever reads the predictions must leave it out, as `ScoreWriter` does.
    Every other error is raised.

    Args:
        data: items with `image` and `id`.
        transform: to a bag of slices `[S, 3, H, W]`.
        image_size: H and W of the black image `[1, 3, H, W]`.
    """

    def __init__(self, data: Sequence[dict[str, Any]], transform: Callable[[Any], Any], image_size: int) -> None:
        super().__init__(data, transform)
        self.image_size = image_size

    def _transform(self, index: int) -> dict[str, Any]:
        try:
            return {**super()._transform(index), "problem": "", "message": ""}
        except Exception as error:
            reason = original_error(error)
            if not isinstance(reason, StudyError):
                raise
        black = MetaTensor(torch.zeros(1, 3, self.image_size, self.image_size))
        return {**self.data[index], "image": black, "problem": reason.code, "message": str(reason)}

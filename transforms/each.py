"""What the transforms of single images share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any

from monai.data import MetaTensor
from monai.transforms import MapTransform

__all__ = ["EachImaged"]


class EachImaged(MapTransform):
    """A transform that changes every key of an item by itself, and the item it is given not at all."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform every key of the item."""
        return dict(data) | {key: self._transform(data[key]) for key in self.key_iterator(dict(data))}

    @abstractmethod
    def _transform(self, value: Any) -> MetaTensor:
        """What one key's value becomes."""

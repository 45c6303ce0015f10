"""Base class of transforms that change each key of an item on its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any

from monai.data import MetaTensor
from monai.transforms import MapTransform

__all__ = ["EachImaged"]


class EachImaged(MapTransform):
    """Apply `_transform` to every key of an item; the given item itself is not changed."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform every key of the item."""
        return dict(data) | {key: self._transform(data[key]) for key in self.key_iterator(dict(data))}

    @abstractmethod
    def _transform(self, value: Any) -> MetaTensor:
        """Return the transformed value of one key."""

"""Base class of transforms that change each key of an item on its own, and each image of a study of several roles."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from monai.data import MetaTensor
from monai.transforms import MapTransform

__all__ = ["EachImaged", "each_image"]


def each_image(value: Any, transform: Callable[[Any], Any]) -> Any:
    """Transform one image, or each of a mapping from roles to images."""
    if isinstance(value, Mapping):
        return {role: transform(one) for role, one in value.items()}
    return transform(value)


class EachImaged(MapTransform):
    """Apply `_transform` to every key of an item; the given item itself is not changed.

    The value of a key is one image, or a mapping from roles to images, each of which is transformed on its own.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform every key of the item."""
        return dict(data) | {key: each_image(data[key], self._transform) for key in self.key_iterator(dict(data))}

    @abstractmethod
    def _transform(self, value: Any) -> MetaTensor:
        """Return the transformed value of one image."""

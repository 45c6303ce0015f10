"""What a student was trained on, and whether a study is anything like it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_rd.errors import (
    OutOfScopeError,
    Policy,
    UnusualIntensitiesError,
    WrongBodyPartError,
    WrongModalityError,
    WrongOrientationError,
)

__all__ = ["HeaderInScoped", "IntensitiesInScoped", "scope_of"]

_HEADERS = {
    "modality": WrongModalityError,
    "body_part": WrongBodyPartError,
    "orientation": WrongOrientationError,
}
_LEVELS = {"dark end (5 %)": 0.05, "median": 0.5, "bright end (95 %)": 0.95}
_VALUES = 1 << 16  # of an image that are looked at


def scope_of(items: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Say what a training's data are, for the two transforms.

    Args:
        items: of the data list, with what their DICOM headers tell; `""` is what is not known.
        images: items as the network sees them without augmentation, such as the validation set: `image` in [0, 1].

    Returns:
        JSON: for "modality", "body_part" and "orientation" the values that occur; under "levels" the lowest and highest
        5, 50 and 95 % quantile and standard deviation of an image.
    """
    scope: dict[str, Any] = {name: sorted({item.get(name, "") for item in items} - {""}) for name in _HEADERS}
    levels = [image_levels(torch.as_tensor(one["image"])) for one in images]
    scope["levels"] = {name: [min(one[name] for one in levels), max(one[name] for one in levels)] for name in levels[0]}
    return scope


def image_levels(image: torch.Tensor) -> dict[str, float]:
    """Quantiles and standard deviation of an image's values, or of some 65,000 of them."""
    values = image.as_subclass(torch.Tensor).flatten()
    values = values[:: max(1, len(values) // _VALUES)].float()
    quantiles = torch.quantile(values, torch.tensor(list(_LEVELS.values()))).tolist()
    found = dict(zip(_LEVELS, quantiles, strict=True)) | {"contrast (standard deviation)": float(values.std())}
    return {name: round(value, 4) for name, value in found.items()}


class _InScoped(MapTransform):
    """Refuses or flags an item that is unlike all that the student was trained on.

    Args:
        keys: key of the image.
        scope: see `scope_of`; None checks nothing.
        policy: see `Policy`. The codes of what it lets pass ("warn") are added to the item's `flags`, joined by "|".
    """

    def __init__(
        self, keys: KeysCollection, scope: Mapping[str, Any] | None, policy: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(keys)
        self.scope, self.policy = scope, Policy(policy)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check an item."""
        flags = [data["flags"]] if data.get("flags") else []
        for error in self._problems(data, self.scope) if self.scope is not None else ():
            if self.policy[error.code] != "warn":
                raise error
            flags.append(error.code)
        return dict(data) | {"flags": "|".join(flags)}

    @abstractmethod
    def _problems(self, data: Mapping[Hashable, Any], scope: Mapping[str, Any]) -> Iterator[OutOfScopeError]:
        """What speaks against the item."""


class HeaderInScoped(_InScoped):
    """Modality, body part or orientation must be one that the headers of the training data told; goes first.

    Where a header says nothing, or none of the training data's did, nothing is concluded.

    Args:
        keys: key of the image.
        scope: see `scope_of`; None checks nothing.
        policy: see `Policy`. The codes of what it lets pass ("warn") are added to the item's `flags`, joined by "|".

    Raises:
        WrongModalityError: and the policy does not let it pass; likewise the others.
        WrongBodyPartError: see above.
        WrongOrientationError: see above.
    """

    def _problems(self, data: Mapping[Hashable, Any], scope: Mapping[str, Any]) -> Iterator[OutOfScopeError]:
        for name, kind in _HEADERS.items():
            value, known = data.get(name, ""), scope[name]
            if value and known and value not in known:
                what = name.replace("_", " ")
                yield kind(f"the {what} is {value}, and the student was trained on {', '.join(known)}")


class IntensitiesInScoped(_InScoped):
    """Brightness and contrast must not be far from all of the training's images; goes last.

    Far: a quantile or the standard deviation of the image lies further outside the range of the training's images than
    that range is wide (at least 0.1 of the scale from 0 to 1).

    Args:
        keys: key of the image.
        scope: see `scope_of`; None checks nothing.
        policy: see `Policy`. The codes of what it lets pass ("warn") are added to the item's `flags`, joined by "|".

    Raises:
        UnusualIntensitiesError: and the policy does not let it pass.
    """

    def _problems(self, data: Mapping[Hashable, Any], scope: Mapping[str, Any]) -> Iterator[OutOfScopeError]:
        for key in self.key_iterator(dict(data)):
            for name, value in image_levels(data[key]).items():
                low, high = scope["levels"][name]
                margin = max(high - low, 0.1)
                if not low - margin <= value <= high + margin:
                    yield UnusualIntensitiesError(
                        f"{name} of the image is {value:.2f}, of the training's images {low:.2f} to {high:.2f}: look "
                        "at the image, and at how it was exported"
                    )
                    return

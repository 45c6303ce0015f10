"""Out-of-scope checks: does a study resemble the data that a student was trained on?"""

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
_VALUES = 1 << 16  # about this many values of an image are sampled


def scope_of(items: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise training data for `HeaderInScoped` and `IntensitiesInScoped`.

    Args:
        items: of the data list, with `modality`, `body_part` and `orientation` from their DICOM headers; `""` or a
            missing key means unknown.
        images: items as the network sees them without augmentation, such as the validation set: `image` in [0, 1].

    Returns:
        A JSON-serialisable dictionary: under "modality", "body_part" and "orientation" the sorted values that occur;
        under "levels" the smallest and largest value over all images of their 5, 50 and 95 % quantiles and standard
        deviation.
    """
    scope: dict[str, Any] = {name: sorted({item.get(name, "") for item in items} - {""}) for name in _HEADERS}
    levels = [image_levels(torch.as_tensor(one["image"])) for one in images]
    scope["levels"] = {name: [min(one[name] for one in levels), max(one[name] for one in levels)] for name in levels[0]}
    return scope


def image_levels(image: torch.Tensor) -> dict[str, float]:
    """Return quantiles and standard deviation of an image's values; of large images about 65,000 values are sampled."""
    values = image.as_subclass(torch.Tensor).flatten()
    values = values[:: max(1, len(values) // _VALUES)].float()
    quantiles = torch.quantile(values, torch.tensor(list(_LEVELS.values()))).tolist()
    found = dict(zip(_LEVELS, quantiles, strict=True)) | {"contrast (standard deviation)": float(values.std())}
    return {name: round(value, 4) for name, value in found.items()}


class _ScopeCheckd(MapTransform):
    """Refuse or flag an item that does not resemble the training data.

    Args:
        keys: key of the image.
        scope: as returned by `scope_of`; None checks nothing.
        policy: action for each error code, see `Policy`; under "warn" the code is appended to the item's `flags`
            (joined by "|") instead of raising.
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
        """Yield an error for each way in which the item is out of scope."""


class HeaderInScoped(_ScopeCheckd):
    """Check that modality, body part and orientation of an item occur in the training data.

    It needs headers only, so use it before loading. A value that is unknown, in the item or in all of the training
    data, is not checked.

    Args:
        keys: key of the image.
        scope: as returned by `scope_of`; None checks nothing.
        policy: action for each error code, see `Policy`; under "warn" the code is appended to the item's `flags`
            (joined by "|") instead of raising.

    Raises:
        WrongModalityError: the modality does not occur, and the policy is not "warn"; likewise the others.
        WrongBodyPartError: see above.
        WrongOrientationError: see above.

    Example:
        >>> import torch
        >>> from monai_rd.transforms import HeaderInScoped, scope_of
        >>> scope = scope_of([{"modality": "CT", "body_part": "CHEST"}], [{"image": torch.rand(1, 8, 8)}])
        >>> check = HeaderInScoped("image", scope, policy={"WRONG_BODY_PART": "warn"})
        >>> check({"image": "series", "modality": "CT", "body_part": "KNEE"})["flags"]
        'WRONG_BODY_PART'
    """

    def _problems(self, data: Mapping[Hashable, Any], scope: Mapping[str, Any]) -> Iterator[OutOfScopeError]:
        for name, kind in _HEADERS.items():
            value, known = data.get(name, ""), scope[name]
            if value and known and value not in known:
                what = name.replace("_", " ")
                yield kind(f"the {what} is {value}, and the student was trained on {', '.join(known)}")


class IntensitiesInScoped(_ScopeCheckd):
    """Check that brightness and contrast of an image are similar to those of the training images.

    An image is refused where its 5, 50 or 95 % quantile or its standard deviation lies further outside the range of the
    training images than that range is wide (at least 0.1 on the scale from 0 to 1). Use it last, on the image that the
    network sees.

    Args:
        keys: key of the image.
        scope: as returned by `scope_of`; None checks nothing.
        policy: action for each error code, see `Policy`; under "warn" the code is appended to the item's `flags`
            (joined by "|") instead of raising.

    Raises:
        UnusualIntensitiesError: the image is refused, and the policy is not "warn".

    Example:
        >>> import torch
        >>> from monai_rd.transforms import IntensitiesInScoped, scope_of
        >>> scope = scope_of([{}], [{"image": torch.linspace(0, 1, 64).reshape(1, 8, 8)}])
        >>> check = IntensitiesInScoped("image", scope, policy={"UNUSUAL_INTENSITIES": "warn"})
        >>> check({"image": torch.full((1, 8, 8), 0.9)})["flags"]
        'UNUSUAL_INTENSITIES'
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

"""What a study's header and prepared image tell about its origin, for `monai_rd.drift`; nothing about its patient."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from monai_rd.scanners import maker_known
from monai_rd.transforms.scope import image_levels

__all__ = ["SCANNER", "study_facts"]

_HEADERS = {"scanner": "scanner", "kernel": "kernel", "thickness": "slice thickness"}  # key of an item, and its name
SCANNER = tuple(_HEADERS.values())
_DETAIL = "fine detail (difference of neighbours)"


def study_facts(item: Mapping[str, Any]) -> dict[str, str | float]:
    """Return what the header tells about the scanner, and statistics of the image.

    Args:
        item: of a data list, with the prepared image as `image`, in [0, 1]. What the header does not tell is left out.

    Returns:
        Texts: "scanner" (manufacturer and model; of an unknown manufacturer "another" with a number that tells it from
        others), "kernel", "slice thickness". Numbers: the 5, 50 and 95 % quantile of the image, its standard deviation,
        and the mean difference of neighbouring pixels, which noise, sharpness and compression change.

    Example:
        >>> import torch
        >>> from monai_rd.inference.facts import study_facts
        >>> facts = study_facts({"image": torch.full((1, 3, 8, 8), 0.5), "scanner": "Philips Brilliance 64"})
        >>> facts["scanner"], facts["median"], "kernel" in facts
        ('Philips Brilliance 64', 0.5, False)
    """
    told: dict[str, str | float] = {name: item[key] for key, name in _HEADERS.items() if item.get(key)}
    if "scanner" in told and not maker_known(scanner := str(told["scanner"])):
        told["scanner"] = f"another ({int(hashlib.sha256(scanner.encode()).hexdigest(), 16) % 10000:04d})"
    image = torch.as_tensor(item["image"]).as_subclass(torch.Tensor).float()
    return {**told, **image_levels(image), _DETAIL: round(float(image.diff(dim=-1).abs().mean()), 5)}

"""Reading the model card that lies beside a student."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_rd.files import sha256

__all__ = ["CARD", "CARD_JSON", "licences_of", "not_recorded", "read_card"]

CARD, CARD_JSON = "model_card.md", "model_card.json"


def read_card(model_path: Path) -> dict[str, Any]:
    """Read the model card's facts, `model_card.json`.

    Args:
        model_path: the student's `model.pt`, beside which the file is.

    Raises:
        ValueError: there is no such file, it is damaged, or it is of another `model.pt`.
    """
    path = model_path.with_name(CARD_JSON)
    if not path.is_file():
        raise ValueError(f"there is no models/{CARD_JSON}: a training writes it at its end")
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        of, chain = found["model"]["sha256"], found["licences"]["chain"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"models/{CARD_JSON} is damaged: train again to get a new one") from error
    if of != sha256(model_path) or not isinstance(chain, list):
        raise ValueError(f"models/{CARD_JSON} is of another model.pt: bring back its own, or train again")
    return found


def licences_of(model_path: Path) -> Mapping[str, Any]:
    """Return `licences` of a student's model card; without a card that they are unknown, and why."""
    try:
        return dict(read_card(model_path)["licences"])
    except ValueError as error:
        return not_recorded(error)


def not_recorded(reason: ValueError) -> dict[str, Any]:
    """Return `licences` of a student without a model card of its own, from what `read_card` said."""
    return {"commercial_use": "unknown", "in_words": f"not recorded, as {reason}", "chain": []}

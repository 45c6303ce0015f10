"""The papers of a student: its model card, with the licence chain, and MONAI's metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_rd.lazy import lazy_names

if TYPE_CHECKING:
    from monai_rd.card.chain import licence_chain
    from monai_rd.card.model_card import ModelCard
    from monai_rd.card.origins import find_origins

__getattr__ = lazy_names(
    __name__, {"chain": ("licence_chain",), "model_card": ("ModelCard",), "origins": ("find_origins",)}
)

__all__ = ["ModelCard", "find_origins", "licence_chain"]

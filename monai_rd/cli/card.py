"""`monai-rd card`: taking your own words into a model card."""

from __future__ import annotations

from typing import Annotated

import typer


def card(
    bundle: Annotated[str, typer.Argument(help="Name of a bundle, such as rd_ct, or folder of a trained bundle.")],
) -> None:
    """Write a trained student's model card anew, with your own words from models/model_card_notes.md."""
    from monai_rd.bundle import bundle_folder, require_model
    from monai_rd.card.model_card import rewrite

    root = bundle_folder(bundle)
    require_model(root / "models" / "model.pt")
    print(rewrite(root / "models"))

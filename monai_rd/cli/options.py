"""Options that several commands have, and what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SOME_LEFT_OUT = 3  # exit code

Key = Annotated[Path, typer.Option(help="The project's key, which patients' pseudonyms depend on; made if absent.")]
Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy", help="What follows from a study that cannot be read, as CODE=error|skip|warn; CODE may be default."
    ),
]
Modality = Annotated[str | None, typer.Option(help="Take series of this modality, such as CT.")]
Description = Annotated[str | None, typer.Option(help="Take series whose description fits this regular expression.")]
Orientation = Annotated[str | None, typer.Option(help="Take axial, coronal, sagittal or oblique series.")]
Pick = Annotated[str | None, typer.Option(help="Among those left: most_slices, largest or all.")]
Per = Annotated[str | None, typer.Option(help="One series for each patient or study.")]


def series_rule(
    modality: str | None, description: str | None, orientation: str | None, pick: str | None, per: str | None
) -> dict[str, str] | None:
    """Return the series rule that was asked for, None where no word of it was."""
    words = {
        "modality": modality,
        "description": description,
        "orientation": orientation,
        "pick": pick,
        "per": per,
    }
    return {name: word for name, word in words.items() if word is not None} or None


def policy_of(words: list[str] | None) -> dict[str, str]:
    """Read CODE=ACTION words.

    Raises:
        ValueError: a word that is none.
    """
    wrong = [word for word in words or () if word.count("=") != 1]
    if wrong:
        raise ValueError(f"--policy {wrong[0]}: give CODE=error, CODE=skip or CODE=warn")
    return {code: action for code, action in (word.split("=") for word in words or ())}

"""Options that several commands share, and their conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

SOME_LEFT_OUT = 3  # exit code

Key = Annotated[
    Path, typer.Option(help="File of the project's key for patient pseudonyms; created if it does not exist.")
]
Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy", help="How to handle studies that cannot be read, as CODE=error|skip|warn; CODE may be default."
    ),
]
Modality = Annotated[str | None, typer.Option(help="Take series of this modality, such as CT.")]
Description = Annotated[str | None, typer.Option(help="Take series whose description matches this regular expression.")]
Orientation = Annotated[str | None, typer.Option(help="Take axial, coronal, sagittal or oblique series.")]
Pick = Annotated[str | None, typer.Option(help="Choose among the remaining series: most_slices, largest or all.")]
Roles = Annotated[
    str | None,
    typer.Option(help="Instead, make an item of each study: the rule of each role, such as {'pa': {'view': 'PA'}}."),
]
Per = Annotated[str | None, typer.Option(help="Choose one series per patient or per study.")]


def series_rule(
    modality: str | None = None,
    description: str | None = None,
    orientation: str | None = None,
    pick: str | None = None,
    per: str | None = None,
    roles: str | None = None,
) -> dict[str, Any] | None:
    """Return the series rule made of the options; None if no option is given."""
    from monai_rd.overrides import parsed

    words = {
        "roles": None if roles is None else parsed(roles),
        "modality": modality,
        "description": description,
        "orientation": orientation,
        "pick": pick,
        "per": per,
    }
    return {name: word for name, word in words.items() if word is not None} or None


def policy_of(words: list[str] | None) -> dict[str, str]:
    """Parse CODE=ACTION words to a policy.

    Raises:
        ValueError: a word of another form.
    """
    wrong = [word for word in words or () if word.count("=") != 1]
    if wrong:
        raise ValueError(f"--policy {wrong[0]}: give CODE=error, CODE=skip or CODE=warn")
    return {code: action for code, action in (word.split("=") for word in words or ())}

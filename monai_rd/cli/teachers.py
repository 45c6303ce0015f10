"""`monai-rd teachers`: listing the foundation models known by name, and checking a weights file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monai_rd.console import terminal

app = typer.Typer(invoke_without_command=True)


@app.callback()
def list_teachers(
    context: typer.Context,
    modality: Annotated[
        str | None,
        typer.Option("--for", help="Only those for ct, mr, xray, us, derm, fundus or pathology: best first, with why."),
    ] = None,
) -> None:
    """List the foundation models that are known by name: size, features, licence and how to get the file."""
    if context.invoked_subcommand is not None:
        if modality is not None:
            raise ValueError(f"--for {modality} lists teachers; leave it out before '{context.invoked_subcommand}'")
        return
    console = terminal()
    if modality is None:
        from monai_rd.networks.teacher.zoo.table import files_by_hand, teachers_table

        console.print(teachers_table())
        console.print(
            "\nBy hand, then --teacher_checkpoint FILE:", *files_by_hand(), sep="\n  ", highlight=False, soft_wrap=True
        )
        return
    from monai_rd.networks.teacher.zoo.recommend import recommend
    from monai_rd.networks.teacher.zoo.table import recommendation_table

    recommended = recommend(modality)
    for dims, title in ((2, "images and slices"), (3, "volumes")):
        fitting = [one for one in recommended if one.entry.preprocessing.spatial_dims == dims]
        if fitting:
            console.print(f"Teachers of {title} for {modality}, best first\n")
            console.print(recommendation_table(fitting), "", highlight=False)
    console.print(
        "The order follows training data, licence, file and cost; it says nothing of accuracy.",
        "A student may inherit its teacher's licence: read it. Gated: the owner must consent.",
        highlight=False,
    )


@app.command()
def check(
    name: Annotated[
        str, typer.Argument(help="A name in the list, timm:NAME, open_clip:NAME or a file; several with commas.")
    ],
    file: Annotated[
        str | None, typer.Argument(help="The weights file; for several teachers in the same order: a.pth,,c.pth.")
    ] = None,
    options: Annotated[
        str | None, typer.Option(help="Preprocessing and other options, as in --teacher_options.")
    ] = None,
) -> None:
    """Load a file as a teacher; report what was loaded and how its features look; exit code 1 if they are useless."""
    from monai_rd import overrides
    from monai_rd.networks.teacher.zoo.loading import in_order, teacher_names
    from monai_rd.networks.teacher.zoo.table import check_file

    names = teacher_names(name)
    tables = None
    if options is not None:
        tables = overrides.settled({"teacher_options": overrides.parsed(options)}, {})["teacher_options"]
    usable = True
    for one, weights, table in in_order(names, file, tables) if len(names) > 1 else [(name, file, tables)]:
        found = check_file(one, weights, table)
        print(*([Path(one).name] if len(names) > 1 else []), found, sep="\n")
        usable = usable and found.usable
    if not usable:
        raise typer.Exit(1)

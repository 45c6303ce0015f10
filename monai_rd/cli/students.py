"""`monai-rd students`: the cost of the students."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from monai_rd.console import terminal


def students(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Names such as resnet18 or timm:NAME; by default the recommended students."),
    ] = None,
    volumes: Annotated[bool, typer.Option("--volumes", help="List the students for volumes, 96 x 96 x 96.")] = False,
    image_size: Annotated[int, typer.Option(min=1, help="Number of rows and columns of the images.")] = 224,
    seconds: Annotated[
        float, typer.Option(min=0, help="Duration of the measurement in seconds; at least three rounds.")
    ] = 15,
) -> None:
    """List students: parameters, multiply-accumulates, feature width, and latency measured on this CPU."""
    from monai_rd.networks.student.table import FOR_IMAGES, FOR_VOLUMES, measure_students, student_table

    recommended = FOR_VOLUMES if volumes else FOR_IMAGES
    console = terminal()
    with console.status("") as status:
        costs = measure_students(names or recommended, image_size, seconds, lambda name: status.update(Text(name)))
    console.print(student_table(costs))

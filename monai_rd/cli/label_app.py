"""`monai-rd label-app`: an app for MONAI Label."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def label_app(
    folder: Annotated[Path, typer.Argument(help="The folder to create, for monailabel start_server --app.")],
    bundles: Annotated[list[Path], typer.Argument(help="Folders of trained bundles.")],
) -> None:
    """Write a MONAI Label app that serves trained bundles."""
    from monai_rd.inference.papers import licences_of
    from monai_rd.integrations.monai_label.application import write_label_app

    copies = write_label_app(folder, bundles)
    print(f"{folder}: {', '.join(copy.name for copy in copies)}")
    for copy in copies:
        print(f"{copy.name}, licences: {licences_of(copy / 'models' / 'model.pt')['in_words']}")

"""`monai-rd deploy-app`: an application for MONAI Deploy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def deploy_app(
    folder: Annotated[Path, typer.Argument(help="The folder to create.")],
    bundle: Annotated[str, typer.Argument(help="Folder of a trained bundle, or name of one of the project's bundles.")],
) -> None:
    """Write a trained bundle as an application for MONAI Deploy: DICOM in, scores and DICOM structured reports out."""
    from monai_rd.integrations.monai_deploy.application import write_application

    licences = write_application(folder, bundle)
    print(f"{folder}: python {folder / 'app.py'} -i DICOM_FOLDER -o OUTPUT_FOLDER -m {folder / 'models'}")
    print(f"licences: {licences}")

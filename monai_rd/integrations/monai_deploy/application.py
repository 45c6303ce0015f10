"""A trained bundle as a folder that MONAI Deploy runs and packages."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_rd import __version__
from monai_rd.export.formats import export_formats
from monai_rd.inference import TrainedBundle

__all__ = ["selection_rules", "write_application"]

TEMPLATES = Path(__file__).parent / "map_app"


def write_application(folder: Path, bundle: str) -> None:
    """Write an application for MONAI Deploy of the student trained in a bundle.

    Args:
        folder: a new one. It gets `app.py`, `__main__.py`, `app.yaml`, `requirements.txt`, `selection.json` (which
            series to take) and `models/student/model.ts`.
        bundle: the bundle's folder, or the name of one that comes with the project.

    Raises:
        FileExistsError: the folder is there and not empty.
        FileNotFoundError: no such bundle, or nothing trained in it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already: give a new folder, or remove it")
    trained = TrainedBundle(bundle)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        made = Path(place) / "app"
        # A folder for each model is what the SDK knows as -m models.
        models = made / "models" / "student"
        models.mkdir(parents=True)
        export_formats(trained, ["torchscript"], models)
        words = {
            "@TITLE@": json.dumps(trained.metadata["name"]),
            "@VERSION@": __version__,
        }
        for template in sorted(path for path in TEMPLATES.iterdir() if path.is_file()):
            text = template.read_text(encoding="utf-8")
            for word, value in words.items():
                text = text.replace(word, value)
            (made / template.name).write_text(text, encoding="utf-8")
        rules = selection_rules(trained.trained["scope"])
        (made / "selection.json").write_text(json.dumps(rules, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        shutil.move(made, folder)


def selection_rules(scope: Mapping[str, Any] | None) -> dict[str, Any]:
    """Say in the words of the SDK's series selector which series a student can be asked about.

    Only the modality decides here; what else is out of scope is refused with its code by the preprocessing.

    Args:
        scope: of the training, see `scope_of`. Without it, or where it knows no modality, every series is taken.
    """
    modalities = scope["modality"] if scope is not None else []
    pattern = f"^({'|'.join(modalities)})$" if modalities else "."
    return {"selections": [{"name": "studies", "conditions": {"Modality": pattern}}]}

"""Writing a trained bundle as a folder that MONAI Deploy can run and package."""

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
from monai_rd.inference.papers import CARD

__all__ = ["selection_rules", "write_application"]

TEMPLATES = Path(__file__).parent / "map_app"


def write_application(folder: Path, bundle: str) -> str:
    """Write a MONAI Deploy application for the trained student of a bundle.

    Args:
        folder: a new folder. It gets `app.py`, `__main__.py`, `app.yaml`, `requirements.txt`, `selection.json` (which
            series to select), `models/student/model.ts` and the student's `model_card.md`.
        bundle: folder of a bundle, or name of one of the project's bundles.

    Returns:
        What the licences of the student's teacher and initial weights say, in words.

    Raises:
        FileExistsError: the folder exists and is not empty.
        FileNotFoundError: no such bundle, or it has no trained student.
        ValueError: the student takes studies whose files a list names.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already: give a new folder, or remove it")
    trained = TrainedBundle(bundle)
    if trained.series_roles is not None and None in trained.series_roles["roles"].values():
        raise ValueError(
            f"{bundle}: MONAI Deploy is given DICOM, and this student takes studies whose files a list names"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        made = Path(place) / "app"
        # The SDK's option -m models expects one folder per model.
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
        if trained.licences["chain"]:  # the card is this student's
            shutil.copyfile(trained.model_path.with_name(CARD), made / CARD)
        if folder.exists():
            folder.rmdir()
        shutil.move(made, folder)
    return str(trained.licences["in_words"])


def selection_rules(scope: Mapping[str, Any] | None) -> dict[str, Any]:
    """Make the rules for the SDK's series selector: which series a student can score.

    The rules check the modality only; series that are out of scope in other ways are refused by the preprocessing.

    Args:
        scope: scope of the training, see `scope_of`. If it is None or has no modality, every series is selected.
    """
    modalities = scope["modality"] if scope is not None else []
    pattern = f"^({'|'.join(modalities)})$" if modalities else "."
    return {"selections": [{"name": "studies", "conditions": {"Modality": pattern}}]}

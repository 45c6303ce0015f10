"""Writing the folder that MONAI Label's server runs: the app, and the trained bundles that it serves."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from monai_rd.bundle import require_model
from monai_rd.export.manifest import network_metadata
from monai_rd.inference import TrainedBundle
from monai_rd.inference.papers import CARD, CARD_JSON, licences_of

__all__ = ["write_label_app"]

_NEEDED = ("configs/inference.json", "configs/metadata.json", "models/model.pt", "models/settings.json", "LICENSE")
_PAPERS = (f"models/{CARD}", f"models/{CARD_JSON}")


def write_label_app(folder: str | os.PathLike[str], bundles: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Write the app with copies of trained bundles, atomically.

    A bundle `rd_ct` becomes `FOLDER/model/rd_ct_classification`: MONAI Label's own bundle app derives the task of a
    bundle from that name. The metadata of the copy name the classes it was trained on. A student's model card comes
    with it.

    Args:
        folder: the folder to create.
        bundles: folders of trained bundles, with different names.

    Returns:
        The folders of the copies.

    Raises:
        FileExistsError: the folder exists.
        FileNotFoundError: a bundle lacks a file, for example because it was not trained yet.
        ValueError: no bundle, or two of the same name; a model that is not the student named in its settings, or that
            takes studies of several roles.
    """
    target, sources = Path(folder), [Path(bundle).resolve() for bundle in bundles]
    names = [source.name if "classification" in source.name else f"{source.name}_classification" for source in sources]
    if target.exists():
        raise FileExistsError(f"'{target}' is there already: remove it, or name another folder")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"bundles of different names are needed, at least one; got {[one.name for one in sources]}")
    for source in sources:
        require_model(source / "models" / "model.pt")
        missing = [name for name in _NEEDED if not (source / name).is_file()]
        if missing:
            raise FileNotFoundError(f"the bundle '{source}' lacks {', '.join(missing)}")
        if TrainedBundle(source).series_roles is not None:
            raise ValueError(
                f"'{source}': MONAI Label gives one image, and this student takes studies of several roles"
            )
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.unfinished.{os.getpid()}")
    try:
        for source, name in zip(sources, names, strict=True):
            recorded = bool(licences_of(source / "models" / "model.pt")["chain"])
            for file in (*_NEEDED, *(_PAPERS if recorded else ())):
                copied = unfinished / "model" / name / file
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / file, copied)
            metadata = json.dumps(network_metadata(TrainedBundle(source)), indent=4) + "\n"
            (unfinished / "model" / name / "configs" / "metadata.json").write_text(metadata, encoding="utf-8")
        shutil.copyfile(Path(__file__).parent / "label_app" / "main.py", unfinished / "main.py")
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return [target / "model" / name for name in names]

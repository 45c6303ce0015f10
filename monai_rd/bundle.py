"""What bundle configs ask for and JSON cannot say: the bundle's place, the device, a trained student's settings."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from monai_rd.data.errors import original_error
from monai_rd.memory import keep_freed_memory

if TYPE_CHECKING:
    import torch

__all__ = [
    "bundle_root",
    "default_device",
    "default_workers",
    "explain_errors",
    "keep_freed_memory",
    "options",
    "require_model",
    "switch",
    "trained_settings",
]

logger = logging.getLogger(__name__)

_JSON_WORDS = {"true": True, "false": False, "null": None}


def bundle_root(name: str) -> str:
    """Find the folder of the bundle `name`.

    MONAI does not tell a config where it lies, so a bundle's config asks here. Looked at, in this order: the current
    folder and its parent (run from inside a bundle, or from its `configs`), `bundles/NAME` below the current folder
    (run from a checkout), the checkout that this package was installed from in editable mode, the copy inside the
    wheel.

    Args:
        name: folder name of the bundle, such as "rd_ct".

    Returns:
        Absolute path of the bundle's folder.

    Raises:
        FileNotFoundError: no such bundle in any of those places.
    """
    package, here = Path(__file__).resolve().parent, Path.cwd()
    inside = [place for place in (here, here.parent) if place.name == name]
    candidates = [*inside, here / "bundles" / name, package.parent / "bundles" / name, package / "bundles" / name]
    for candidate in candidates:
        if (candidate / "configs" / "metadata.json").is_file():
            return str(candidate.resolve())
    places = ", ".join(str(candidate) for candidate in candidates)
    raise FileNotFoundError(
        f"no bundle '{name}' (a folder with configs/metadata.json) in: {places}; pass --bundle_root DIR"
    )


def default_device() -> torch.device:
    """The first CUDA device, or the CPU, and then say so."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda:0")
    logger.info("no CUDA device: running on the CPU")
    return torch.device("cpu")


def default_workers(device: torch.device | str) -> int:
    """Processes that load data: as many as feed a GPU; none on a CPU whose few cores the training itself needs."""
    import torch

    from monai_rd.processes import cores, own_cores

    if torch.device(device).type == "cuda":
        return min(8, own_cores() - 1)
    return 2 if cores() >= 8 else 0


def trained_settings(root: str, **defaults: Any) -> dict[str, Any]:
    """What inference must know of the training that made `models/model.pt`, as `models/settings.json` tells.

    Args:
        root: the bundle's folder.
        defaults: the settings of a bundle that nothing was trained in yet.

    Raises:
        ValueError: the file lacks a setting.
    """
    path = Path(root) / "models" / "settings.json"
    if not path.is_file():
        return defaults
    settings: dict[str, Any] = json.loads(path.read_text())
    missing = sorted(set(defaults) - set(settings))
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: train again, or remove it to use the bundle's defaults")
    return settings


def require_model(path: str | Path) -> None:
    """Check that there is a trained model.

    Raises:
        FileNotFoundError: there is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no trained model '{path}': run the bundle's train.json first")


def switch(value: Any) -> bool:
    """Read what a command line gave for true or false: MONAI leaves JSON's own words as strings, which are all true.

    Raises:
        ValueError: neither.
    """
    read = _JSON_WORDS.get(value.lower(), value) if isinstance(value, str) else value
    if not isinstance(read, (bool, int)):
        raise ValueError(f"true or false is needed, got {value!r}")
    return bool(read)


def options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read options from a command line: JSON's words true, false and null among them are strings until here."""
    return {key: _JSON_WORDS.get(value, value) if isinstance(value, str) else value for key, value in values.items()}


def explain_errors() -> None:
    """Repeat the cause of a failed run below its traceback.

    MONAI wraps what goes wrong in a config as "Failed to evaluate ConfigExpression", and the reason stands many lines
    above.
    """
    ordinary = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        ordinary(kind, error, trace)
        cause = original_error(error)
        if cause is not error:
            print(f"\nThe cause: {cause}", file=sys.stderr)

    sys.excepthook = hook

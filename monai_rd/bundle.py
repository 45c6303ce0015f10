"""What bundle configs ask for and JSON cannot say (place, device, trained settings), and configs for commands."""

from __future__ import annotations

import json
import linecache
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from monai_rd.errors import original_error
from monai_rd.files import error_text, no_room, sha256
from monai_rd.memory import keep_freed_memory
from monai_rd.overrides import (
    ids_read,
    overridden,
    parsed,
    refuse_unread,
    settled,
    switch,
    typed_arguments,
    unread_ids,
    written,
)
from monai_rd.streams import make_streams_robust

if TYPE_CHECKING:
    import torch

__all__ = [
    "argument_pairs",
    "bundle_config",
    "bundle_root",
    "check_overrides",
    "default_device",
    "default_workers",
    "explain_errors",
    "is_bundle",
    "keep_freed_memory",
    "model_sha256",
    "own_bundles",
    "parse_overrides",
    "require_model",
    "start",
    "switch",
    "trained_settings",
]

logger = logging.getLogger(__name__)


def is_bundle(folder: Path) -> bool:
    """Whether a bundle lies in this folder."""
    return (folder / "configs" / "metadata.json").is_file()


def own_bundles() -> tuple[Path, Path]:
    """Where the project's own bundles may lie: in the checkout, and in the wheel."""
    package = Path(__file__).resolve().parent
    return package.parent / "bundles", package / "bundles"


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
    here = Path.cwd()
    inside = [place for place in (here, here.parent) if place.name == name]
    candidates = [*inside, here / "bundles" / name, *(place / name for place in own_bundles())]
    for candidate in candidates:
        if is_bundle(candidate):
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
        defaults: what it must know, with the settings of a bundle that nothing was trained in yet.

    Returns:
        The settings by the names in `defaults`, and no others.

    Raises:
        ValueError: the file lacks a setting.
    """
    path = Path(root) / "models" / "settings.json"
    if not path.is_file():
        return defaults
    settings = json.loads(path.read_text())
    missing = sorted(set(defaults) - set(settings))
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: train again, or remove it to use the bundle's defaults")
    return {name: settings[name] for name in defaults}


def model_sha256(root: str) -> str:
    """SHA-256 of the bundle's `models/model.pt`: what names the student, in whatever form it runs."""
    return sha256(Path(root) / "models" / "model.pt")


def require_model(path: str | Path) -> None:
    """Check that there is a trained model.

    Raises:
        FileNotFoundError: there is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no trained model '{path}': run the bundle's train.json first")


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Read words for a bundle ("--id value", "--id=value") as its own command does, see `monai_rd.overrides`.

    Raises:
        ValueError: a word that is no such pair, or a value that does not fit its key.
    """
    pairs = dict(argument_pairs(words))
    read = {name: parsed(value) for name, value in pairs.items()}
    return {**read, **settled(read, pairs)}


def bundle_config(bundle: str, overrides: Mapping[str, Any]) -> Any:
    """The bundle's train.json with these overrides, as MONAI's `ConfigParser`.

    Raises:
        OverrideError: see `overridden`.
    """
    return overridden(json.loads(Path(bundle_root(bundle), "configs", "train.json").read_text()), overrides)


def argument_pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    """Take words for a bundle ("--id value", "--id=value") apart; "-" in an id is "_".

    Raises:
        ValueError: a word that is no such pair.
    """
    pairs, left = [], list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if not re.fullmatch(r"--[A-Za-z_][\w#-]*", name) or (not equals and (not left or left[0].startswith("--"))):
            raise ValueError(f"'{word}': words for the bundle are ids and values, as --dataset_dir DIR")
        pairs.append((name.removeprefix("--").replace("-", "_"), value if equals else left.pop(0)))
    return pairs


def check_overrides(name: str, file: str) -> None:
    """Check, and read as they are meant, the settings of the config whose expression calls this.

    To be called first of all in `initialize`: MONAI has merged configs and overrides then, and computed nothing of
    them. Keys that are paths and names are read as they were typed; see `monai_rd.overrides`.

    Args:
        name: of the bundle.
        file: the bundle's own config, whose ids are known even where an override took the place of what reads them.

    Raises:
        OverrideError: an id that nothing in the config reads, or a value that does not fit its key.
    """
    parser, entries = _calling_config()
    own = json.loads(Path(bundle_root(name), "configs", file).read_text(encoding="utf-8"))
    read = ids_read([parser.config, own])
    refuse_unread(unread_ids(parser.config, entries, own), read)
    for key, value in settled(parser.config, typed_arguments()).items():
        parser.config[key] = written(value)
    parser.parse(reset=True)


def _calling_config() -> tuple[Any, list[str]]:
    """The parser that evaluates the expression which called us, and the ids that its workflow runs.

    MONAI gives an expression no way to its own config; the parser stands among the callers.
    """
    from monai.bundle import ConfigParser, ConfigWorkflow

    parser, entries = None, []
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if parser is None and isinstance(caller, ConfigParser):
            parser = caller
        if isinstance(caller, ConfigWorkflow):
            entries += [caller.init_id, caller.run_id, caller.final_id]
        frame = frame.f_back
    if parser is None:
        raise RuntimeError("check_overrides is for expressions of a bundle's config")
    return parser, entries


def start(name: str, file: str) -> None:
    """What a training does first of all in `initialize`: errors that say their cause, settings checked, memory kept.

    See `explain_errors`, `check_overrides`, `keep_freed_memory`.

    Args:
        name: of the bundle.
        file: the bundle's own config.

    Raises:
        OverrideError: see `check_overrides`.
    """
    explain_errors()
    check_overrides(name, file)
    keep_freed_memory()


def explain_errors() -> None:
    """Say the cause of a failed run last, and alone where it says all; see also `make_streams_robust`.

    MONAI wraps what goes wrong in a config as "Failed to evaluate ConfigExpression", and the reason stands many lines
    above. What this package refuses by an error of its own needs no traceback.
    """
    make_streams_robust()
    ordinary = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        cause = original_error(error)
        refused = _is_refusal(cause) or bool(no_room(cause))
        if not refused:
            ordinary(kind, error, trace)
        if refused or cause is not error:
            print(f"\nThe cause: {error_text(cause)}", file=sys.stderr)

    sys.excepthook = hook


def _is_refusal(error: BaseException) -> bool:
    """Whether an error is one that this package raised by a statement of its own, for people to read."""
    trace = error.__traceback__
    if not isinstance(error, (ValueError, OSError)) or trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    ours = str(trace.tb_frame.f_globals.get("__name__", "")).startswith("monai_rd")
    return ours and linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno).lstrip().startswith("raise")

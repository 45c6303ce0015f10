"""Functions called by bundle configs (bundle folder, device, trained settings, checks), and configs for commands."""

from __future__ import annotations

import json
import linecache
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from monai_rd.conformal_groups import check_conformal_groups
from monai_rd.errors import original_error
from monai_rd.files import error_text, no_room, sha256
from monai_rd.memory import keep_freed_memory
from monai_rd.operating_point import check_operating_point
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
    "bundle_folder",
    "bundle_root",
    "check_conformal_groups",
    "check_operating_point",
    "check_overrides",
    "default_device",
    "default_workers",
    "explain_errors",
    "is_bundle",
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
    """Return whether this folder is a bundle (holds configs/metadata.json)."""
    return (folder / "configs" / "metadata.json").is_file()


def own_bundles() -> tuple[Path, Path]:
    """Return the folders that may hold the project's own bundles: in a checkout, and in an installed wheel."""
    package = Path(__file__).resolve().parent
    return package.parent / "bundles", package / "bundles"


def bundle_folder(bundle: str | os.PathLike[str]) -> Path:
    """Return the folder of a bundle that is given as a folder, or by its name, see `bundle_root`.

    Raises:
        FileNotFoundError: no bundle has this name. Whether a folder is a bundle is not checked.
    """
    folder = Path(bundle)
    return folder if is_bundle(folder) or len(folder.parts) > 1 else Path(bundle_root(str(bundle)))


def bundle_root(name: str) -> str:
    """Find the folder of a bundle by its name.

    MONAI does not tell a config in which folder it is, so bundle configs call this function. It searches, in this
    order: the current folder and its parent (for runs from inside a bundle or its `configs`), `bundles/NAME` in the
    current folder (runs from a checkout), the checkout that this package was installed from in editable mode, and the
    copy inside the wheel.

    Args:
        name: folder name of the bundle, such as "rd_ct".

    Returns:
        Absolute path of the bundle's folder.

    Raises:
        FileNotFoundError: the bundle is in none of these places.
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
    """Return the first CUDA device, or the CPU (and log that) if there is none."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda:0")
    logger.info("no CUDA device: running on the CPU")
    return torch.device("cpu")


def default_workers(device: torch.device | str) -> int:
    """Return the number of data-loading processes for training on a device.

    On CUDA up to 8, one core of this process's share being left free; on a CPU with fewer than 8 cores 0, because the
    training itself needs them, else 2.
    """
    import torch

    from monai_rd.processes import cores, own_cores

    if torch.device(device).type == "cuda":
        return min(8, own_cores() - 1)
    return 2 if cores() >= 8 else 0


def trained_settings(root: str, **defaults: Any) -> dict[str, Any]:
    """Return the training settings of `models/model.pt` that inference needs, from `models/settings.json`.

    Args:
        root: the bundle's folder.
        defaults: names of the needed settings, with values that apply if no model has been trained in the bundle yet.

    Returns:
        The settings named in `defaults`, and no others. `decision` keeps its default until a training has ended.

    Raises:
        ValueError: the file lacks another setting.
    """
    path = Path(root) / "models" / "settings.json"
    if not path.is_file():
        return defaults
    settings = json.loads(path.read_text(encoding="utf-8"))
    missing = sorted(set(defaults) - set(settings) - {"decision"})
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: train again, or remove it to use the bundle's defaults")
    return {name: settings.get(name, default) for name, default in defaults.items()}


def model_sha256(root: str) -> str:
    """Return the SHA-256 of a bundle's `models/model.pt`, which identifies the student in all of its export formats."""
    return sha256(Path(root) / "models" / "model.pt")


def require_model(path: str | Path) -> None:
    """Check that the file of a trained model exists.

    Raises:
        FileNotFoundError: it does not.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no trained model '{path}': run the bundle's train.json first")


def check_roles(series_rule: Any, trained: Mapping[str, Any] | None) -> None:
    """Check that a series rule for inference selects the images that the student was trained on.

    Args:
        series_rule: see `SeriesRule`, or its mapping in a config.
        trained: the rule of the training if it has roles, else None.

    Raises:
        ValueError: the student takes studies of several roles, and the rule has none, or others.
    """
    from monai_rd.dicom import SeriesRule

    rule, own = SeriesRule.of(series_rule), SeriesRule.of(trained)
    if own is None or own.roles is None:
        return
    roles = ", ".join(own.roles)
    if rule is None or rule.roles is None:
        raise ValueError(
            f"--series_rule: the student takes studies of the roles {roles}: give a rule with roles, or none"
        )
    if unknown := [name for name in rule.roles if name not in own.roles]:
        raise ValueError(f"--series_rule: the student takes studies of the roles {roles}, not '{unknown[0]}'")


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Parse command-line arguments for a bundle ("--id value", "--id=value") as MONAI's command does.

    Args:
        words: the arguments.

    Returns:
        Values by id, of known settings with the type that they need, see `monai_rd.overrides`.

    Raises:
        ValueError: an argument is not such a pair, or a value does not fit its id.
    """
    pairs = dict(argument_pairs(words))
    read = {name: parsed(value) for name, value in pairs.items()}
    return {**read, **settled(read, pairs)}


def bundle_config(bundle: str, overrides: Mapping[str, Any]) -> Any:
    """Return a bundle's train.json with overrides applied, as MONAI's `ConfigParser`.

    Raises:
        OverrideError: see `overridden`.
    """
    return overridden(
        json.loads(Path(bundle_root(bundle), "configs", "train.json").read_text(encoding="utf-8")), overrides
    )


def argument_pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    """Split command-line arguments for a bundle ("--id value", "--id=value") into (id, value) pairs of strings.

    "-" in an id becomes "_".

    Raises:
        ValueError: an argument is not such a pair.
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
    """Check the settings of the config whose expression calls this function, and convert them to the types needed.

    Call it first in `initialize`: at that time MONAI has merged configs and overrides but evaluated nothing yet. Paths
    and names keep the spelling of the command line; see `monai_rd.overrides`.

    Args:
        name: name of the bundle.
        file: file name of the bundle's own config; ids that it reads are known even if an override replaced the
            expression that reads them.

    Raises:
        OverrideError: nothing in the config reads an id, or a value does not fit its id.
    """
    parser, entries = _calling_config()
    own = json.loads(Path(bundle_root(name), "configs", file).read_text(encoding="utf-8"))
    read = ids_read([parser.config, own])
    refuse_unread(unread_ids(parser.config, entries, own), read)
    for key, value in settled(parser.config, typed_arguments()).items():
        parser.config[key] = written(value)
    parser.parse(reset=True)


def _calling_config() -> tuple[Any, list[str]]:
    """Return the parser that evaluates the calling expression, and the ids that its workflow runs.

    MONAI gives an expression no access to its own config, so the parser is looked up in the call stack.
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
    """Prepare a training run; the first expression of `initialize`.

    Calls `explain_errors`, `check_overrides` and `keep_freed_memory`.

    Args:
        name: name of the bundle.
        file: file name of the bundle's own config.

    Raises:
        OverrideError: see `check_overrides`.
    """
    explain_errors()
    check_overrides(name, file)
    keep_freed_memory()


def explain_errors() -> None:
    """Install an exception hook that prints the original cause of a failed run last, and make the streams robust.

    MONAI wraps errors in a config as "Failed to evaluate ConfigExpression", with the cause many lines above. Errors
    that this package raises itself are printed without a traceback. See also `make_streams_robust`.
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
    """Return whether an error was raised by a `raise` statement of this package, with a message for users."""
    trace = error.__traceback__
    if not isinstance(error, (ValueError, OSError)) or trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    ours = str(trace.tb_frame.f_globals.get("__name__", "")).startswith("monai_rd")
    return ours and linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno).lstrip().startswith("raise")

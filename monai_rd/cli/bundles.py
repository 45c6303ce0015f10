"""`monai-rd train`, `evaluate` and `score`: short forms of MONAI's own command, which they print."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from monai_rd.bundle import argument_pairs, bundle_root, is_bundle, own_bundles
from monai_rd.nearest import did_you_mean
from monai_rd.overrides import OF_RUN, ids_read, refuse_unread, unread_ids

__all__ = ["evaluate", "score", "train"]

# Arguments follow without "--", unlike in commands with their own options: these are short forms of MONAI's command.
WORDS_FOLLOW = {"allow_extra_args": True, "ignore_unknown_options": True}
Bundle = Annotated[
    str,
    typer.Argument(
        metavar="BUNDLE --ID VALUE ...", help="Name or folder of a bundle, followed by ids and values of its config."
    ),
]


def train(context: typer.Context, bundle: Bundle) -> None:
    """Train a student, such as: train rd_ct --dataset_dir DIR --teacher NAME."""
    _run(bundle, ["train.json"], context.args, copies=True)


def evaluate(context: typer.Context, bundle: Bundle) -> None:
    """Evaluate the trained student again on the test set of its data."""
    _run(bundle, ["train.json", "evaluate.json"], context.args)


def score(context: typer.Context, bundle: Bundle) -> None:
    """Score the studies in a folder with the trained student, such as: score rd_ct --dataset_dir NEW_STUDIES."""
    _run(bundle, ["inference.json"], context.args)


def _found(bundle: str) -> Path:
    if is_bundle(Path(bundle)):
        return Path(bundle).resolve()
    try:
        return Path(bundle_root(bundle))
    except FileNotFoundError:
        known = sorted(path.parents[1].name for path in Path(bundle_root("rd_ct")).parent.glob("*/configs/train.json"))
        near = did_you_mean(bundle, known)
        raise ValueError(
            f"no bundle '{bundle}'{near}: there are {', '.join(known)}, or give a bundle's folder"
        ) from None


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _run(bundle: str, files: Sequence[str], words: Sequence[str], copies: bool = False) -> None:
    root = _found(bundle)
    _check([root / "configs" / file for file in files], words)
    if copies:
        root = _in_the_open(bundle, root)
    configs = [root / "configs" / file for file in files]
    if is_bundle(Path(bundle)):  # its name or place may differ from the config's default
        words = ["--bundle_root", str(root), *words]
    named = [_short(path) for path in configs]
    command = ["-m", "monai.bundle", "run", "--config_file", named[0] if len(named) == 1 else str(named), *words]
    print(shlex.join(["python", *command]), flush=True)
    code = subprocess.run([sys.executable, *command], check=False).returncode
    if code:
        raise typer.Exit(code)


def _in_the_open(bundle: str, root: Path) -> Path:
    """Copy a bundle of the installed package to ./bundles and return the copy; return a user's bundle as it is."""
    # Nobody looks for results inside the package; within a checkout the bundle there is meant.
    if is_bundle(Path(bundle)) or root.parent not in own_bundles() or root.is_relative_to(Path.cwd()):
        return root
    own = Path("bundles", root.name)
    shutil.copytree(root, own, ignore=shutil.ignore_patterns("__pycache__", "eval", "models"))
    print(f"copied the bundle to {own}, where the trained student will be")
    return own.resolve()


def _check(configs: Sequence[Path], words: Sequence[str]) -> None:
    """Check the arguments before MONAI and PyTorch are loaded; values are left to the config.

    Raises:
        ValueError: arguments other than "--ID VALUE", or an id that the config does not use.
    """
    typed = dict(argument_pairs(words))
    own = {key: value for path in configs for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
    new = {key: value for key, value in typed.items() if "#" not in key and key not in own}
    refuse_unread([key for key in unread_ids(new, own=own) if key not in OF_RUN], ids_read(own))

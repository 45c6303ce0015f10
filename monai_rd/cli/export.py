"""`monai-rd export`: exporting a trained student to TorchScript, ONNX, int8 ONNX, torch.export, Triton or TensorRT."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from monai_rd.console import Words, terminal

Formats = Annotated[
    list[str],
    typer.Option(
        "--format", help="torchscript, onnx, onnx-int8, torch.export, triton or tensorrt; several separated by commas."
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="A folder, or a file for a single format; by default the bundle's models folder.")
]


def export_command(
    bundle: Annotated[str, typer.Argument(help="Name of a bundle, such as rd_ct, or folder of a trained bundle.")],
    formats: Formats,
    words: Words = None,
    out: Out = None,
) -> None:
    """Export the trained student for other runtimes; arguments after -- are for the bundle, such as --dataset_dir DIR.

    The export is compared with PyTorch on the bundle's test images; exit code 1, and no file, if it differs.
    """
    from monai_rd.bundle import parse_overrides
    from monai_rd.export.formats import FORMATS, check_formats, export_formats
    from monai_rd.export.parity import IMAGES, TOLERANCE, parity, parity_table
    from monai_rd.inference import TrainedBundle

    names = list(dict.fromkeys(name.strip() for one in formats for name in one.split(",")))
    check_formats(names)
    trained = TrainedBundle(bundle, **parse_overrides(words or ()))
    targets = _targets(names, trained.model_path.parent if out is None else out)
    folder = next(iter(targets.values())).parent
    folder.mkdir(parents=True, exist_ok=True)
    # Written next to the target until it has been compared, so that an existing file is not replaced by a wrong one.
    with tempfile.TemporaryDirectory(dir=folder, prefix="export_") as place:
        made = export_formats(trained, names, Path(place))
        found = parity(trained, made, trained.images("test", IMAGES))
        images = f"{found['PyTorch'].images} {'phantoms' if trained.phantom else 'test images'}"
        terminal(width=120).print(parity_table(found, f"{trained.metadata['name']}, {trained.network.name}: {images}"))
        wrong = [name for name in names if FORMATS[name].exact and not found[name].difference <= TOLERANCE]
        if wrong:
            print(f"not written: {', '.join(wrong)} differs from PyTorch by more than {TOLERANCE:g}")
        for name in names:
            if name not in wrong:
                _put(made[name], targets[name])
                print(f"{name}: {targets[name]}")
    print(f"licences: {trained.licences['in_words']}")
    if wrong:
        raise typer.Exit(1)


def _put(made: Path, target: Path) -> None:
    """Move a file to its place; of a folder its files, so that others in the place stay."""
    for path in [one for one in (made, *made.rglob("*")) if one.is_file()]:
        to = target / path.relative_to(made)
        to.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, to)


def _targets(formats: list[str], out: Path) -> dict[str, Path]:
    """Return the file to write for each format.

    Raises:
        ValueError: one file for several formats.
    """
    from monai_rd.export.formats import FORMATS

    if out.is_dir() or not out.suffix:
        return {name: out / FORMATS[name].file for name in formats}
    if len(formats) > 1:
        raise ValueError(f"--out {out}: {len(formats)} formats need a folder")
    return {formats[0]: out}

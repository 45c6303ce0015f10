"""`monai-rd datalist`: making training, validation and test lists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monai_rd.cli.options import (
    Description,
    Key,
    Modality,
    Orientation,
    Per,
    Pick,
    Policies,
    Roles,
    policy_of,
    series_rule,
)


def datalist(
    dataset_dir: Annotated[Path, typer.Argument(help="Folder of the data.")],
    out: Annotated[Path, typer.Option(help="The JSON file to write; with --folds NAME_0.json, NAME_1.json, ...")],
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="CSV or Excel with the columns label and image, series or patient; by default class folders."
        ),
    ] = None,
    class_names: Annotated[
        str | None, typer.Option(help="Class names, comma-separated, in order, the positive one last.")
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Make k folds instead of one split.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    modality: Modality = None,
    description: Description = None,
    orientation: Orientation = None,
    pick: Pick = None,
    per: Per = None,
    roles: Roles = None,
    policy: Policies = None,
    key: Key = Path("monai_rd.key"),
) -> None:
    """Make a MONAI data list of a folder, split by patient and stratified by class; reports all problems at once."""
    from monai_rd.datasets.datalist import make_datalist, make_folds, write_datalist
    from monai_rd.pseudonyms import project_key

    names = None if class_names is None else [name.strip() for name in class_names.split(",")]
    rule, actions = series_rule(modality, description, orientation, pick, per, roles), policy_of(policy)
    secret = project_key(key)
    if folds is None:
        made = [
            make_datalist(dataset_dir, sheet, names, seed=seed, policy=actions, series_rule=rule, key=secret),
        ]
    else:
        made = make_folds(dataset_dir, folds, sheet, names, seed, actions, rule, secret)
    paths = [out] if folds is None else [out.with_name(f"{out.stem}_{n}{out.suffix}") for n in range(folds)]
    for one, path in zip(made, paths, strict=True):
        write_datalist(one, dataset_dir, path, secret)
        print(f"{path}: {one}")

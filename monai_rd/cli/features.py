"""`monai-rd features`: computing, verifying, listing and removing stored teacher features."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from monai_rd.console import Words
from monai_rd.files import size_in_words

app = typer.Typer(no_args_is_help=True)

_SAME = 0.999  # smallest cosine similarity between stored (half precision) and recomputed features

Bundle = Annotated[str, typer.Option(help="Name of the bundle whose train.json defines the training.")]
Directory = Annotated[Path, typer.Argument(help="The features_dir of a training, such as bundles/rd_ct/eval/features.")]


def _extraction(bundle: str, words: list[str]) -> Any:
    """Build a bundle's training set, teacher and feature store as a training would."""
    from monai_rd.bundle import bundle_config, parse_overrides

    parser = bundle_config(bundle, parse_overrides(words))
    if not parser.get_parsed_content("feature_views"):
        raise ValueError("give the number of views after --, as in: -- --feature_views 8 --dataset_dir DIR")
    parser["train#taught#_target_"] = "monai_rd.cache.FeatureExtractor"
    if parser.get_parsed_content("teacher_network") is None:
        raise ValueError("the method needs no teacher: there is nothing to compute")
    return parser.get_parsed_content("train#taught")


def _numbers(shard: str) -> tuple[int, int]:
    """Read `--shard`, such as 2/4."""
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", shard)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"--shard {shard}: give the number of the shard and how many there are, from 1/4 to 4/4")
    return int(found[1]), int(found[2])


@app.command()
def fill(
    words: Words = None,
    bundle: Bundle = "rd_ct",
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Compute one of N parts that need no locks; start all, from 1/N to N/N.")
    ] = "1/1",
) -> None:
    """Compute the teacher's features for a training; arguments after -- are those of the training.

    Several processes may run at once, each on its own GPU, and each may be stopped and started again.
    They share the work by locks, or by --shard if the disk has none.
    """
    numbers = _numbers(shard)
    extraction = _extraction(bundle, words or [])
    extraction.fill(numbers)
    keys, views = extraction.views.keys, extraction.views.views
    there = sum(key in extraction.store for key in keys)
    print(f"{extraction.store.folder}: {there} of {len(keys)} training items, {views} views each")


@app.command()
def verify(
    words: Words = None,
    bundle: Bundle = "rd_ct",
    sample: Annotated[
        int, typer.Option(min=1, help="Number of views for which the teacher's features are recomputed.")
    ] = 64,
) -> None:
    """Compare the stored features with their checksums, and a sample with the teacher; exit code 1 if any differ."""
    extraction = _extraction(bundle, words or [])
    found = extraction.verify(sample)
    print(f"{extraction.store.folder}: {len(extraction.store)} items, {extraction.views.views} views each")
    print(f"{found.missing} of {len(extraction.views.keys)} training items are not there")
    print(f"{found.damaged} damaged files were removed; fill computes them again")
    if found.views:
        print(
            f"{found.views} views computed again: largest difference of a value {found.difference:.3g}, smallest "
            f"cosine {found.cosine:.6f}"
        )
    if found.missing or found.damaged or not found.cosine >= _SAME:
        raise typer.Exit(1)


@app.command()
def info(directory: Directory) -> None:
    """List the feature stores in a folder."""
    from monai_rd.cache.feature_store import list_stores

    for one in list_stores(directory):
        print(
            f"{one.folder.name}  teacher {one.notes['teacher']}, {one.items} items, {one.views} views each, "
            f"{size_in_words(one.bytes)}"
        )


@app.command()
def clear(directory: Directory) -> None:
    """Remove all feature stores in a folder; a training that needs them computes them again."""
    from monai_rd.cache.feature_store import clear_stores, list_stores

    stores = list_stores(directory)
    clear_stores(stores)
    print(f"{len(stores)} stores removed, {size_in_words(sum(one.bytes for one in stores))}")

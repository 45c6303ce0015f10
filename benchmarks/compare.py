"""Two settings against each other in finished runs of `monai-rd benchmark`, paired by seed and image.

    python benchmarks/compare.py benchmarks/results/covid_ct "feature_views=8" ""
    python benchmarks/compare.py benchmarks/results/covid_ct "method=rd" "method=ce"
    python benchmarks/compare.py FOLDER,ANOTHER "amp=true" ""

A setting is any of those that `run.json` tells of a training, words for the bundle among them; what the first names
and the second does not is one that the second's trainings do not have. All else must be equal: each line is one such
set of trainings, with the seeds that both have.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from monai_rd.protocol.runs import read_result
from monai_rd.protocol.statistics import compare, image_values
from monai_rd.protocol.summary import COMPARED
from monai_rd.protocol.tables import estimate_text, number_text, p_text

Settings = tuple[tuple[str, str], ...]
Values = dict[int, dict[str, np.ndarray]]  # by seed, then by measure: of every image


def settings(run: Mapping[str, Any]) -> dict[str, str]:
    """What a run says of its training, as texts by name, words for the bundle among them; nothing of what is empty."""
    words = [word.removeprefix("--") for word in run["words"]]
    named = {**run, **dict(zip(words[::2], words[1::2], strict=True)), "words": None}
    texts = {n: v if isinstance(v, str) else json.dumps(v, separators=(",", ":")) for n, v in named.items()}
    return {name: text for name, text in texts.items() if text not in ("null", "{}")}


def found(folders: Sequence[Path], wanted: Mapping[str, str], names: set[str]) -> dict[Settings, Values]:
    """What the runs with these settings and no others of these names left, by the rest of their settings.

    Raises:
        ValueError: two runs differ by their teacher alone, which is not among the rest: cross entropy has none.
    """
    runs: dict[Settings, Values] = defaultdict(dict)
    for path in sorted(path for folder in folders for path in folder.glob("runs/*/run.json")):
        known = settings(json.loads(path.read_text())["cell"])
        if any(known.get(name) != wanted.get(name) for name in names):
            continue
        rest = tuple(sorted((n, v) for n, v in known.items() if n not in {*names, "seed", "teacher"}))
        seed = int(known["seed"])
        if seed in runs[rest]:
            raise ValueError(f"{path.parent}: another run has another teacher alone; add teacher={known['teacher']}")
        arrays = read_result(path.parent)[1]
        probabilities, labels = arrays["probabilities"], arrays["labels"]
        values = image_values(probabilities[None], labels)
        runs[rest][seed] = {name: each[0] for name, each in values.items()}
    return runs


def together(*sides: Mapping[Settings, Values]) -> list[dict[Settings, Values]]:
    """Put the seeds in one set whose data lists differ because each seed draws its own share of the labels."""

    def without_list(key: Settings) -> Settings:
        return tuple(pair for pair in key if pair[0] != "data_list")

    lists: dict[tuple[Settings, int], set[Settings]] = defaultdict(set)
    for runs in sides:
        for key, by_seed in runs.items():
            for seed in by_seed:
                lists[without_list(key), seed].add(key)
    several = {rest for (rest, _), keys in lists.items() if len(keys) > 1}  # several shares: each a set of its own
    joined: list[dict[Settings, Values]] = [defaultdict(dict) for _ in sides]
    for one, runs in zip(joined, sides, strict=True):
        for key, by_seed in runs.items():
            one[key if without_list(key) in several else without_list(key)] |= by_seed
    return joined


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", help="--out of monai-rd benchmark, or what is kept of it; several with commas")
    parser.add_argument("first", help='such as "method=rd feature_views=8"')
    parser.add_argument("second", help='such as "method=rd"')
    options = parser.parse_args()
    first, second = (dict(pair.split("=", 1) for pair in text.split()) for text in (options.first, options.second))
    folders = [Path(one) for one in options.folders.split(",")]
    ours, theirs = together(*(found(folders, one, {*first, *second}) for one in (first, second)))
    pairs = {key: sorted(ours[key].keys() & theirs[key].keys()) for key in ours.keys() & theirs.keys()}
    pairs = {key: seeds for key, seeds in sorted(pairs.items()) if seeds}
    if not pairs:
        parser.error(f"{options.folders}: no two runs differ by this alone")
    names = dict.fromkeys(name for key in pairs for name, _ in key)
    told = [name for name in names if len({dict(key).get(name) for key in pairs}) > 1]
    table = Table(*told, "seeds", "measure", options.first, options.second or "without", "difference", "p")
    for key, seeds in pairs.items():
        for name in COMPARED:
            one, other = (np.stack([runs[key][seed][name] for seed in seeds]) for runs in (ours, theirs))
            difference = compare(one, other)
            means = (_of_seeds(name, values) for values in (one, other))
            text = estimate_text(name, difference.estimate, "+").replace("[", "\\[")
            table.add_row(
                *(dict(key).get(n, "") for n in told), str(len(seeds)), name, *means, text, p_text(difference.p)
            )
    Console(width=170).print(table)


def _of_seeds(name: str, values: np.ndarray) -> str:
    means = values.mean(axis=1)
    spread = f" ± {number_text(name, means.std(ddof=1))}" if len(means) > 1 else ""
    return f"{number_text(name, means.mean())}{spread}"


if __name__ == "__main__":
    main()

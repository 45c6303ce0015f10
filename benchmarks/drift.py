"""False alarms and changes found by `monai-rd drift`, on the predictions of a trained student.

    python benchmarks/drift.py phantoms FOLDER
    python benchmarks/drift.py runs benchmarks/results/unlabelled/cxr/runs

`phantoms` draws chest CT phantoms, trains a student with 120 of them as its validation set, scores 400 others, and
once more after a change: another scanner in the header, brighter images, more noise. Weeks of 50 studies are drawn from
these predictions (with replacement): years in which nothing changes, and three weeks from a change on. `runs` does so
with the predictions that trainings left: weeks of validation images, and of images of the published test set.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom
from scipy.ndimage import gaussian_filter

from monai_rd.drift import Finding, Reference, Week, compare
from monai_rd.inference import Decision, Prediction, Predictor, TrainedBundle, read_scores
from monai_rd.phantoms import ct
from monai_rd.phantoms.writing import Identity, write_chest_ct
from monai_rd.proportions import wilson

ROOT = Path(__file__).parents[1]
YEARS, STREAMS, STUDIES, WEEKS = 100, 50, 50, 52
SPLITS = {"training": 40, "validation": 120, "test": 40}
POOL = 400
SEED = 7
SETTINGS = {"max_epochs": 20, "image_size": 64, "slices": 4, "batch_size": 8, "seed": 0, "report_page": False}
Draw = Callable[[np.random.Generator], list[Prediction]]
References = dict[str, Callable[[np.random.Generator], Reference]]


def main() -> None:
    """Print tables of false alarms and of changes found."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=("phantoms", "runs"))
    arguments.add_argument("folder", type=Path)
    given = arguments.parse_args()
    (phantoms if given.what == "phantoms" else runs)(given.folder)


# ----------------------------------------------------------------------------------------------------------- phantoms


def phantoms(folder: Path) -> None:
    """Train and score once (kept in the folder), then draw streams."""
    if not (folder / "models" / "reference.json").is_file():
        _train(folder)
    predictor = Predictor(TrainedBundle(str(ROOT / "bundles" / "rd_ct"), bundle_root=str(folder)))
    reference = Reference.read(folder / "models" / "reference.json")
    scored = {name: _scored(predictor, folder, name) for name in CHANGES}
    usual = scored["as before"]
    labels = [ct.CLASS_NAMES[n % 2] for n in range(POOL)]
    ill = [one for one, label in zip(usual, labels, strict=True) if label == "opacity"]
    well = [one for one, label in zip(usual, labels, strict=True) if label == "clear"]
    known: References = {f"{reference.source}, {reference.studies}": lambda _: reference}
    _false_alarms(usual, {**known, **_drawn_anew(usual, 40, 120, 400)})
    streams = {name: _mixed((found, 1.0)) for name, found in scored.items() if found is not usual}
    for name in ("scanner: another name and kernel, 5 mm", "values: 60 HU more"):
        streams[f"{name}, in half of the studies"] = _mixed((scored[name], 0.5), (usual, 0.5))
    for share in (0.1, 0.3, 0.7, 0.9):
        streams[f"case mix: opacity in {share:.0%} instead of 50 %"] = _mixed((ill, share), (well, 1 - share))
    _found(streams, {**known, **_drawn_anew(usual, 40, 120, 400)})


def _brighter(volume: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return volume + 60


def _noisier(volume: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return volume + gaussian_filter(random.normal(size=volume.shape), (0, 0.7, 0.7)) * 120


CHANGES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray] | None] = {
    "as before": None,
    "scanner: another name and kernel, 5 mm": None,
    "values: 60 HU more": _brighter,
    "noise: about twice as much": _noisier,
}


def _train(folder: Path) -> None:
    rows = [("image", "label", "patient", "split")]
    splits = [name for name, count in SPLITS.items() for _ in range(count)]
    (folder / "data").mkdir(parents=True)
    for number, split in enumerate(splits):
        label = ct.CLASS_NAMES[number % 2]
        _write(folder / "data" / f"study_{number}", SEED, number, label, "as before")
        rows.append((f"study_{number}", label, f"P{number}", split))
    with open(folder / "data" / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    config = ROOT / "bundles" / "rd_ct" / "configs" / "train.json"
    words = {"bundle_root": folder, "dataset_dir": folder / "data", **SETTINGS}
    options = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    subprocess.run([sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config), *options], check=True)


def _scored(predictor: Predictor, folder: Path, name: str) -> list[Prediction]:
    """Draw the studies with a change and score them, if there are no scores; in the order of their numbers."""
    scores = folder / f"scores {list(CHANGES).index(name)}.csv"
    if not scores.is_file():
        with TemporaryDirectory(dir=folder) as drawn:
            for number in range(POOL):
                _write(Path(drawn) / f"study_{number}", SEED + 1, number, ct.CLASS_NAMES[number % 2], name)
            print(predictor.write(predictor(drawn), scores), flush=True)
    order = {str(Identity("CT", ct.VERSION, SEED + 1, number).uid("series")): number for number in range(POOL)}
    return sorted(read_scores(scores), key=lambda one: order[one.series])


def _write(path: Path, seed: int, number: int, label: str, name: str) -> None:
    random = np.random.default_rng([seed, number])
    volume = ct.draw_study(random, label).image
    change = CHANGES[name]
    if change is not None:
        volume = np.clip(change(volume.astype(np.float32), random), -1024, 3071).astype(np.int16)
    write_chest_ct(path, Identity("CT", ct.VERSION, seed, number), volume, ct.PIXEL_MM, ct.SLICE_MM)
    told: dict[str, str | int] = {"Manufacturer": "Maker A", "ConvolutionKernel": "B30f"}
    if name.startswith("scanner"):
        told = {"Manufacturer": "Maker B", "ConvolutionKernel": "Br40d", "SliceThickness": 5}
    for file in path.iterdir():
        dataset = pydicom.dcmread(file)
        for keyword, value in told.items():
            setattr(dataset, keyword, value)
        dataset.save_as(file)


# --------------------------------------------------------------------------------------------------------------- runs


def runs(folder: Path) -> None:
    """Count the runs with an alarm, for references of two sizes out of the validation set, each with its decision."""
    alarms: Counter[tuple[str, int]] = Counter()
    count = 0
    for file in sorted(folder.glob("*/predictions.npz")):
        kept = np.load(file)
        if "validation_labels" not in kept:
            continue
        count += 1
        random = np.random.default_rng(count)
        labels, test = kept["validation_labels"], kept["labels"]
        decision = Decision.fit(kept["validation_probabilities"], labels)
        old, new = (_predictions(kept[name], decision) for name in ("validation_probabilities", "probabilities"))
        places, half = random.permutation(len(old)), len(old) // 2
        rest = places[half:]
        usual, ill = [old[place] for place in rest], labels[rest] == 1
        by_class = [[one for one, is_ill in zip(usual, ill, strict=True) if is_ill == which] for which in (False, True)]
        share = float((test == 1).mean())
        streams = {
            "a year of the other validation images": [_mixed((usual, 1.0))] * WEEKS,
            "3 weeks of these, the classes as often as in the test set": [
                _mixed((by_class[1], share), (by_class[0], 1 - share))
            ]
            * 3,
            "3 weeks of test images": [_mixed((new, 1.0))] * 3,
            "13 weeks of test images": [_mixed((new, 1.0))] * 13,
        }
        for size in (120, half):
            reference = Reference.of([old[place] for place in places[:size]], "", "validation set")
            for name, weeks in streams.items():
                alarms[name, size] += bool(compare(reference, _stream(random, weeks)))
    print(f"Runs with an alarm, of {count}\n\n| stream | reference | runs |\n|---|---|---|")
    for (name, size), found in alarms.items():
        print(f"| {name} | {size} | {found} |")


def _predictions(probabilities: np.ndarray, decision: Decision) -> list[Prediction]:
    names = [f"class {index}" for index in range(probabilities.shape[1])]
    return [Prediction("").answered(row, names, False, "", [], decision) for row in probabilities.tolist()]


# ------------------------------------------------------------------------------------------------------------ streams


def _mixed(*parts: tuple[Sequence[Prediction], float]) -> Draw:
    """Return a function that draws a week, each study from a part with its share."""

    def draw(random: np.random.Generator) -> list[Prediction]:
        counts = random.multinomial(STUDIES, [share for _, share in parts])
        return [
            pool[place]
            for (pool, _), count in zip(parts, counts, strict=True)
            for place in random.integers(len(pool), size=count)
        ]

    return draw


def _stream(random: np.random.Generator, weeks: Sequence[Draw]) -> list[Week]:
    return [Week(date(2026, 1, 5) + timedelta(7 * n), draw(random)) for n, draw in enumerate(weeks)]


def _drawn_anew(pool: Sequence[Prediction], *counts: int) -> References:
    """Return references of these sizes, drawn anew for each stream."""

    def anew(count: int) -> Callable[[np.random.Generator], Reference]:
        return lambda random: Reference.of([pool[n] for n in random.integers(len(pool), size=count)], "", "")

    return {f"drawn anew, {count}": anew(count) for count in counts}


def _false_alarms(pool: Sequence[Prediction], references: References) -> None:
    print(f"\nYears of {WEEKS} weeks of {STUDIES} studies in which nothing changes\n")
    print("| reference, studies | years | with an alarm | share, 95 % interval |\n|---|---|---|---|")
    for name, reference in references.items():
        random = np.random.default_rng(0)
        wrong = sum(
            bool(compare(reference(random), _stream(random, [_mixed((pool, 1.0))] * WEEKS))) for _ in range(YEARS)
        )
        low, high = wilson(wrong, YEARS)
        print(f"| {name} | {YEARS} | {wrong} | {wrong / YEARS:.2f} ({low:.2f}-{high:.2f}) |", flush=True)


def _found(streams: dict[str, Draw], references: References) -> None:
    print(f"\nFound within 1, 2, 3 weeks of {STUDIES} studies from a change on ({STREAMS} streams), and what was named")
    print("\n| change | reference | 1 | 2 | 3 | named first, most often |\n|---|---|---|---|---|---|")
    for name, draw in streams.items():
        for of, reference in references.items():
            random = np.random.default_rng(1)
            found = [compare(reference(random), _stream(random, [draw] * 3)) for _ in range(STREAMS)]
            shares = [_by_week(found, weeks) for weeks in (1, 2, 3)]
            named = Counter(one[0].statistic for one in found if one)
            told = ", ".join(f"{what} {count / STREAMS:.0%}" for what, count in named.most_common(3))
            print(f"| {name} | {of} | {' | '.join(f'{share:.2f}' for share in shares)} | {told} |", flush=True)


def _by_week(found: Sequence[Sequence[Finding]], weeks: int) -> float:
    last = date(2026, 1, 5) + timedelta(7 * (weeks - 1))
    return float(np.mean([any(one.monday <= last for one in each) for each in found]))


if __name__ == "__main__":
    main()

"""Which way to deal with classes of unequal frequency: RD with each of them on the shares of ISIC 2018's seven classes.

    python benchmarks/skewed.py OUT
    python benchmarks/skewed.py OUT --seeds 10 --methods rd,sampling -- --learning_rate 0.003

draws dermoscopy phantoms into OUT/data, 67 % of them nevi and 1.1 % dermatofibromas in each split, and runs `monai-rd
benchmark skewed` on them: `skewed.md` and the files beside it in OUT have the balanced accuracy, the ROC AUC (mean over
classes, each against the rest), the accuracy, and the differences between RD as it is and each of the other rows,
paired by seed and image. The data are the same for every seed. A stopped run goes on with the same command; another
number of images needs another OUT. What follows `--` is for the bundle.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import subprocess
import sys
from pathlib import Path

from monai_rd.files import atomic_path
from monai_rd.phantoms import derm

# Training images of ISIC 2018 Task 3 (HAM10000, Tschandl et al. 2018), 10015 in all.
COUNTS = {"MEL": 1113, "NV": 6705, "BCC": 514, "AKIEC": 327, "BKL": 1099, "DF": 115, "VASC": 142}


def counts_of(images: int) -> dict[str, int]:
    """Return the number of images of each class in a split of about this many, at least one of each."""
    return {name: max(round(images * count / sum(COUNTS.values())), 1) for name, count in COUNTS.items()}


def draw(folder: Path, splits: dict[str, int], seed: int = 0) -> None:
    """Draw the phantoms of all splits with a `labels.csv`, which is written last: a folder that has it is complete.

    Raises:
        ValueError: the folder has other numbers of images.
    """
    wanted = [
        (split, name) for split, images in splits.items() for name, n in counts_of(images).items() for _ in range(n)
    ]
    sheet, rows = folder / "labels.csv", []
    if sheet.is_file():
        with open(sheet, newline="") as file:
            if [(row["split"], row["label"]) for row in csv.DictReader(file)] != wanted:
                raise ValueError(f"{folder} has other numbers of images: give another OUT")
        return
    folder.mkdir(parents=True, exist_ok=True)
    for number, (split, name) in enumerate(wanted):
        rows.append((f"study_{number:05d}{derm.SUFFIX}", name, f"PHANTOM-{number:05d}", split))
        derm.write_study(folder / rows[-1][0], name, seed, number)
    with atomic_path(sheet) as beside, open(beside, "w", newline="") as file:
        csv.writer(file).writerows([("image", "label", "patient", "split"), *rows])


def main() -> int:
    """Draw the data and run the benchmark; gives its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    for split, images in (("training", 700), ("validation", 300), ("test", 1500)):
        parser.add_argument(f"--{split}", type=int, default=images, help=f"images of the {split} set, about")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--max-epochs", type=int, default=20)
    parser.add_argument("--methods", default="", help="rows, comma-separated; by default all that suit the data")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    own = sys.argv[1:]
    place = own.index("--") if "--" in own else len(own)
    given, words = parser.parse_args(own[:place]), own[place + 1 :]
    data = given.out / "data"
    draw(data, {split: getattr(given, split) for split in ("training", "validation", "test")})
    command = ["benchmark", "skewed", "--dataset", str(data), "--bundle", "rd_derm", "--out", str(given.out)]
    command += ["--seeds", str(given.seeds), "--max-epochs", str(given.max_epochs), "--jobs", str(given.jobs)]
    command += ["--methods", given.methods] if given.methods else []
    # A phantom in a few thousand is overexposed as a whole, of which no colour constancy can be computed.
    skipped = ["--policy", "{'EMPTY_IMAGE': 'skip'}"]
    command += ["--", "--image_size", "64", "--batch_size", "32", *skipped, *words]
    print(f"monai-rd {shlex.join(command)}", flush=True)
    return subprocess.run([sys.executable, "-m", "monai_rd", *command], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

"""RD against the same student trained with cross entropy alone, over seeds, by the bundle's own command.

    python benchmarks/rd_vs_ce.py                                            # the phantoms of the default run
    python benchmarks/rd_vs_ce.py --bundle rd_mr                             # those of another bundle
    python benchmarks/rd_vs_ce.py --seeds 3 -- --dataset_dir COVID-CT --teacher mobilenet_v2.tflite --max_epochs 30

Every cell (method, seed) is one run of the bundle's `train.json`; a finished cell is not run again, so a
stopped benchmark goes on where it stopped. Both methods share seed, initial weights, data and recipe. Printed: the test
metrics of every cell, mean and standard deviation over seeds, and the paired difference RD - CE with its 95 % interval
(Student's t over seeds). Words after `--` go to the bundle.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student_t

from monai_rd.bundle import bundle_root
from monai_rd.data import phantom_cohort

METRICS = ("accuracy", "roc_auc", "sensitivity", "specificity")


def run_cell(folder: Path, bundle: str, method: str, seed: int, words: list[str]) -> dict:
    """Run one training, or read what it gave before."""
    result = folder / "metrics.json"
    if not result.is_file():
        began = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "monai.bundle",
            "run",
            "--config_file",
            f"{bundle_root(bundle)}/configs/train.json",
        ]
        command += [
            "--bundle_root",
            str(folder),
            "--output_dir",
            str(folder),
            "--method",
            method,
            "--seed",
            str(seed),
            *words,
        ]
        with open(folder.with_suffix(".log"), "w") as log:
            subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)
        print(f"{method} seed {seed}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return json.loads(result.read_text())["test"]


def main() -> None:
    """Run the grid and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="rd_ct")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("bundle_words", nargs=argparse.REMAINDER, help="after --: overrides for the bundle")
    arguments = parser.parse_args()
    words = [word for word in arguments.bundle_words if word != "--"]
    bundle, output = arguments.bundle, arguments.output.resolve()
    folder = output / f"{bundle}_{hashlib.sha256(' '.join(words).encode()).hexdigest()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "words.json").write_text(json.dumps(words))
    cohort = [] if "--dataset_dir" in words else ["--dataset_dir", phantom_cohort(output, bundle.removeprefix("rd_"))]

    rows: dict[str, list[dict]] = {"CE alone": [], "RD": [], "RD's reprogrammed teacher": []}
    for seed in range(arguments.seeds):
        for method, name in (("ce", "CE alone"), ("rd", "RD")):
            cell = run_cell(folder / f"{method}_{seed}", bundle, method, seed, words + cohort)
            rows[name].append(cell["student"])
            if method == "rd":
                rows["RD's reprogrammed teacher"].append(cell["reprogrammed teacher"])

    def values(name: str, metric: str) -> np.ndarray:
        return np.array([cell[metric]["value"] for cell in rows[name]])

    n, test = arguments.seeds, rows["RD"][0]["n"]
    machine = f"{platform.machine()}, {os.cpu_count()} CPU cores, torch {torch.__version__}"
    print(f"\nn = {n} seeds, {test} test studies; {machine}")
    print(f"{bundle}, bundle words: {' '.join(words) or '(none)'}\n")
    shown = [metric for metric in METRICS if metric in rows["RD"][0]]
    print("| | " + " | ".join(shown) + " |\n" + "|---" * (len(shown) + 1) + "|")
    for name in rows:
        cells = [f"{values(name, m).mean():.3f} ± {values(name, m).std(ddof=1) if n > 1 else 0:.3f}" for m in shown]
        print(f"| {name} | " + " | ".join(cells) + " |")
    cells = []
    for metric in shown:
        difference = values("RD", metric) - values("CE alone", metric)
        half = student_t.ppf(0.975, n - 1) * difference.std(ddof=1) / np.sqrt(n) if n > 1 else float("nan")
        cells.append(f"{difference.mean():+.3f} [{difference.mean() - half:+.3f}, {difference.mean() + half:+.3f}]")
    print("| RD - CE, paired, 95 % interval | " + " | ".join(cells) + " |\n")
    for metric in ("accuracy", "roc_auc"):
        for name in rows:
            print(f"{metric} of {name} by seed: " + " ".join(f"{v:.3f}" for v in values(name, metric)))


if __name__ == "__main__":
    main()

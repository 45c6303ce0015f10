"""The pointing game on phantoms: does the hottest point of the picture of where a student looked lie in the finding?

    python benchmarks/pointing.py rd_ct --bundle_root DIR

DIR is the folder of a training on phantoms. Of each test study whose class has a finding and was said rightly, the
slice that the picture shows is explained as the picture does it (`explain` with `grad_cam_level`), by occlusion, and by
Grad-CAM of the last map and the two before it, however coarse. Hit: the hottest point lies in the
finding as drawn, without a margin. Chance is the share of the slice that the finding fills, its mean over the studies.
Slices that do not show the finding are counted as misses. In brackets the 95 % interval (Wilson).
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from monai_rd.inference import Predictor, TrainedBundle
from monai_rd.phantoms.cohort import MODALITIES
from monai_rd.proportions import wilson
from monai_rd.report.explaining import explain, grad_cam_level


def main() -> None:
    """Print a row of the table for each bundle."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("bundle")
    arguments.add_argument("--bundle_root", type=Path, required=True)
    arguments.add_argument("--studies", type=int, help="at most so many; default: all")
    given = arguments.parse_args()
    hits, shares = game(given.bundle, given.bundle_root, given.studies)
    print("| bundle | n | chance | " + " | ".join(hits) + " |\n|" + "---|" * (len(hits) + 3))
    cells = [f"{sum(each)}: {rate(each)}" for each in hits.values()]
    print(f"| `{given.bundle}` | {len(shares)} | {np.mean(shares):.3f} | {' | '.join(cells)} |")


def rate(hits: list[bool]) -> str:
    """Return a hit rate with its interval."""
    low, high = wilson(sum(hits), len(hits))
    return f"{np.mean(hits):.3f} [{low:.3f}, {high:.3f}]"


def game(bundle: str, root: Path, most: int | None) -> tuple[dict[str, list[bool]], list[float]]:
    """Return whether each study was hit, by way of explaining, and the share of its slice that the finding fills."""
    classifier = Predictor(TrainedBundle(bundle, bundle_root=str(root), device="cpu")).classifier
    network: Any = classifier.network
    names = list(classifier.class_names)
    hits: dict[str, list[bool]] = {}
    shares: list[float] = []
    for source, label, place in studies(root, bundle.removeprefix("rd_")):
        if most is not None and len(shares) >= most:
            break
        image = classifier.prepare({"image": source})["image"].as_subclass(Tensor)[None]
        level = grad_cam_level(network, image)
        found = explain(network, image, level)
        if names[found.chosen] != label:
            continue
        drawn = place[int((found.place + 0.5) * len(place) / image.shape[1])]  # as `SliceStackd` takes slices
        mask = F.interpolate(torch.as_tensor(drawn)[None, None].float(), size=image.shape[-2:], mode="area")[0, 0] > 0.5
        shares.append(float(mask.float().mean()))
        ways = [found, *([] if level is None else [explain(network, image, None)])]
        ways += [explain(network, image, one) for one in network.levels[:-4:-1]]
        for number, one in enumerate(ways):
            way = f"{'' if number else 'as shown: '}{one.method}, {' x '.join(map(str, one.grid))}"
            hits.setdefault(way, []).append(bool(mask.flatten()[int(one.heat.argmax())]))
    return hits, shares


def studies(root: Path, modality: str) -> Iterator[tuple[str | list[str], str, NDArray[np.bool_]]]:
    """Yield each test study with a finding: its file or files, its class, and where its finding is, by slice."""
    kind: Any = MODALITIES[modality]
    (cohort,) = sorted((root / "eval").glob(f"phantoms_{modality}_*[0-9]"))
    seed = int(cohort.name.rpartition("_")[2])
    with open(cohort / "labels.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    for row in rows:
        random = np.random.default_rng([seed, int(row["patient"].removeprefix("PHANTOM-"))])
        options: tuple[int, ...] = ()
        if modality == "us":  # as its `write_study` draws the number of frames
            options = (int(random.integers(3, 6)) if random.random() < 1 / 3 else 1,)
        place = kind.draw_study(random, row["label"], *options).place
        path = cohort / row["image"]
        if place.any():
            yield sorted(map(str, path.iterdir())) if path.is_dir() else str(path), row["label"], place


if __name__ == "__main__":
    main()

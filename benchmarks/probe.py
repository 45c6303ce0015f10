"""What teachers know of a data set: a logistic probe of their features, on the validation images.

    python benchmarks/probe.py COVID-CT --teacher timm:tf_efficientnet_lite0 LITE0.safetensors "{}" \
        --teacher timm:resnet152 ASTRA.safetensors "{'mean': 0, 'std': 1, 'tap': 'layer3'}"

A teacher that knows no more than a student finds out alone has nothing to hand over, so this is worth a look before a
training. Features are averaged over positions and slices and standardised by those of the labelled images; the probe is
scikit-learn's logistic regression. Labels are drawn as `monai-rd benchmark unlabelled` draws them. All teachers come
last, side by side. The test images are not read.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from monai_rd.bundle import bundle_config
from monai_rd.datasets import DataList
from monai_rd.networks import FrozenFoundationModel, Reads, load_teacher
from monai_rd.protocol.experiments import SPLIT_SEED, part_of

_STRENGTH = 0.01  # C of the regression


def pooled(items: Sequence[Mapping[str, Any]], transform: Any, teacher: FrozenFoundationModel) -> np.ndarray:
    """Features `[N, C]` of the items as validation shows them."""
    found = []
    for item in items:
        image = transform(dict(item))["image"].as_subclass(torch.Tensor)
        with torch.inference_mode():
            features = teacher.read(image[None], Reads(pooled=True)).pooled
        assert features is not None
        found.append(features[0].float().numpy())
    return np.stack(found)


def areas(data: DataList, share: float, draws: int, known: Mapping[str, np.ndarray], held: np.ndarray) -> list[float]:
    """ROC AUC on the validation images of probes of `draws` draws of the labels."""
    truth, found = np.array([item["label"] for item in data.validation]), []
    for seed in range(draws if share < 1 else 1):
        chosen = part_of(data, share, seed, labels=True).training
        features = np.stack([known[str(item["image"])] for item in chosen])
        mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-3
        probe = LogisticRegression(C=_STRENGTH, max_iter=500)
        probe.fit((features - mean) / deviation, [item["label"] for item in chosen])
        p = probe.predict_proba((held - mean) / deviation)
        two = len(data.class_names) == 2
        found.append(float(roc_auc_score(truth, p[:, 1] if two else p, multi_class="ovr")))
    return found


def main() -> None:
    """Read the words, look at the images, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--bundle", default="rd_ct")
    parser.add_argument("--data-list")
    parser.add_argument("--teacher", nargs=3, action="append", required=True, metavar=("NAME", "FILE", "OPTIONS"))
    parser.add_argument("--size", type=int, default=224, help="rows and columns of the images")
    parser.add_argument("--shares", default="0.25,1", help="of the labels")
    parser.add_argument("--draws", type=int, default=5)
    words = parser.parse_args()
    wanted = {"dataset_dir": words.dataset, "data_list": words.data_list, "method": "ce", "seed": SPLIT_SEED}
    config = bundle_config(words.bundle, {**wanted, "image_size": words.size, "unlabelled": None})
    data: DataList = config.get_parsed_content("data")
    transform = config.get_parsed_content("validate#preprocessing")
    shares = [float(text) for text in words.shares.split(",")]
    table = Table(
        "teacher",
        *(f"{share:.0%} of the labels" for share in shares),
        title=f"ROC AUC, validation images; {words.draws} draws of the labels",
    )
    known, held = [], []
    names = []
    for name, file, options in words.teacher:
        teacher = load_teacher(name, file or None, options=ast.literal_eval(options))
        known.append(pooled(data.training, transform, teacher))
        held.append(pooled(data.validation, transform, teacher))
        names.append(teacher.name)
    every = list(zip(names, known, held, strict=True))
    if len(every) > 1:
        every.append(("all, side by side", np.concatenate(known, axis=1), np.concatenate(held, axis=1)))
    for name, ours, theirs in every:
        by_image = dict(zip((str(item["image"]) for item in data.training), ours, strict=True))
        cells = []
        for share in shares:
            found = areas(data, share, words.draws, by_image, theirs)
            spread = f" ± {np.std(found, ddof=1):.3f}" if len(found) > 1 else ""
            cells.append(f"{np.mean(found):.3f}{spread}")
        table.add_row(name, *cells)
    Console().print(f"{len(data.training)} training images, {len(data.validation)} validation images")
    Console().print(table)


if __name__ == "__main__":
    main()

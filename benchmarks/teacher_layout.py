"""How much faster teachers of images answer in the channels-last layout, which they are given, than in PyTorch's own.

    python benchmarks/teacher_layout.py                  # two minutes
    python benchmarks/teacher_layout.py --threads 1 --rounds 3 --networks densenet121

Their weights are random.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from functools import partial

import timm
import torch
from parts import pictures
from rich.console import Console
from rich.table import Table
from timing import arguments, in_turn, machine, middle, ratios

NETWORKS = ["tf_efficientnet_lite0", "densenet121", "resnet50", "resnet152", "vit_base_patch16_224"]


def main() -> None:
    """Time and print."""
    parser = arguments(__doc__, rounds=7, size=224)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="names of timm")
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    images = pictures(options.batch, options.size)
    title = f"{options.batch} images of {options.size} pixels, n = {options.rounds} rounds"
    table = Table(
        "network", "contiguous, s", "channels last, s", "times as fast", "largest difference of features", title=title
    )
    for name in options.networks:
        plain = timm.create_model(name, num_classes=0).eval()
        other = deepcopy(plain).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            difference = float((plain(images) - other(images)).abs().max())
            taken = in_turn({"plain": partial(plain, images), "other": partial(other, images)}, options.rounds)
        table.add_row(
            name,
            *(middle(taken[way]) for way in ("plain", "other")),
            middle(ratios(taken["plain"], taken["other"])),
            f"{difference:.1e}",
        )
    console = Console(width=130)
    console.print(machine(torch.device("cpu"), options.threads))
    console.print(table)


if __name__ == "__main__":
    main()

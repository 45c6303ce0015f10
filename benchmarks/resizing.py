"""How much faster two matrix products resize images than MONAI's antialiased `Resize`, whose values they give.

python benchmarks/resizing.py --threads 1            # a minute
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from monai.transforms import Resize
from rich.console import Console
from rich.table import Table
from timing import in_turn, machine, middle, ratios

from monai_rd.transforms import ResizeImaged

CASES = [
    ((3, 224, 224), 64),
    ((3, 224, 224), 112),
    ((12, 96, 96), 64),
    ((16, 512, 512), 224),
    ((3, 480, 400), 224),
    ((1, 3000, 2500), 224),
]


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(
        "image", "pixels", "MONAI, ms", "products, ms", "times as fast", "difference", title=f"n = {options.rounds}"
    )
    for shape, side in CASES:
        image, size = torch.rand(shape), [side, side]
        theirs, ours = Resize(size, mode="bilinear", anti_aliasing=True), ResizeImaged("image", size)
        difference = float((theirs(image).as_tensor() - ours({"image": image})["image"]).abs().max())
        ways = {"theirs": partial(theirs, image), "ours": partial(ours, {"image": image})}
        taken = in_turn(ways, options.rounds)
        table.add_row(
            " x ".join(map(str, shape)),
            str(side),
            *(middle([1000 * one for one in taken[way]]) for way in ways),
            middle(ratios(taken["theirs"], taken["ours"])),
            f"{difference:.0e}",
        )
    console = Console(width=130)
    console.print(machine(torch.device("cpu"), options.threads))
    console.print(table)


if __name__ == "__main__":
    main()

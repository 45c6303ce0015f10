"""What the random transforms of each modality cost an item: how many a loading process makes, and on a GPU.

    python benchmarks/augmentation.py
    python benchmarks/augmentation.py --device cuda      # the same transforms on items that are there already

One thread, as loading processes have one. Images a second count the slices of a study.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from monai.transforms import Compose
from rich.console import Console
from rich.table import Table
from timing import arguments, in_turn, machine, middle, ratios

from monai_rd.transforms import CTAugmentation, DermAugmentation, MRAugmentation, USAugmentation, XrayAugmentation

KINDS = {"ct": CTAugmentation, "mr": MRAugmentation, "us": USAugmentation, "xray": XrayAugmentation}
KINDS |= {"derm": DermAugmentation}
ITEMS = 20  # a turn


def augment(chain: Compose, image: torch.Tensor) -> None:
    """Make some views of an item."""
    for _ in range(ITEMS):
        chain({"image": image})


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__, rounds=7, size=224)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--slices", type=int, default=16, help="of a study")
    options = parser.parse_args()
    torch.set_num_threads(1)
    places = {"cpu": torch.device("cpu"), options.device.type: options.device}
    table = Table(
        "modality", "item", *(f"{place}: ms an item" for place in places), "images/s of one process", "cpu / gpu"
    )
    for name, kind in KINDS.items():
        for item, slices in (("an image", 1), (f"a study of {options.slices}", options.slices)):
            image = torch.rand(slices * (3 if kind is DermAugmentation else 1), options.size, options.size)
            turns: dict[str, Callable[[], object]] = {}
            for place, device in places.items():
                chain = kind("image")
                chain.set_random_state(0)  # the same views in all places
                turns[place] = partial(augment, chain, image.to(device))
            times = in_turn(turns, options.rounds, options.device)
            each = {place: [1000 * one / ITEMS for one in taken] for place, taken in times.items()}
            rate = [1000 * slices / one for one in each["cpu"]]
            faster = middle(ratios(times["cpu"], times[options.device.type])) if len(places) > 1 else "–"
            table.add_row(name, item, *map(middle, each.values()), middle(rate, "{:.0f}"), faster)
    table.caption = f"{options.size} x {options.size} pixels, {options.rounds} rounds of {ITEMS} items; " + machine(
        options.device, 1
    )
    Console(width=150).print(table)


if __name__ == "__main__":
    main()

"""The page about adapters says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from monai_rd.adapters import ADAPTERS

PAGE = (Path(__file__).parents[2] / "docs" / "guide" / "adapters.md").read_text(encoding="utf-8")


def _rows(heading: str) -> dict[str, list[str]]:
    table = PAGE.split(heading, 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {name: row[1:] for row in cells for name in re.findall(r"`(\w+)`", row[0])}


def test_every_adapter_stands_in_the_table() -> None:
    assert set(_rows("| adapter | what is trained |")) == set(ADAPTERS)


def test_the_recipes_are_those_of_the_code() -> None:
    rows = _rows("| adapter | optimiser |")
    assert set(rows) == set(ADAPTERS)
    for name, adapter in ADAPTERS.items():
        recipe = adapter.recipe
        rate = f"{recipe.learning_rate:g}" + (f" x batch / {recipe.batch}" if recipe.batch else "")
        warm_up = f"{recipe.warm_up:.0%}".replace("%", " %") if recipe.warm_up else "0"
        warm_up = f"{recipe.warm_up} epoch" if recipe.warm_up >= 1 else warm_up
        assert rows[name] == [
            {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}[recipe.optimizer],
            rate,
            f"{recipe.weight_decay:g}",
            warm_up,
        ]

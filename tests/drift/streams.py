"""Streams of predictions that a phantom hospital could have, and their scores files."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from monai_rd.drift import Week
from monai_rd.inference import ConformalSet, Decision, Prediction, write_scores

NAMES = ["clear", "opacity"]
MODEL = "ab" * 32
MONDAY = date(2026, 3, 2)
DECISION = Decision((ConformalSet("marginal", (40,), (0.3,)),))


def studies(random: np.random.Generator, count: int, **changed: Any) -> list[Prediction]:
    """Scored studies: half with opacity, one of two scanners, a brightness; or as changed."""
    ill = random.random(count) < changed.get("ill", 0.5)
    p = 1 / (1 + np.exp(-np.where(ill, 2.0, -2.0) - 1.5 * random.normal(size=count)))
    brightness = random.normal(changed.get("median", 0.3), 0.05, count)
    scanners = random.choice(changed.get("scanners", ["Maker A", "Maker B"]), count)
    made = []
    for one, scanner, median in zip(p.tolist(), scanners.tolist(), brightness.tolist(), strict=True):
        uid = f"1.2.{random.integers(1 << 60)}"
        facts = {"scanner": scanner, "median": round(median, 4)}
        bare = Prediction(uid, uid, f"{uid}.1", model=MODEL, facts=facts, scored=MONDAY.isoformat())
        made.append(bare.answered([1 - one, one], NAMES, False, "", [[1 - one, one]], DECISION))
    return made


def weeks(random: np.random.Generator, *changes: dict[str, Any], count: int = 50) -> list[Week]:
    """A week for each of these changes."""
    return [Week(MONDAY + timedelta(7 * n), studies(random, count, **one)) for n, one in enumerate(changes)]


def written(path: Path, made: list[Week]) -> Path:
    """Write scores as `monai-rd predict` does."""
    rows = [replace(one, scored=week.monday.isoformat()) for week in made for one in week.scored]
    write_scores(path, rows, NAMES, {"sha256": MODEL, "temperature": 1.0}, decision=DECISION)
    return path

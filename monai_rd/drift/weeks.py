"""The studies of scores files by week: one of each study, so that they are independent."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from monai_rd.inference.prediction import Prediction, read_scores

__all__ = ["Week", "read_weeks"]


@dataclass(frozen=True)
class Week:
    """The studies that were scored in a week.

    Attributes:
        monday: its first day.
        scored: a prediction of each study that has one.
        problems: code of each study of which nothing was scored.

    Example:
        >>> from monai_rd.drift import read_weeks
        >>> from monai_rd.inference import Prediction, write_scores
        >>> found = Prediction("1.2.3", scored="2026-03-04", problem="LOCALIZER")
        >>> write_scores("scores.csv", [found], ["clear", "opacity"], {"sha256": "ab12", "temperature": 1.0})
        '0 studies scored, 1 left out (1 LOCALIZER): scores.csv'
        >>> (week,) = read_weeks(["scores.csv"])
        >>> type(week).__name__, str(week.monday), week.problems
        ('Week', '2026-03-02', ['LOCALIZER'])
    """

    monday: date
    scored: list[Prediction] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_weeks(paths: Iterable[str | os.PathLike[str]], since: date | None = None) -> list[Week]:
    """Read scores files of one student.

    A study that several files have counts once, on the day on which it was first scored. Of a study with several
    series, one that was scored is drawn at random, but always the same.

    Args:
        paths: CSV or JSON files that `monai-rd predict` wrote; each needs its JSON.
        since: studies first scored before this day are left out.

    Returns:
        The weeks from the first to the last with a study, in order; those between may be empty.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or one of an older version; or there is no study, or they are of different
            students.
    """
    found: dict[str, Prediction] = {}
    model, classes, first = "", [""], Path()
    for path in sorted({Path(one).with_suffix(".json") for one in paths}):
        for one in _read(path):
            if not one.scored:
                raise ValueError(f"{path}: has no day 'scored', as older versions wrote none; score its studies again")
            if not model:
                model, first = one.model, path
            if one.model != model:
                raise ValueError(f"{path} is of another model.pt than {first}: give the scores of one student")
            if not one.problem and classes != [""] and list(one.probabilities) != classes:
                raise ValueError(f"{path} has other classes than the files before it: give the scores of one student")
            classes = classes if one.problem else list(one.probabilities)
            if one.id not in found or one.scored < found[one.id].scored:
                found[one.id] = one
    kept = [one for one in found.values() if since is None or date.fromisoformat(one.scored) >= since]
    if not kept:
        raise ValueError(f"there is no study in these scores files{'' if since is None else f' since {since}'}")
    return _by_week(_one_of_each_study(kept))


def _read(path: Path) -> list[Prediction]:
    if not path.is_file():
        raise FileNotFoundError(f"no scores file '{path}': `monai-rd predict` writes it beside its CSV")
    try:
        made = read_scores(path)
        for one in made:
            date.fromisoformat(one.scored or "2000-01-01")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is damaged, or no scores file of `monai-rd predict`") from None
    return made


def _one_of_each_study(predictions: Iterable[Prediction]) -> list[Prediction]:
    def chance(one: Prediction) -> tuple[bool, str]:
        return bool(one.problem), hashlib.sha256(one.id.encode()).hexdigest()

    found: dict[str, Prediction] = {}
    for one in sorted(predictions, key=chance):
        found.setdefault(one.study or one.id, one)
    return list(found.values())


def _by_week(predictions: Sequence[Prediction]) -> list[Week]:
    days = [date.fromisoformat(one.scored) for one in predictions]
    mondays = [day - timedelta(day.weekday()) for day in days]
    count = (max(mondays) - min(mondays)).days // 7 + 1
    weeks = {monday: Week(monday) for monday in (min(mondays) + timedelta(7 * n) for n in range(count))}
    for one, monday in zip(predictions, mondays, strict=True):
        if one.problem:
            weeks[monday].problems.append(one.problem)
        else:
            weeks[monday].scored.append(one)
    return list(weeks.values())

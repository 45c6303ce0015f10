"""`monai-rd drift`: weeks of scores compared with what is expected, for a person (a page) and for cron (exit code)."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from monai_rd.drift import Reference, Week

__all__ = ["ALARM", "drift"]

ALARM = 4  # exit code


def drift(
    scores: Annotated[
        list[Path], typer.Argument(help="Scores files of `monai-rd predict`, CSV or JSON, of one student; any number.")
    ],
    reference: Annotated[
        Path | None,
        typer.Option(help="The student's models/reference.json, its validation and test set in histograms."),
    ] = None,
    first_weeks: Annotated[
        int | None, typer.Option(min=1, help="Instead, compare with the first weeks of the scores; their number.")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Leave out what was scored before this day.")
    ] = None,
    page: Annotated[Path, typer.Option(help="The HTML page to write.")] = Path("drift.html"),
) -> None:
    """Compare each week of scores with the training, or with the first weeks.

    Tells what differs, writes a page, and exits with code 4 if a week differs, 0 if none does, 2 if the input is wrong.
    Run it once a week: a year without any change gives a false alarm with a chance of 5 % at most.
    """
    from monai_rd.drift import Reference, compare, read_weeks
    from monai_rd.drift.comparison import FEWEST, in_words
    from monai_rd.report.drift_page import write_drift_page

    if (reference is None) == (first_weeks is None):
        raise ValueError("give either --reference FILE (a student's models/reference.json) or --first-weeks NUMBER")
    expected = None if reference is None else Reference.read(reference)
    weeks = read_weeks(scores, since=None if since is None else since.date())
    if expected is None:
        assert first_weeks is not None
        expected, weeks = _of_first(weeks, first_weeks)
    expected.check(weeks)
    findings = compare(expected, weeks)
    print(f"reference: {expected.studies} studies of the {expected.source}")
    few = [week for week in weeks if len(week.scored) < FEWEST]
    print(f"weeks: {len(weeks)}, studies scored: {sum(len(week.scored) for week in weeks)}")
    if few:
        print(f"weeks of fewer than {FEWEST} studies, tested only together with the two before them: {len(few)}")
    for sentence in in_words(findings):
        print(sentence)
    write_drift_page(page, expected, weeks, findings)
    print(f"{len({one.monday for one in findings})} of {len(weeks)} weeks differ; page: {page}")
    if findings:
        raise typer.Exit(ALARM)


def _of_first(weeks: list[Week], count: int) -> tuple[Reference, list[Week]]:
    """Return a reference of the first weeks, and the weeks after them."""
    from monai_rd.drift import Reference

    if len(weeks) <= count:
        raise ValueError(f"--first-weeks {count}: of the weeks of these scores ({len(weeks)}) none is left to compare")
    first = weeks[:count]
    studies = [one for week in first for one in week.scored]
    if not studies:
        raise ValueError(f"--first-weeks {count}: no study was scored in them")
    problems = [code for week in first for code in week.problems]
    source = f"first weeks ({count}, from {first[0].monday} on)"
    return Reference.of(studies, studies[0].model, source, problems), weeks[count:]

"""The page of `monai-rd drift`: what differs in words, and each statistic by week with the band of the reference."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure

from monai_rd.drift import Finding, Reference, Week
from monai_rd.drift.comparison import FALSE_ALARMS, FEWEST, in_words
from monai_rd.drift.reference import LEAST, OTHER, PROBLEM, UNSTATED, Histogram, statistics_of
from monai_rd.errors import count_codes
from monai_rd.inference.facts import SCANNER
from monai_rd.proportions import wilson
from monai_rd.report import page
from monai_rd.report.style import COLOURS, STYLE, THEME, finish, save_figure, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["write_drift_page"]

_MOST_VALUES = 4  # of a statistic, drawn as lines
_ALARM = COLOURS[1]
Told = list[tuple[float, list[Mapping[str, str | float]], list[str]]]  # day of matplotlib, statistics, problems


def write_drift_page(
    path: str | os.PathLike[str], reference: Reference, weeks: Sequence[Week], findings: Sequence[Finding]
) -> None:
    """Write the page atomically.

    Args:
        path: the HTML file to write.
        reference: with which the weeks were compared.
        weeks: in order, at least one. Of a week with fewer than 5 studies only their number is shown.
        findings: of `compare`.
    """
    told: Told = [(_day(week.monday), [statistics_of(one) for one in week.scored], week.problems) for week in weeks]
    names = [*reference.numbers, *reference.categories]
    of_answers = [name for name in names if name.startswith("probability of ") or name in reference.categories]
    groups = {
        "What the student answers": [name for name in of_answers if name not in SCANNER],
        "The images, as the network sees them": [name for name in names if name not in of_answers],
        "The scanners": [name for name in names if name in SCANNER],
    }
    sections = [page.Section("Result", _result(reference, weeks, findings))]
    for title, shown in groups.items():
        if shown:
            figure = _figure(shown, reference, told, findings)
            sections.append(page.Section(title, [_drawn(figure, f"group{len(sections)}", title), _how_to_read(title)]))
    sections.append(page.Section("Weeks", [_table(weeks, findings)]))
    page.write_page(
        path,
        "Drift: has the stream of studies changed?",
        sections,
        f"Weeks: {len(weeks)}, from {weeks[0].monday} on; studies scored: {sum(len(week.scored) for week in weeks)}. "
        f"Compared with {reference.studies} studies of the {reference.source}",
        in_words(findings),
        f"Written by monai_rd {version('monai_rd')}. For research. Not a medical device, and not to be used for "
        "diagnosis.",
    )


def _day(monday: date) -> float:
    """Return a day as matplotlib counts it."""
    return float(date2num(monday))


def _result(reference: Reference, weeks: Sequence[Week], findings: Sequence[Finding]) -> list[Markup]:
    differing = len({one.monday for one in findings})
    body = [page.cards([(f"{differing} of {len(weeks)}", "weeks differ", "")])]
    missing = sorted(
        {name for week in weeks for one in week.scored for name in statistics_of(one)}
        - {*reference.numbers, *reference.categories}
    )
    if missing:
        body.append(page.note(f"Not compared, as the reference does not tell: {', '.join(missing)}."))
    body.append(
        page.note(
            f"A year of weeks like the reference gives any alarm with a chance of {FALSE_ALARMS:.0%} at most, if this "
            "is looked at once a week.".replace("%", " %"),
            f"Each week is tested alone and with the two before it, if that makes {FEWEST} studies.",
            "No alarm does not mean that the student is right: a disease that changes without changing images and "
            "answers is seen in labels alone.",
        )
    )
    return body


def _how_to_read(title: str) -> Markup:
    numbers = (
        "Points with lines: the middle value of a week's studies, and the range of 8 of 10; the band is that "
        "of the reference."
    )
    shares = "Joined points: share of a week's studies; the band is the 95 % interval of the share in the reference."
    scale = "All are on the scale from 0 to 1 of the network's input."
    told = {
        "What the student answers": [numbers, shares],
        "The images, as the network sees them": [numbers, scale],
        "The scanners": [shares],
    }
    red = (
        f"Red: an alarm, of the week alone or with the two before it. Hollow: fewer than {FEWEST} studies in the week."
    )
    return page.note(*told[title], red)


def _drawn(figure: Figure, name: str, told: str) -> Markup:
    with TemporaryDirectory() as folder:
        _, svg = save_figure(figure, Path(folder) / name)
        return page.figure_block(svg.read_text(encoding="utf-8"), name, f"{told}, by week", wide=True)


def _figure(names: Sequence[str], reference: Reference, told: Told, findings: Sequence[Finding]) -> Figure:
    rows = -(-len(names) // 2)
    with rc_context(STYLE):
        figure = Figure(figsize=(9.0, 2.3 * rows))
        for place, name in enumerate(names):
            axes = figure.add_subplot(rows, 2, place + 1)
            alarmed = {_day(one.monday) for one in findings if one.statistic == name}
            if name in reference.numbers:
                _numbers(axes, name, reference.numbers[name], told, alarmed)
            else:
                _shares(axes, name, reference.categories[name], told, alarmed)
            locator = AutoDateLocator(minticks=2, maxticks=7)
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
            finish(axes, short(name, 46), "", legend=False)
    return figure


def _numbers(axes: Axes, name: str, histogram: Histogram, told: Told, alarmed: set[float]) -> None:
    low, middle, high = histogram.quantiles
    axes.axhspan(low, high, color=COLOURS[0], alpha=0.12, linewidth=0)
    axes.axhline(middle, color=COLOURS[0], linewidth=1, linestyle=(0, (2, 2)))
    for when, studies, _ in told:
        values = [float(one[name]) for one in studies if name in one]
        if len(values) < LEAST:
            continue
        below, here, above = np.quantile(values, (0.1, 0.5, 0.9))
        colour = _ALARM if when in alarmed else COLOURS[0] if len(values) >= FEWEST else THEME["muted"]
        face = colour if len(values) >= FEWEST else THEME["paper"]
        axes.plot([when, when], [below, above], color=colour, linewidth=1)
        axes.plot([when], [here], "o", color=colour, markerfacecolor=face, markersize=4)


def _shares(axes: Axes, name: str, counts: Mapping[str, int], told: Told, alarmed: set[float]) -> None:
    total = sum(counts.values())
    by_week = [
        (when, ["none"] * len(studies) + problems if name == PROBLEM else [_text(one, name) for one in studies])
        for when, studies, problems in told
    ]
    here = Counter(value if value in counts else OTHER for _, values in by_week for value in values)
    shown = sorted((value for value in counts if counts[value] or here[value]), key=lambda one: -counts[one])
    shown = shown[:1] if len(shown) == 2 and OTHER in shown else shown[:_MOST_VALUES]
    for value, colour in zip(shown, (COLOURS[0], *COLOURS[2:]), strict=False):
        axes.axhspan(*wilson(counts[value], total), color=colour, alpha=0.12, linewidth=0)
        points = [
            (when, np.mean([(one if one in counts else OTHER) == value for one in values]), len(values))
            for when, values in by_week
            if len(values) >= LEAST
        ]
        axes.plot([one[0] for one in points], [one[1] for one in points], color=colour, linewidth=1, label=value)
        for when, share, n in points:
            own = _ALARM if when in alarmed else colour if n >= FEWEST else THEME["muted"]
            face = own if n >= FEWEST else THEME["paper"]
            axes.plot([when], [share], "o", color=own, markerfacecolor=face, markersize=4)
    axes.set_ylim(-0.05, 1.05)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, [short(one, 28) for one in labels], loc="best", fontsize=8)


def _text(one: Mapping[str, str | float], name: str) -> str:
    return str(one.get(name, UNSTATED))


def _table(weeks: Sequence[Week], findings: Sequence[Finding]) -> Markup:
    rows = [
        [
            str(week.monday),
            str(len(week.scored)),
            count_codes(week.problems) if week.problems else "",
            "; ".join(str(one) for one in findings if one.monday == week.monday),
        ]
        for week in weeks
    ]
    return page.table(rows, ["week of", "scored", "not scored", "alarms"])

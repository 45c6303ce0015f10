r"""ROC AUC against the number of labelled images, from finished runs of `monai-rd benchmark unlabelled`.

    python benchmarks/curve.py \
        "COVID-CT 106=benchmarks/results/unlabelled/covid amp=true student=resnet18 model_selection=best" \
        "COVID-CT 425=benchmarks/results/unlabelled/covid_all" --draw curve.svg

Each argument is a data set, the number of its labels, and the folder of these runs; after the folder, settings that the
runs must have, as in `compare.py`. Measure: ROC AUC on the test images, with 95 % intervals over seeds and images.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from overview import Line, lines, named, save

from monai_rd.protocol.tables import estimate_text
from monai_rd.report.style import COLOURS, STYLE

ROWS = {
    "ce": "the student alone",
    "rd_labelled": "RD, labelled images only",
    "rd_calibrated": "RD, with unlabelled images",
}
Points = Mapping[int, Mapping[str, Line]]  # by number of labels, then by row


def table(sets: Mapping[str, Points]) -> str:
    """A Markdown table: a line for each data set and number of labels."""
    heads = [f"`{row}`" for row in ROWS] + [f"`{row}` minus `ce`" for row in ROWS if row != "ce"]
    rows = [f"| data set | labels | {' | '.join(heads)} |", f"|---|---{'|---' * len(heads)}|"]
    for name, points in sets.items():
        for labels, made in sorted(points.items()):
            areas = [estimate_text("roc_auc", made[row].auc) if row in made else "" for row in ROWS]
            gains = [made[row].gain if row in made else None for row in ROWS if row != "ce"]
            texts = ["" if one is None else estimate_text("roc_auc", one.estimate, "+") for one in gains]
            rows.append(f"| {name} | {labels} | {' | '.join([*areas, *texts])} |")
    return "\n".join(rows)


def draw(sets: Mapping[str, Points]) -> Figure:
    """Draw a panel for each data set, a line for each row, bars for 95 % intervals."""
    with rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(sets) + 0.8, 3.0))
        axes = figure.subplots(1, len(sets), squeeze=False)[0]
        for axis, (name, points) in zip(axes, sets.items(), strict=True):
            for place, (row, label) in enumerate(ROWS.items()):
                found = {labels: made[row].auc for labels, made in sorted(points.items()) if row in made}
                if not found:
                    continue
                at = [labels * 1.03 ** (place - 1) for labels in found]  # beside each other
                means = [one.mean for one in found.values()]
                bars = [[one.mean - one.low for one in found.values()], [one.high - one.mean for one in found.values()]]
                axis.errorbar(at, means, bars, marker="o", markersize=4, color=COLOURS[place], label=label)
            axis.set_xscale("log")
            axis.set_xticks(sorted(points), [str(labels) for labels in sorted(points)])
            axis.minorticks_off()
            axis.set_title(name)
            axis.set_xlabel("labelled images")
        axes[0].set_ylabel("ROC AUC")
        axes[0].legend(loc="lower right")
    return figure


def main() -> None:
    """Print the table; draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="+", metavar="NAME LABELS=FOLDER [SETTING=VALUE ...]")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0 on")
    parser.add_argument("--draw", type=Path, help="write the figure to this file")
    options = parser.parse_args()
    sets: dict[str, dict[int, Mapping[str, Line]]] = defaultdict(dict)
    for text in options.points:
        place, runs = named(text)
        name, labels = place.rsplit(" ", 1)
        sets[name][int(labels)] = lines(runs, options.seeds)
    print(table(sets))
    if options.draw:
        save(draw(sets), options.draw)


if __name__ == "__main__":
    main()

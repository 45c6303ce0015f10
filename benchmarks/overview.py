r"""The rows of `monai-rd benchmark unlabelled` on several data sets, from finished runs: one table each, and a figure.

    python benchmarks/overview.py CXR-pneumonia=benchmarks/results/unlabelled/cxr \
        BTC=benchmarks/results/unlabelled/btc "COVID-CT=benchmarks/results/unlabelled/covid amp=true" \
        --draw docs/results/overview.svg

After each folder, settings that its runs must have, as in `compare.py`. With several students a row's values are
averaged over those that have it with all seeds. Measure: ROC AUC on the test images.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from compare import settings
from matplotlib import rc_context
from matplotlib.figure import Figure

from monai_rd.files import atomic_path
from monai_rd.protocol.experiments import TABLES
from monai_rd.protocol.runs import read_result
from monai_rd.protocol.statistics import Difference, Estimate, compare, estimate, handed_over, image_values
from monai_rd.protocol.tables import estimate_text
from monai_rd.report.style import COLOURS, STYLE, THEME

NAMES = {
    "rd_labelled": "RD, labelled images only",
    "kd": "KD",
    "pseudo": "pseudo-labels",
    "rd_unlabelled": "RD as published",
    "rd_calibrated": "RD, the bundles' default",
    "rd": "RD with CutMix",
}
Values = dict[str, np.ndarray]  # of every image, of the student and of the teacher path or fitted teacher
Runs = Mapping[tuple[str, str], Mapping[int, Values]]  # by row and student, then by seed


class Line(NamedTuple):
    """A row on a data set.

    Attributes:
        auc: of the student.
        gain: the student's AUC minus that of `ce`.
        subject: AUC of the subject minus this row's; None of itself and where there are none.
        path: AUC of the teacher path or fitted teacher; NaN without a teacher.
        share: of the path's lead over `ce`, what the student gains; None if there is no such lead.
        students: how many are averaged.
    """

    auc: Estimate
    gain: Difference | None
    subject: Difference | None
    path: float
    share: Estimate | None
    students: int


def row_of(cell: Mapping[str, str]) -> str | None:
    """The name of the row that a run is of, from its settings; None if it is of another table."""
    for row in TABLES["unlabelled"].rows:
        words = {word.removeprefix("--"): value for word, value in zip(row.words[::2], row.words[1::2], strict=True)}
        wanted = {"method": row.method, **words}
        if row.options:
            wanted["method_options"] = json.dumps(row.options, separators=(",", ":"))
        names = {"method", "method_options", "unlabelled_share", "cutmix"}
        if {name: cell[name] for name in names if name in cell} == wanted:
            return row.name
    return None


def read(folder: Path, wanted: Mapping[str, str]) -> dict[tuple[str, str], dict[int, Values]]:
    """The AUC's contributions of every image, by row and student, then by seed.

    Raises:
        ValueError: two runs are of one row, student and seed.
    """
    found: dict[tuple[str, str], dict[int, Values]] = defaultdict(dict)
    for path in sorted(folder.glob("runs/*/run.json")):
        cell = settings(json.loads(path.read_text())["cell"])
        row = row_of(cell)
        if row is None or any(cell.get(name) != value for name, value in wanted.items()):
            continue
        place, seed = (row, cell["student"]), int(cell["seed"])
        if seed in found[place]:
            raise ValueError(f"{path.parent}: a second run of {row}, {cell['student']}, seed {seed}; name what differs")
        metrics, arrays = read_result(path.parent)
        taught = [name for name in metrics["test"] if name != "student"]
        found[place][seed] = {
            "student": image_values(arrays["probabilities"][None], arrays["labels"])["roc_auc"][0],
            "path": np.full(1, metrics["test"][taught[0]]["roc_auc"]["value"] if taught else np.nan),
        }
        if (path_of := arrays.get("path_probabilities")) is not None:
            found[place][seed]["path"] = image_values(path_of[None], arrays["labels"])["roc_auc"][0]
    return found


def whole(runs: Runs, row: str, seeds: int) -> list[str]:
    """The students that have a row, and `ce`, with all seeds."""
    students = dict.fromkeys(student for _, student in runs)
    return [one for one in students if all({*range(seeds)} <= {*runs.get((name, one), ())} for name in ("ce", row))]


def lines(runs: Runs, seeds: int, subject: str = "rd_calibrated") -> dict[str, Line]:
    """Average each row over the students that are `whole`, and compare it with `ce` and with the row `subject`."""

    def mean(row: str, students: list[str], part: str = "student") -> np.ndarray:
        return np.mean([[runs[row, one][seed][part] for seed in range(seeds)] for one in students], axis=0)

    made = {}
    for row in ("ce", *NAMES):
        if students := whole(runs, row, seeds):
            ours, path = mean(row, students), mean(row, students, "path")
            both = [one for one in students if one in whole(runs, subject, seeds)]
            made[row] = Line(
                estimate(ours),
                None if row == "ce" else compare(ours, mean("ce", students)),
                compare(mean(subject, both), mean(row, both)) if both and row != subject else None,
                float(path.mean()),
                handed_over(ours, mean("ce", students), path) if path.shape == ours.shape and row != "ce" else None,
                len(students),
            )
    return made


def table(made: Mapping[str, Line], subject: str = "rd_calibrated") -> str:
    """A Markdown table of a data set."""

    def text(one: Difference | None) -> str:
        return "" if one is None else estimate_text("roc_auc", one.estimate, "+")

    rows = [
        f"| row | ROC AUC | minus `ce` | `{subject}` minus it | teacher path or fitted teacher | handed over |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in made.items():
        path = "" if np.isnan(one.path) else f"{one.path:.3f}"
        share = "" if one.share is None else f"{one.share.mean:.2f} [{one.share.low:.2f}, {one.share.high:.2f}]"
        rows.append(
            f"| `{name}` | {estimate_text('roc_auc', one.auc)} | {text(one.gain)} | {text(one.subject)} | {path} "
            f"| {share} |"
        )
    return "\n".join(rows)


def by_student(runs: Runs, seeds: int) -> str:
    """A Markdown table of mean and standard deviation, a column for each student."""

    def text(row: str, student: str) -> str:
        if student not in whole(runs, row, seeds):
            return ""
        areas = [runs[row, student][seed]["student"].mean() for seed in range(seeds)]
        return f"{np.mean(areas):.3f} ± {np.std(areas, ddof=1):.3f}"

    students = sorted({student for _, student in runs})
    rows = [f"| row | {' | '.join(students)} |", f"|---{'|---' * len(students)}|"]
    rows += [f"| `{row}` | {' | '.join(text(row, one) for one in students)} |" for row in ("ce", *NAMES)]
    return "\n".join(rows)


def draw(sets: Mapping[str, Mapping[str, Line]]) -> Figure:
    """Draw each row's AUC minus that of `ce`, with its 95 % interval, a panel for each data set."""
    with rc_context(STYLE):
        figure = Figure(figsize=(3.1 * len(sets) + 1.6, 2.6))
        axes = np.atleast_1d(figure.subplots(1, len(sets), sharey=True))
        for axis, (title, made) in zip(axes, sets.items(), strict=True):
            axis.axvline(0, color=THEME["muted"], linewidth=1)
            for place, name in enumerate(NAMES):
                if (one := made.get(name)) is not None and one.gain is not None:
                    found = one.gain.estimate
                    colour = COLOURS[0] if name.startswith("rd") else COLOURS[1]
                    axis.plot([found.low, found.high], [place, place], color=colour)
                    axis.plot(found.mean, place, "o", color=colour, markersize=5)
            axis.set_title(title)
            axis.set_xlabel("ROC AUC minus cross entropy's")
        axes[0].set_yticks(range(len(NAMES)), list(NAMES.values()))
        axes[0].invert_yaxis()
        for axis in axes[1:]:
            axis.tick_params(axis="y", length=0)
    return figure


def named(text: str) -> tuple[str, Runs]:
    """The name and the runs of `NAME=FOLDER [SETTING=VALUE ...]`."""
    name, rest = text.split("=", 1)
    folder, *wanted = rest.split()
    return name, read(Path(folder), dict(pair.split("=", 1) for pair in wanted))


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the file's name; the same figure gives the same bytes."""
    with rc_context(STYLE), atomic_path(path) as beside:
        figure.savefig(beside, format=path.suffix[1:], metadata={"Date": None})


def main() -> None:
    """Print the tables; draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER [SETTING=VALUE ...]")
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0 on")
    parser.add_argument("--subject", default="rd_calibrated", choices=NAMES, help="the row that all are compared with")
    parser.add_argument("--draw", type=Path, help="write the figure to this file")
    options = parser.parse_args()
    made = {}
    for text in options.sets:
        name, runs = named(text)
        made[name] = lines(runs, options.seeds, options.subject)
        if "ce" not in made[name]:
            parser.error(f"{text}: no runs of `ce` there")
        students = {name: one.students for name, one in made[name].items()}
        print(f"\n{name}, {made[name]['ce'].auc.n} images; students averaged: {students}\n")
        print(f"{table(made[name], options.subject)}\n\n{by_student(runs, options.seeds)}")
    if options.draw:
        save(draw(made), options.draw)


if __name__ == "__main__":
    main()

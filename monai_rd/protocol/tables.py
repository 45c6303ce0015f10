"""A finished grid as a table: in Markdown, CSV, JSON and HTML files, and on the console."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from monai_rd.files import atomic_write
from monai_rd.protocol.experiments import Column, Row
from monai_rd.protocol.paper import facts_of, paper_value
from monai_rd.protocol.statistics import Estimate
from monai_rd.protocol.summary import Comparison, Summary
from monai_rd.text import csv_of

__all__ = ["Grid", "Report", "estimate_text", "number_text", "p_text", "print_report", "training_report", "write_files"]

NAMES = {
    "accuracy": "Accuracy, %",
    "balanced_accuracy": "Balanced accuracy, %",
    "roc_auc": "ROC AUC",
    "sensitivity": "Sensitivity, %",
    "specificity": "Specificity, %",
}
SELECTION = {
    "best": "of the epoch that is best on the validation set",
    "last": "of the last epoch",
}
READING = (
    "mean ± standard deviation over seeds [95 % interval over seeds and images, bootstrap of both]; the best mean "
    "of a column is bold."
)
TESTS = (
    "Differences are paired: same seeds, same images. p: would the difference be there with other seeds and other "
    "images (Dorfman-Berbaum-Metz test with Hillis' degrees of freedom)? Networks as they are: the same question for "
    "these very networks on other images (sign-flip permutation of images). The best baseline is known only after "
    "looking at these images, which makes its lead over a method too large and its lag too small; Holm corrects for "
    "the number of methods, nothing for the number of columns."
)
HANDED = (
    "Handed over: of what the teacher path is ahead of ce by in ROC AUC, the share that arrives at the student (0: "
    "nothing, 1: all) [95 % interval over seeds and images]; where the path's own lead has an interval that reaches 0, "
    "there is nothing to share."
)
MEAN = "Mean of the students: what each image contributes to a measure, averaged over the students of the same seed."
ONE_SEED = (
    "One seed: how much another seed changes is unknown. Intervals and p tell of other images for these very networks."
)


@dataclass(frozen=True)
class Grid:
    """A table of texts; bold text is marked with two asterisks on either side.

    Args:
        title: title above the table.
        header: column headers; the first one is for the names of the rows.
        rows: rows, each as long as the header.
    """

    title: str
    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """Format the table as GitHub Markdown, with the title in bold."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return f"**{self.title}**\n\n" + "".join("| " + " | ".join(line) + " |\n" for line in lines)

    def rich(self) -> RichTable:
        """Format the table for the console."""
        table = RichTable(title=self.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for index, name in enumerate(self.header):
            table.add_column(name, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*(Text(text.strip("*"), "bold") if text.startswith("**") else text for text in row))
        return table


@dataclass(frozen=True)
class Report:
    """The report of an experiment.

    Args:
        name: name of the table, such as "table3"; also the name of the files.
        title: title in words.
        grids: the tables in order.
        notes: notes below the tables, each of one or more sentences.
        content: everything, for JSON.
        records: one record per number, for CSV; all have the same keys.
        figures: figures of the page: an SVG file and its caption.
    """

    name: str
    title: str
    grids: list[Grid]
    notes: list[str]
    content: dict[str, Any]
    records: list[dict[str, Any]]
    figures: list[tuple[Path, str]] = field(default_factory=list)

    def markdown(self) -> str:
        """Format the report as Markdown, ready for documentation."""
        notes = "".join(f"- {note}\n" for note in self.notes)
        return f"# {self.title}\n\n" + "\n".join(grid.markdown() for grid in self.grids) + "\n" + notes


def training_report(
    name: str, summary: Summary, command: str, settings: dict[str, Any], data: str | None, model_selection: str
) -> Report:
    """Make the report of a grid of trainings.

    Args:
        name: name of the table.
        summary: numbers of the table.
        command: the command that the user typed.
        settings: settings of the bundle, as its runs stored them.
        data: name of the published data set; None for any other.
        model_selection: "best" or "last".
    """
    experiment = summary.experiment
    notes = [READING, TESTS] if summary.comparisons else [READING]
    notes += [HANDED] if summary.handed_over else []
    notes += [MEAN] if summary.columns != experiment.columns else []
    notes += [ONE_SEED] if experiment.seeds == 1 else []
    notes += [
        f"n = {experiment.seeds} seed{'s' * (experiment.seeds > 1)}, {summary.images} {summary.on} images.",
        f"Data: {experiment.data}.",
        f"Networks {SELECTION[model_selection]}; the test set chose nothing.",
        f"Command: `{command}`",
        f"Settings: `{json.dumps(settings)}`",
        *(f"Made with: {', '.join(f'{key} {value}' for key, value in made.items())}." for made in _shown(summary.made)),
        "Seconds a run: " + ", ".join(f"{row} {seconds:.0f}" for row, seconds in summary.seconds.items()) + ".",
        *facts_of(name, data),
    ]
    if len(summary.made) > 1:
        notes.append("**These runs were not all made with the same code, versions and settings of the bundle.**")
    if summary.missing:
        notes.append(f"**Not finished: {', '.join(summary.missing)}.**")
    records = _records(summary, data)
    published = [record for record in records if record["paper_percent"]]
    sources = "".join(f" ({record['paper_percent']:.2f}: {record['paper_source']})" for record in published)
    trained = sum(column in experiment.columns for _, column in summary.estimates)
    notes.append(f"The paper's own accuracy is known here of {len(published)} of {trained} cells{sources}.")
    content = {
        "table": name,
        "title": experiment.title,
        "command": command,
        "settings": settings,
        "seeds": experiment.seeds,
        "test_images": summary.images,
        "data": experiment.data,
        "model_selection": model_selection,
        "made_with": summary.made,
        "not_finished": summary.missing,
        "estimates": [
            {**_place(row, column), "measures": {name: one.as_dict() for name, one in measures.items()}}
            for (row, column), measures in summary.estimates.items()
        ],
        "also": [{**_place(row, column), "networks": also} for (row, column), also in summary.also.items()],
        "differences": [
            {
                **_place(one.row, one.column),
                "minus": one.other.name,
                "best_baseline": one.best,
                "measures": {
                    name: {**difference.as_dict(), "p_holm": one.corrected[name]}
                    for name, difference in one.differences.items()
                },
            }
            for one in summary.comparisons
        ],
        "handed_over": [
            {**_place(row, column), "share": one and {"mean": one.mean, "low": one.low, "high": one.high}}
            for (row, column), one in summary.handed_over.items()
        ],
        "paper": published,
        "paper_facts": list(facts_of(name, data)),
    }
    grids = [*_measure_grids(summary, data), *_handed_grids(summary), *_difference_grids(summary)]
    return Report(name, f"{_titled(name)}: {experiment.title}", grids, notes, content, records)


def write_files(report: Report, out: Path) -> list[Path]:
    """Write `NAME.md`, `NAME.csv`, `NAME.json` and the page `NAME.html`, each atomically."""
    contents = {
        "md": report.markdown(),
        "csv": csv_of(list(report.records[0]), report.records),
        "json": json.dumps(report.content, indent=1) + "\n",
    }
    for suffix, content in contents.items():
        atomic_write(content, out / f"{report.name}.{suffix}")
    _write_page(report, out / f"{report.name}.html")
    return [out / f"{report.name}.{suffix}" for suffix in (*contents, "html")]


def _write_page(report: Report, path: Path) -> None:
    from monai_rd.report.page import Section, figure_block, note, table, write_page

    sections = []
    for grid in report.grids:
        header, *rows = ([_bold(cell) for cell in cells] for cells in (grid.header, *grid.rows))
        sections.append(Section(grid.title, [table(rows, header)]))
    blocks = [
        figure_block(svg.read_text(encoding="utf-8"), f"f{n}", told, wide=True)
        for n, (svg, told) in enumerate(report.figures)
    ]
    sections += [Section("Figures", blocks)] if blocks else []
    sections.append(Section("How to read this, and how it was made", [note(*_unmarked(report.notes))]))
    write_page(path, report.title, sections)


def _bold(cell: str) -> Markup:
    """Convert a cell's bold text from Markdown to HTML."""
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(escape(cell))))


def _unmarked(notes: Sequence[str]) -> list[str]:
    return [text.replace("**", "").replace("`", "") for text in notes]


def print_report(report: Report, console: Console) -> None:
    """Print the tables and notes."""
    for grid in report.grids:
        console.print(grid.rich())
    for note in _unmarked(report.notes):
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def _titled(name: str) -> str:
    return re.sub(r"(\d)$", r" \1", name).capitalize()


def _shown(made: Sequence[dict[str, str]]) -> Iterator[dict[str, str]]:
    for one in made:
        yield {key: value[:12] if key == "config" else value for key, value in one.items()}


def _place(row: Row, column: Column) -> dict[str, Any]:
    return {
        "method": row.name,
        "teacher": column.teacher_name,
        "student": column.student,
        "share": column.share,
        "training_images": column.training,
    }


def _records(summary: Summary, data: str | None) -> list[dict[str, Any]]:
    records = []
    for (row, column), measures in summary.estimates.items():
        for name, one in measures.items():
            known = paper_value(data, row.name, column.teacher, column.student) if column.share == 1 else None
            numbers = {key: value for key, value in one.as_dict().items() if key != "by_seed"}
            paper = {
                "paper_percent": known.percent if known and name == "accuracy" else None,
                "paper_source": known.source if known and name == "accuracy" else None,
            }
            records.append({**_place(row, column), "measure": name, **numbers, "seeds": len(one.by_seed), **paper})
    return records


def number_text(measure: str, value: float, sign: str = "") -> str:
    """Format a value of a measure: the AUC as a number, all others in percent."""
    return f"{value:{sign}.3f}" if measure == "roc_auc" else f"{100 * value:{sign}.1f}"


def estimate_text(measure: str, one: Estimate, sign: str = "") -> str:
    """Format mean, spread and interval: the AUC as a number, all others in percent; `sign` "+" for a difference."""
    spread = "" if one.sd is None or sign else f" ± {number_text(measure, one.sd)}"
    interval = f"[{number_text(measure, one.low, sign)}, {number_text(measure, one.high, sign)}]"
    return f"{number_text(measure, one.mean, sign)}{spread} {interval}"


def p_text(value: float) -> str:
    """Format a p value with three decimals."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _column_title(column: Column, summary: Summary) -> str:
    whole = len({one.share for one in summary.experiment.columns}) == 1
    return column.student if whole else f"{column.student}, {column.training} training images"


def _measure_grids(summary: Summary, data: str | None) -> Iterator[Grid]:
    """Yield a grid for each measure and teacher, with methods as rows and students as columns."""
    experiment = summary.experiment
    for measure in summary.measures:
        for teacher in dict.fromkeys(column.teacher for column in summary.columns):
            columns = [column for column in summary.columns if column.teacher == teacher]
            rows = [
                [row.name, *(_measured(summary, row, column, measure, data) for column in columns)]
                for row in experiment.rows
            ]
            networks = dict.fromkeys(
                (row, name) for (row, column), also in summary.also.items() if column in columns for name in also
            )
            for row, name in networks:
                means = (summary.also.get((row, column), {}).get(name, {}).get(measure) for column in columns)
                rows.append([f"{row.name}: {name}", *("-" if m is None else number_text(measure, m) for m in means)])
            header = ["method", *(_column_title(column, summary) for column in columns)]
            yield Grid(f"{NAMES[measure]}; teacher: {columns[0].teacher_name}", header, rows)


def _handed_grids(summary: Summary) -> Iterator[Grid]:
    """Yield a grid for each teacher: for rows with a teacher path, the share of its lead that the student gains."""
    for teacher in dict.fromkeys(column.teacher for column in summary.columns):
        columns = [column for column in summary.columns if column.teacher == teacher]
        rows = [
            [row.name, *(_handed(summary, row, column) for column in columns)]
            for row in summary.experiment.rows
            if any((row, column) in summary.handed_over for column in columns)
        ]
        if rows:
            header = ["method", *(_column_title(column, summary) for column in columns)]
            yield Grid(f"Handed over; teacher: {columns[0].teacher_name}", header, rows)


def _handed(summary: Summary, row: Row, column: Column) -> str:
    if (row, column) not in summary.handed_over:
        return "-"
    one = summary.handed_over[row, column]
    return "path not ahead" if one is None else f"{one.mean:.2f} [{one.low:.2f}, {one.high:.2f}]"


def _measured(summary: Summary, row: Row, column: Column, measure: str, data: str | None) -> str:
    one = summary.estimates.get((row, column), {}).get(measure)
    if one is None:
        return "not finished"
    rivals = [summary.estimates[place][measure].mean for place in summary.estimates if place[1] == column]
    known = paper_value(data, row.name, column.teacher, column.student)
    paper = f"; paper {known.percent:.2f}" if known and measure == "accuracy" and column.share == 1 else ""
    text = estimate_text(measure, one) + paper
    return f"**{text}**" if one.mean == max(rivals) else text


def _difference_grids(summary: Summary) -> Iterator[Grid]:
    """Yield the comparison with the best other row of each column, then with every other row."""
    header = ["teacher", "student", "difference", "of", "mean [95 % interval]", "p", "p, networks as they are"]
    rows = []
    for one in (one for one in summary.comparisons if one.best):
        place = [one.column.teacher_name, _column_title(one.column, summary), f"{one.row.name} - {one.other.name}"]
        for measure, found in one.differences.items():
            text = estimate_text(measure, found.estimate, "+")
            rows.append([*place, NAMES[measure], text, p_text(found.p), p_text(found.p_images)])
    if rows:
        yield Grid("Against the best baseline", header, rows)
    for column in {(column.teacher, column.share): column for column in summary.columns}.values():
        every = [one for one in summary.comparisons if one.column == column]
        if len(every) > 1:
            yield _every_difference(every, _column_title(column, summary))


def _every_difference(every: Sequence[Comparison], column: str) -> Grid:
    header, rows = [f"{every[0].row.name} -"], [[one.other.name] for one in every]
    for measure in every[0].differences:
        header += [f"{NAMES[measure]}: mean [95 % interval]", "p", "p, Holm"]
        for row, one in zip(rows, every, strict=True):
            found = one.differences[measure]
            row += [estimate_text(measure, found.estimate, "+"), p_text(found.p), p_text(one.corrected[measure])]
    return Grid(f"Against every other row; teacher: {every[0].column.teacher_name}; {column}", header, rows)

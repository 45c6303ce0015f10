"""Reading CSV and Excel sheets: every cell as text, with cells marked that a spreadsheet has converted."""

from __future__ import annotations

import csv
import datetime
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from monai_rd.datasets.problems import DataListError
from monai_rd.text import read_text

__all__ = ["EXCEL_SUFFIXES", "Cell", "read_table"]

EXCEL_SUFFIXES = (".xlsx", ".xlsm")
# Number of significant digits that Excel keeps; it replaces further ones by zeros.
_EXCEL_DIGITS = 15


class Cell(str):
    """The text of a sheet's cell that cannot be used, because a spreadsheet has converted its value.

    Attributes:
        reason: why it cannot be used, such as "a date".
    """

    reason: str

    def __new__(cls, value: object, reason: str) -> Cell:
        """Create the cell from its value and the reason."""
        made = super().__new__(cls, value)
        made.reason = reason
        return made


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file or the first sheet of an Excel file.

    CSV may be separated by commas, semicolons or tabs and encoded in Unicode or Windows-1252. Empty rows are left out;
    the index holds row numbers of the sheet, where the header is row 1. Excel's numbers are read as displayed: 4711 for
    4711.0, 0004711 for a cell with the format 0000000.

    Returns:
        Cells of type `str`, blanks not stripped; a `Cell` where Excel has a date, a truth value or an error.

    Raises:
        DataListError: the file cannot be read, or a row has more cells than the header.
    """
    try:
        with open(path, "rb") as file:
            first = file.read(8)
        rows = list(_excel(path) if first.startswith(b"PK") or path.suffix.lower() in EXCEL_SUFFIXES else _csv(path))
    except DataListError:
        raise
    except Exception as error:  # every format raises its own errors, and their text may quote a cell
        raise DataListError(
            f"the sheet '{path.name}' cannot be read ({type(error).__name__}): give a CSV, or Excel as .xlsx, with one "
            "header row"
        ) from None
    filled = [(number, cells) for number, cells in rows if any(cell.strip() for cell in cells)]
    if not filled:
        raise DataListError(f"the sheet '{path.name}' is empty: give one with a header row")
    (_, header), *body = filled
    header = _without_empty_end(header)
    width = len(header)
    too_long = [number for number, cells in body if any(cell.strip() for cell in cells[width:])]
    if too_long:
        raise DataListError(
            f"the sheet '{path.name}' has more cells in row {too_long[0]} than in its header ({len(too_long)} such "
            "rows): put cells that hold a separator in quotes, or name every column"
        )
    cells = [[*own[:width], *[""] * (width - len(own))] for _, own in body]
    return pd.DataFrame(cells, index=[number for number, _ in body], columns=header, dtype=object)


def _without_empty_end(header: Sequence[str]) -> list[str]:
    names = list(header)
    while names and not names[-1].strip():
        names.pop()
    return names


def _csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    if b"\0\0\0\0" in path.read_bytes()[:4096]:  # not text in any encoding
        raise ValueError("binary")
    text = read_text(path)
    first, _, rest = text.partition("\n")
    told = re.fullmatch(r"sep=(.)\r?", first)  # Excel's own marker of the separator
    separator = told[1] if told else max(",;\t", key=first.count)
    lines = io.StringIO(rest if told else text, newline="")
    # Strict: otherwise an unclosed quote would swallow all rows below it.
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    try:
        yield from enumerate(reader, start=2 if told else 1)
    except csv.Error:
        raise DataListError(
            f"the sheet '{path.name}' cannot be read near line {reader.line_num}: a quote is not closed, or text "
            "follows a closed one"
        ) from None


def _excel(path: Path) -> Iterator[tuple[int, list[str]]]:
    from openpyxl import load_workbook  # takes half a second

    with open(path, "rb") as file:  # opened here, as openpyxl checks the suffix of a path
        sheet = load_workbook(file, read_only=True, data_only=True).worksheets[0]  # a formula's last value
        sheet.reset_dimensions()  # other programs write wrong ones
        for number, row in enumerate(sheet.iter_rows(), start=1):
            yield number, [_excel_text(cell) for cell in row]


def _excel_text(cell: Any) -> str:
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return Cell(value, "TRUE or FALSE")
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        return Cell(value, "a date or time, which Excel makes of text such as 3-1")
    if cell.data_type == "e":
        return Cell(value, f"the error {value}")
    if not isinstance(value, int | float) or (isinstance(value, float) and not value.is_integer()):
        return str(value)
    digits = str(int(value))
    if len(digits.lstrip("-")) > _EXCEL_DIGITS:
        return Cell(digits, f"a number of more than {_EXCEL_DIGITS} digits, of which Excel loses the others")
    return digits.zfill(len(cell.number_format)) if re.fullmatch("0+", cell.number_format) else digits

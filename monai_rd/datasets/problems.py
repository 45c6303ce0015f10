"""Everything that is wrong with a data list, collected and said at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["DataListError", "Problems"]


class DataListError(ValueError):
    """The data list cannot be used; the message lists everything that is wrong with it, at once."""


class Problems:
    """What is wrong, by message, each with the rows it is true of.

    Messages name rows, classes and series UIDs, never a path or a patient.
    """

    def __init__(self, row_name: str = "row") -> None:
        self.row_name = row_name
        self._rows: dict[str, list[int]] = {}

    def add(self, message: str, *rows: int) -> None:
        """Note a problem, and the rows it is true of, if it has any."""
        self._rows.setdefault(message, []).extend(rows)

    def extend(self, other: Problems) -> None:
        """Add the problems of another."""
        for message, rows in other._rows.items():
            self.add(message, *rows)

    def __len__(self) -> int:
        return sum(max(1, len(rows)) for rows in self._rows.values())

    def __iter__(self) -> Iterator[str]:
        for message, rows in self._rows.items():
            plural = "s" if len(set(rows)) > 1 else ""
            yield f"{self.row_name}{plural} {_ranges(rows)}: {message}" if rows else message

    def refuse(self, what: str = "the data list") -> None:
        """Raise if there is anything wrong with `what`.

        Raises:
            DataListError: with every problem.
        """
        if self._rows:
            listed = "".join(f"\n  - {line}" for line in self)
            raise DataListError(f"{what} cannot be used ({len(self)} problems):{listed}")


def _ranges(rows: Iterable[int]) -> str:
    """Write 2, 3, 4, 7 as "2-4, 7"."""
    runs: list[list[int]] = []
    for row in sorted(set(rows)):
        if runs and row == runs[-1][1] + 1:
            runs[-1][1] = row
        else:
            runs.append([row, row])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)

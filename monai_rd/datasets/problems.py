"""Everything that is wrong with a data list, collected and reported in one error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["DataListError", "Problems"]


class DataListError(ValueError):
    """The data list cannot be used; the message lists every problem at once."""


class Problems:
    """A collection of problem messages, each with the rows that it concerns.

    Messages name rows, classes and series UIDs, never a path or a patient.

    Args:
        row_name: the word for a row in the messages, such as "row" or "item".
    """

    def __init__(self, row_name: str = "row") -> None:
        self.row_name = row_name
        self._rows: dict[str, list[int]] = {}

    def add(self, message: str, *rows: int) -> None:
        """Record a problem and the rows that it concerns, if any."""
        self._rows.setdefault(message, []).extend(rows)

    def extend(self, other: Problems) -> None:
        """Add all problems of another collection."""
        for message, rows in other._rows.items():
            self.add(message, *rows)

    def __len__(self) -> int:
        return sum(max(1, len(rows)) for rows in self._rows.values())

    def __iter__(self) -> Iterator[str]:
        for message, rows in self._rows.items():
            plural = "s" if len(set(rows)) > 1 else ""
            yield f"{self.row_name}{plural} {_ranges(rows)}: {message}" if rows else message

    def refuse(self, what: str = "the data list") -> None:
        """Raise an error if any problem was recorded; `what` names the source in its message.

        Raises:
            DataListError: lists every problem.
        """
        if self._rows:
            listed = "".join(f"\n  - {line}" for line in self)
            raise DataListError(f"{what} cannot be used ({len(self)} problems):{listed}")


def _ranges(rows: Iterable[int]) -> str:
    """Format 2, 3, 4, 7 as "2-4, 7"."""
    runs: list[list[int]] = []
    for row in sorted(set(rows)):
        if runs and row == runs[-1][1] + 1:
            runs[-1][1] = row
        else:
            runs.append([row, row])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)

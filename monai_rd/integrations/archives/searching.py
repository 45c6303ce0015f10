"""A search for studies of an archive that answers with a limited number of them.

Many archives cut a long answer, some without a word, and offsets into it are ignored, applied to the cut answer, or
mean something else when studies come and go meanwhile. A search by StudyDate has none of these problems: days are
divided until no answer is cut.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial

from monai_rd.integrations.archives.retries import with_retries

__all__ = ["Days", "Found", "day_of", "search_by_days"]

logger = logging.getLogger(__name__)

_DAY = timedelta(days=1)
_FIRST = date(1970, 1, 1)  # earlier days are not divided


@dataclass(frozen=True)
class Found:
    """An answer to a search.

    Args:
        days: StudyDate by StudyInstanceUID, "" where the answer has none.
        cut: whether the archive says, or the length of the answer tells, that there are more.
    """

    days: Mapping[str, str]
    cut: bool = False


@dataclass(frozen=True)
class Days:
    """A range of days, both included; None: as long as there are studies.

    Example:
        >>> from datetime import date
        >>> from monai_rd.integrations.archives.searching import Days
        >>> str(Days(date(2026, 1, 1), date(2026, 1, 31))), str(Days(date(2026, 1, 1))), str(Days())
        ('20260101-20260131', '20260101-', '')
    """

    first: date | None = None
    last: date | None = None

    def __str__(self) -> str:
        """Return the range as DICOM matches it (PS3.4 C.2.2.2.5), "" for all studies, with or without a day."""
        if self.first is None and self.last is None:
            return ""
        return "-".join("" if day is None else day.isoformat().replace("-", "") for day in (self.first, self.last))

    def holds(self, text: str) -> bool:
        """Whether a StudyDate lies in the range; what is no date does."""
        day = day_of(text)
        return day is None or (self.first or day) <= day <= (self.last or day)

    def halves(self, known: Iterable[str]) -> tuple[Days, Days] | None:
        """Return the range before and after the middle of known StudyDates; None if it cannot be divided."""
        first, last, today = self.first, self.last, date.today()
        early, late = last is not None and last < _FIRST, first is not None and last is None and first > today
        if early or late or (first is not None and first == last):
            return None
        days = sorted(filter(None, map(day_of, filter(self.holds, known))))
        start, end = first or _FIRST, last or today
        middle = days[len(days) // 2] if days else start + (end - start) // 2
        if middle in (last, *days[-1:]) and middle > date.min:
            middle -= _DAY  # so that the second half is not empty
        middle = max(middle, first or middle)
        return Days(first, middle), Days(middle + _DAY, last)


def day_of(text: str) -> date | None:
    """Parse a date of DICOM; None if it is none."""
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:])) if len(text) == 8 and text.isdecimal() else None
    except ValueError:
        return None


def search_by_days(ask: Callable[[Days], Found], rest: Callable[[Days], Iterable[str]], since: str | None) -> set[str]:
    """Return the UIDs of all studies since a day, whatever number of them the archive tells at a time.

    An answer that is cut is asked for again, by the days before and after its middle. One that is not said to be cut
    is believed if it is no longer than one that was whole; otherwise its halves must bring nothing new.

    Args:
        ask: searches a range of days by a single request.
        rest: searches, by other means, what cannot be divided: one day, or studies without a day.
        since: the first day, YYYYMMDD; None: all studies.

    Raises:
        ArchiveError: the archive does not answer, or `rest` could not get all.
    """
    whole = Days(day_of(since or ""))
    found, longest, told = set[str](), 0, False
    waiting = [(whole, ask(whole))]
    while waiting:
        days, answer = waiting.pop()
        found |= answer.days.keys()
        if answer.cut:
            longest = max(longest, len(answer.days))
        elif len(answer.days) <= longest:
            continue
        parts = _parts(ask, days, answer)
        if not parts:
            found |= set(with_retries(partial(rest, days)) if answer.cut else ())
            continue
        if not answer.cut:
            new = {uid for _, part in parts for uid in part.days} - answer.days.keys()
            if not new or new <= ask(days).days.keys():  # the new ones have arrived meanwhile
                found |= new
                longest = len(answer.days)
                continue
        if not told:
            _tell(answer, since)
            told = True
        waiting += parts
    return found


def _parts(ask: Callable[[Days], Found], days: Days, answer: Found) -> list[tuple[Days, Found]]:
    """Ask for both halves of a range of days; nothing if it cannot be divided, or not without losing studies."""
    halves = days.halves(answer.days.values())
    if halves is None or (answer.cut and not str(days) and not all(answer.days.values())):
        return []
    parts = [(half, with_retries(partial(ask, half))) for half in halves]
    divides = all(half.holds(text) for half, part in parts for text in part.days.values())
    return parts if divides else []  # it does not search by days


def _tell(answer: Found, since: str | None) -> None:
    if not answer.cut:
        logger.warning(
            "the archive gave %d studies and has more, without a word of it: raise its limit on results (in Orthanc, "
            "LimitFindResults). Until then studies may be missed",
            len(answer.days),
        )
    elif since is None:
        logger.info("the archive has many studies, and is asked by StudyDate: those without one may be missed")

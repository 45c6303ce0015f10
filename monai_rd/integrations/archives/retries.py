"""Retries: how often an archive is tried, and how long to wait in between."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from monai_rd.integrations.archives.failures import ArchiveError

__all__ = ["ATTEMPTS", "RetryPolicy", "with_retries"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
ATTEMPTS = 5
_LONGEST = 60.0  # longest pause in seconds that an archive may ask for


def with_retries(action: Callable[[], T], attempts: int = ATTEMPTS, wait: float = 1.0) -> T:
    """Call an action, and retry it after 1, 2, 4, ... times `wait` seconds if it fails.

    Failures that are not transient (`Failure`) are not retried, nor if the archive asks for a pause of more than a
    minute.

    Args:
        action: the function to call; raises `ArchiveError` if it fails.
        attempts: total number of attempts.
        wait: first pause in seconds.

    Returns:
        The result of the action.

    Raises:
        ArchiveError: the error of the last attempt.
    """
    doubling = wait_exponential(multiplier=wait)

    def pause(state: RetryCallState) -> float:
        return max(doubling(state), _error(state).wait)

    def tell(state: RetryCallState) -> None:
        said = (_error(state), state.upcoming_sleep, state.attempt_number + 1, attempts)
        logger.warning("%s; again in %.0f s (attempt %d of %d)", *said)

    again = retry_if_exception(lambda e: isinstance(e, ArchiveError) and e.kind.transient and e.wait <= _LONGEST)
    tries = Retrying(stop=stop_after_attempt(attempts), wait=pause, retry=again, before_sleep=tell, reraise=True)
    return tries(action)


def _error(state: RetryCallState) -> ArchiveError:
    error = None if state.outcome is None else state.outcome.exception()
    assert isinstance(error, ArchiveError)
    return error


class RetryPolicy:
    """How often an archive is tried: five times, but only once after all attempts have failed, until one succeeds.

    Attributes:
        attempts: current number of attempts.
        gone: whether the archive is given up: a permanent failure that affects all studies, or a transient one twice in
            a row.
    """

    def __init__(self) -> None:
        self.attempts, self.gone = ATTEMPTS, False
        self._was_away = False

    def failed(self, error: ArchiveError) -> None:
        """Record that all attempts of an action have failed."""
        self.gone = error.kind.affects_all and (self._was_away or not error.kind.transient)
        self._was_away = error.kind.affects_all
        if error.kind.transient:
            self.attempts = 1

    def succeeded(self) -> None:
        """Record that an action has succeeded."""
        self.attempts, self.gone, self._was_away = ATTEMPTS, False, False

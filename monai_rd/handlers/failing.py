"""Several exception handlers on one Ignite engine."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

from ignite.engine import Engine, Events

__all__ = ["on_failure"]

Act = Callable[[Engine, BaseException], BaseException | None]


class _Acts(list[Act]):
    """The handlers of an engine, and the error they last raised, which Ignite reports a second time."""

    told: BaseException | None = None


_ACTS: WeakKeyDictionary[Engine, _Acts] = WeakKeyDictionary()


def on_failure(engine: Engine, act: Act) -> None:
    """Register a function that is called when an engine's run fails, before the error is raised again.

    A handler of Ignite's `EXCEPTION_RAISED` has to raise the error again, and the first one that does so prevents all
    later ones from running. Functions registered here are all called, in the order of registration.

    Args:
        engine: the engine.
        act: called with the engine and the error; it returns an error to raise instead, or None.
    """
    if engine not in _ACTS:
        _ACTS[engine] = _Acts()
        engine.add_event_handler(Events.EXCEPTION_RAISED, _failed)
    _ACTS[engine].append(act)


def _failed(engine: Engine, error: BaseException) -> None:
    acts = _ACTS[engine]
    if error is acts.told:
        raise error
    acts.told = error
    for act in acts:
        acts.told = act(engine, acts.told) or acts.told
    if acts.told is error:
        raise error
    raise acts.told from error

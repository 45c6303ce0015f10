"""What is done when a run fails, whoever else wants something done too."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

from ignite.engine import Engine, Events

__all__ = ["on_failure"]

Act = Callable[[Engine, BaseException], BaseException | None]


class _Acts(list[Act]):
    """What is done, and the error that went on after it: Ignite tells its own outer loop of that one too."""

    told: BaseException | None = None


_ACTS: WeakKeyDictionary[Engine, _Acts] = WeakKeyDictionary()


def on_failure(engine: Engine, act: Act) -> None:
    """Let something be done when an engine's run fails, before the error goes on.

    Ignite asks its handlers of `EXCEPTION_RAISED` to raise the error again, and the first that does leaves out all
    others. Here all are called, in the order in which they came.

    Args:
        engine: whose run it is.
        act: gets the engine and the error; gives the error that is to go on in its place, or None.
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

"""Coroutine steps: the engine works in a thread, what is `async` runs on the event loop of the caller.

There is one engine, and it is synchronous. An awaitable call runs it in a thread of its own; a step that
turns out to be a coroutine is handed back to the loop of the caller, and the thread waits for it. When the
awaiting task is cancelled, so is the step under way; no other starts, and the run is left as interrupted.

This module is the engine's side of it; `event_loop` is the other, and the only one that imports asyncio.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextvars import ContextVar
from types import FunctionType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from resume_engine.core import clock
from resume_engine.core.errors import InvalidValueError

if TYPE_CHECKING:
    from resume_engine.core.step import Step

Engine = TypeVar("Engine")
Given = ParamSpec("Given")
Result = TypeVar("Result")


class Bridge(Protocol):
    """The way from the engine's thread to the loop of the task that awaits it."""

    def wait_for(self, value: Awaitable[object], step_name: str, timeout: float | None) -> object:
        """Run an awaitable on the loop and return its outcome."""
        ...

    def sleep(self, seconds: float) -> object:
        """Wait, no longer than until the task is cancelled."""
        ...

    def raise_if_cancelled(self) -> None:
        """Raise `asyncio.CancelledError` when the task is cancelled."""
        ...


bridge: ContextVar[Bridge | None] = ContextVar("resume_engine_bridge", default=None)
"""Set in a thread that works for an awaiting task."""


def awaitable(
    call: Callable[Concatenate[Engine, Given], Result],
) -> Callable[Concatenate[Engine, Given], Coroutine[Any, Any, Result]]:
    """Return the form of a method to await: the same arguments, records and errors."""

    @functools.wraps(call)
    async def begin(engine: Engine, /, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        # Importing asyncio takes longer than importing the engine: only those who await pay for it.
        from resume_engine.core.event_loop import in_thread

        return await in_thread(functools.partial(call, engine, *args, **kwargs))

    begin.__name__ = f"a{call.__name__}"
    begin.__qualname__ = f"{call.__qualname__.rpartition('.')[0]}.{begin.__name__}"
    begin.__doc__ = f"Do what `{call.__name__}` does, to be awaited; steps may be coroutine functions."
    return begin


def refuse_coroutines(steps: Iterable[Step]) -> None:
    """Raise `InvalidValueError` for a step that needs an event loop when there is none to run it."""
    if bridge.get() is not None:
        return
    for step in steps:
        if needs_loop(step):
            raise InvalidValueError("steps", f"{step.name!r} is a coroutine function; {_ADVICE}")


def needs_loop(step: Step) -> bool:
    """Return whether a step can only be executed by an awaitable call."""
    fn = step.fn
    if type(fn) is FunctionType and not fn.__dict__ and step.reconcile is None:
        return fn.__code__.co_flags & inspect.CO_COROUTINE != 0  # what nearly every step is
    return is_coroutine_function(fn) or is_coroutine_function(step.reconcile)


def run_on_own_loop(call: Coroutine[Any, Any, Result]) -> Result:
    """Run an awaitable call to its end on a loop made for it, in a thread that has none."""
    import asyncio

    return asyncio.run(call)


def is_coroutine_function(fn: object) -> bool:
    """Return whether calling `fn` makes a coroutine, as far as that can be told before."""
    if fn is None:
        return False
    if inspect.iscoroutinefunction(fn):
        return True
    return not isinstance(fn, FunctionType) and inspect.iscoroutinefunction(type(fn).__call__)


def settled(value: object, step_name: str, timeout: float | None = None) -> object:
    """Return what a step returned, or the outcome of the awaitable that it returned."""
    if not inspect.isawaitable(value):
        return value
    way_back = bridge.get()
    if way_back is not None:
        return way_back.wait_for(value, step_name, timeout)
    if inspect.iscoroutine(value):
        value.close()
    raise InvalidValueError("steps", f"{step_name!r} returned something to await; {_ADVICE}")


_ADVICE = "it was not run. Use the awaitable call, for example `await engine.aexecute_workflow(...)`"


def pause(seconds: float) -> None:
    """Wait; a cancellation of the awaiting task ends the wait."""
    way_back = bridge.get()
    if way_back is None:
        clock.pause(seconds)
    else:
        clock.pause(seconds, way_back.sleep)
        way_back.raise_if_cancelled()


def raise_if_cancelled() -> None:
    """Raise `asyncio.CancelledError` when the task that awaits this execution was cancelled."""
    way_back = bridge.get()
    if way_back is not None:
        way_back.raise_if_cancelled()

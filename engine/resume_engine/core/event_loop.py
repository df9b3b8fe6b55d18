"""The event loop's side of `async_bridge`: a thread for the engine, and the caller's loop for its steps."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from resume_engine.core.async_bridge import bridge
from resume_engine.core.errors import StepTimeoutError
from resume_engine.core.failure_classifier import TransientStepError

Result = TypeVar("Result")

_LOOP_CHECK_SECONDS = 1.0  # how often a waiting thread looks whether the loop is there at all


class LoopBridge:
    """Lead from the engine's thread back to the loop of the task that awaits it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._cancelled = threading.Event()
        self._under_way: asyncio.Task[Any] | None = None

    def cancel(self) -> None:
        """Cancel the step under way and let no other begin; called on the loop."""
        self._cancelled.set()
        if self._under_way is not None:
            self._under_way.cancel()

    def raise_if_cancelled(self) -> None:
        """Raise `asyncio.CancelledError` when the task is cancelled."""
        if self._cancelled.is_set():
            raise asyncio.CancelledError

    def sleep(self, seconds: float) -> object:
        """Wait, no longer than until the task is cancelled."""
        return self._cancelled.wait(seconds)

    def wait_for(self, value: Awaitable[object], step_name: str, timeout: float | None) -> object:
        """Run an awaitable on the loop and return its outcome; called in the engine's thread."""
        supervised = self._supervised(value, step_name, timeout)
        try:
            future = asyncio.run_coroutine_threadsafe(supervised, self._loop)
        except RuntimeError as problem:  # the loop was closed: nobody is left to run a step
            supervised.close()
            raise asyncio.CancelledError from problem
        while not concurrent.futures.wait([future], _LOOP_CHECK_SECONDS).done:
            if self._loop.is_closed():
                raise asyncio.CancelledError
        try:
            return future.result()
        except concurrent.futures.CancelledError as ended:
            # An `Exception`, which the engine would record as the failure of the step.
            self.raise_if_cancelled()
            raise TransientStepError(f"Step {step_name!r} was cancelled, though not by its caller") from ended

    async def _supervised(self, value: Awaitable[object], step_name: str, timeout: float | None) -> object:
        if self._cancelled.is_set():
            if inspect.iscoroutine(value):
                value.close()
            raise asyncio.CancelledError
        bridge.set(None)  # what the step itself calls runs on the loop and must not wait for the loop
        self._under_way = asyncio.current_task()
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                return await value
        except TimeoutError as late:
            if limit.expired():
                raise StepTimeoutError(step_name, timeout or 0) from late
            raise
        finally:
            self._under_way = None


async def in_thread(call: Callable[[], Result]) -> Result:
    """Run `call` in a thread of its own that sees the caller's context variables, and await its end.

    Not a thread of the loop's pool: runs that wait for each other must not wait for a free thread as well.
    A cancellation waits until the engine has let go of the run, so that it can be resumed at once.
    """
    loop = asyncio.get_running_loop()
    way_back = LoopBridge(loop)
    ended = loop.create_future()
    outcome: list[Result] = []
    problem: list[BaseException] = []

    def work() -> None:
        bridge.set(way_back)
        try:
            outcome.append(call())
        except BaseException as error:
            problem.append(error)
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_end, ended)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name="resume-engine-await", daemon=True).start()
    await _until(ended, way_back)
    if problem:
        raise problem.pop()
    return outcome.pop()


def _end(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


async def _until(ended: asyncio.Future[None], way_back: LoopBridge) -> None:
    cancellation: asyncio.CancelledError | None = None
    while not ended.done():
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError as asked:
            cancellation = asked
            way_back.cancel()
        except GeneratorExit:
            way_back.cancel()
            raise
    if cancellation is not None:
        raise cancellation

"""Coroutine functions as steps, and the loop that runs them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Coroutine
from typing import Any

from tests.factories import steps

State = dict[str, Any]
PROMPT = 5.0  # seconds that only a test which hangs would need


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def coroutines(count: int, *, fail_at: int | None = None, error: Exception | None = None) -> list[Any]:
    """Return what `tests.factories.steps` returns, as coroutine functions."""

    def coroutine_of(step: Any) -> Any:
        async def call(state: State, key: str) -> State:
            await asyncio.sleep(0)
            output: State = step(state, key)
            return output

        return call

    return [(name, coroutine_of(fn)) for name, fn in steps(count, fail_at=fail_at, error=error)]


class _Callable:
    async def __call__(self, state: State, _key: str) -> State:
        return {"of": "an object"}


async def _with_option(option: str, _state: State, _key: str) -> State:
    return {"of": option}


COROUTINE_STEPS: dict[str, Any] = {
    "an object": _Callable(),
    "a partial": functools.partial(_with_option, "a partial"),
    "a lambda": lambda state, key: _with_option("a lambda", state, key),
}


async def undo(_state: State, _key: str) -> State:
    return {"undone": True}

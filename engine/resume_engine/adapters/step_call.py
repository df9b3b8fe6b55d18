"""How the adapters hand a framework's state to a step, and the step's record back."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import InvalidValueError
from resume_engine.core.step import check_step_name

State = dict[str, Any]

KEY_PARAMETERS = frozenset({"key", "idempotency_key"})
"""Names that a keyword-only parameter for the idempotency key may have."""


class StepCall:
    """Call one function as one durable step of one run.

    The function takes the state alone, or the state and the idempotency key: it gets the key when it has
    a second positional parameter that is not one of `reserved` (what a framework injects by name), or a
    keyword-only parameter `key` or `idempotency_key`. Its class of failure, the gates and the record are
    the engine's: `execute` raises what `ResumeEngine.execute_step` raises.
    """

    def __init__(
        self,
        engine: ResumeEngine,
        run_id: str,
        step_name: str,
        step_index: int,
        fn: Callable[..., Any],
        *,
        reserved: Collection[str] = (),
    ) -> None:
        check_step_name(step_name)
        if inspect.iscoroutinefunction(fn) or inspect.isgeneratorfunction(fn):
            raise InvalidValueError(
                step_name, "is a coroutine or generator function; give a function that returns a dict"
            )
        self.engine = engine
        self.run_id = run_id
        self.step_name = step_name
        self.step_index = step_index
        self.fn = fn
        self.key_argument = key_argument(fn, reserved)

    def call(self, state: Any, key: str, **extra: Any) -> Any:
        """Call the function itself, with the idempotency key if it takes one."""
        if self.key_argument is None:
            return self.fn(state, **extra)
        if self.key_argument == "":
            return self.fn(state, key, **extra)
        return self.fn(state, **{self.key_argument: key}, **extra)

    def execute(self, state: Any, recorded: State, **extra: Any) -> State:
        """Execute the step with `recorded` as its input and return the output as it was recorded.

        The function sees `state` itself when the framework's state is more than JSON (a model, message
        objects); a state that is plain JSON reaches it as a copy, so that the record stays what it was.
        """
        copied = is_json(state) and state == recorded

        def step(input_data: State, key: str) -> State:
            output = self.call(input_data if copied else state, key, **extra)
            # Anything that is not a dict or a model stays what it is: the engine says what is wrong with it.
            recordable: State = (
                as_plain(output) if isinstance(output, Mapping) or _is_model(output) else output
            )
            return recordable

        record = self.engine.execute_step(self.run_id, self.step_name, self.step_index, recorded, step)
        return record.output_data or {}


def key_argument(fn: Callable[..., Any], reserved: Collection[str]) -> str | None:
    """Return how `fn` takes the idempotency key: by this name, by position (""), or not at all (None)."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        return None  # a callable that does not tell its parameters is given the state alone
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name in KEY_PARAMETERS:
            return parameter.name
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) < 2:
        return None
    second = positional[1]
    if second.name in KEY_PARAMETERS:
        return ""
    return "" if second.default is second.empty and second.name not in reserved else None


def as_mapping(state: Any) -> State:
    """Return a framework's state as a dict of plain values; raise `InvalidValueError` when it is none."""
    if state is None:
        return {}
    plain = as_plain(state)
    if not isinstance(plain, dict):
        raise InvalidValueError("state", f"must be a dict or a model, found {type(state).__name__}")
    return plain


def as_plain(value: Any) -> Any:
    """Return `value` with models and dataclasses, at any depth, as the JSON they stand for.

    What is neither stays as it is: whether JSON can hold it is for the engine to say.
    """
    if isinstance(value, Mapping):
        return {name: as_plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if _is_model(value):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value


def is_json(value: Any) -> bool:
    """Return whether `value` is made of nothing but what JSON knows."""
    if isinstance(value, dict):
        return all(isinstance(name, str) and is_json(item) for name, item in value.items())
    if isinstance(value, list | tuple):
        return all(is_json(item) for item in value)
    return value is None or type(value) in (str, int, float, bool)


def _is_model(value: Any) -> bool:
    return callable(getattr(value, "model_dump", None)) and not isinstance(value, type)

"""`@durable_step`: a plain function that can be executed as a step of a run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from resume_engine.adapters.step_call import State, StepCall, as_mapping
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import OutputNotDictError


class DurableStep:
    """A function with `execute`, which runs it as a durable step.

    Calling it directly, `step(state)` or `step(state, key)`, runs the function and records nothing; that
    is also what makes it usable as `(step.step_name, step)` in `execute_workflow`.
    """

    def __init__(self, call: StepCall) -> None:
        self._call = call
        functools.update_wrapper(self, call.fn)

    @property
    def step_name(self) -> str:
        """Return the name the step is recorded under."""
        return self._call.step_name

    @property
    def step_index(self) -> int:
        """Return the position of the step in its run."""
        return self._call.step_index

    @property
    def run_id(self) -> str:
        """Return the run the step belongs to."""
        return self._call.run_id

    def __call__(self, input_data: State, idempotency_key: str = "") -> State:
        """Run the function without a record."""
        output = self._call.call(input_data, idempotency_key)
        if not isinstance(output, dict):
            raise OutputNotDictError(self.run_id, self.step_name, self.step_index, type(output).__name__)
        return output

    def execute(self, input_data: Any = None, **values: Any) -> State:
        """Run the function as a durable step, or return the output recorded for this input before.

        `values` are merged into `input_data`. Raises what the function raises, after recording it, and
        `ResumeBlockedError` while a gate is closed.
        """
        state = input_data if not values else {**as_mapping(input_data), **as_mapping(values)}
        return self._call.execute(state, as_mapping(state))


def durable_step(
    engine: ResumeEngine, run_id: str, step_name: str, step_index: int
) -> Callable[[Callable[..., Mapping[str, Any]]], DurableStep]:
    """Make a function a durable step of a run.

    @durable_step(engine, run.run_id, "enrich", 2)
    def enrich(state: dict) -> dict:
        return {"enriched": model.run(state)}

    result = enrich.execute({"input": "data"})

    The function takes the state, and the idempotency key if it wants it: `(state)` or `(state, key)`.
    """

    def decorate(fn: Callable[..., Mapping[str, Any]]) -> DurableStep:
        return DurableStep(StepCall(engine, run_id, step_name, step_index, fn))

    return decorate

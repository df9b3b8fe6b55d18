"""CrewAI: a flow whose completed tasks never run again.

    @start()
    def ingest(self):
        return wrap_crewai_task(engine, run.run_id, "ingest", 0, scrape)(self.state)

Kick the flow off again after a failure: completed tasks return their recorded output.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from resume_engine.adapters.step_call import State, StepCall, as_mapping
from resume_engine.core.engine import ResumeEngine

TaskFunction = Callable[..., Any]

FLOW_ID = "id"
"""CrewAI puts a random id of the flow object under this name into every state."""


def wrap_crewai_task(
    engine: ResumeEngine, run_id: str, task_name: str, step_index: int, task_fn: TaskFunction
) -> Callable[..., State]:
    """Return a function that executes `task_fn` as a durable step.

    Call it with the flow's state (a dict or a pydantic model) and, if wanted, more values by name, which
    are merged into it. `task_fn` takes the state, and the idempotency key if it wants it. The flow's own
    random id is not part of the recorded input: a flow kicked off again has another one, and its
    completed tasks must be recognised all the same.
    """
    call = StepCall(engine, run_id, task_name, step_index, task_fn)

    @functools.wraps(task_fn)
    def task(state: Any = None, **values: Any) -> State:
        recorded = as_mapping(state)
        if values:
            recorded = state = {**recorded, **as_mapping(values)}
        return call.execute(state, _without_flow_id(recorded))

    if getattr(task_fn, "__name__", "<lambda>") == "<lambda>":
        task.__name__ = task_name
    return task


def wrap_crewai_flow_tasks(
    engine: ResumeEngine, run_id: str, tasks: Iterable[tuple[str, int, TaskFunction]]
) -> list[tuple[str, Callable[..., State]]]:
    """Wrap several tasks, given as `(name, step_index, task_fn)`; return `(name, wrapped)` pairs."""
    return [(name, wrap_crewai_task(engine, run_id, name, index, fn)) for name, index, fn in tasks]


def _without_flow_id(state: State) -> State:
    try:
        random_id = uuid.UUID(state[FLOW_ID]).version == 4
    except (KeyError, ValueError, TypeError, AttributeError):
        return state
    return {name: value for name, value in state.items() if name != FLOW_ID} if random_id else state

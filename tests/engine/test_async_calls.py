"""Awaitable calls beside the plain ones: what those refuse, and what a caller hands on and sees."""

from __future__ import annotations

import contextvars
import inspect
import subprocess
import sys

import pytest

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import InvalidValueError
from resume_engine.core.step import Step
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.engine.coroutines import COROUTINE_STEPS, State, coroutines, run, undo
from tests.factories import passing
from tests.stores.changes import summary

# Without a loop


@pytest.mark.parametrize("kind", ["fn", "reconcile"])
def test_the_plain_call_refuses_a_coroutine_function_before_it_writes(
    engine: ResumeEngine, store: SqlCheckpointStore, kind: str
) -> None:
    step = {"fn": passing({}), kind: undo}
    workflow = [("first", passing({})), Step("second", **step)]
    run_id = engine.start_run("billing").run_id
    before = summary(store, run_id)
    for call in (engine.execute_workflow, engine.resume):
        with pytest.raises(InvalidValueError, match=r"^steps: 'second' is a coroutine .*aexecute_workflow"):
            call(run_id, workflow)
    assert summary(store, run_id) == before


def test_a_plain_single_step_refuses_it_too(engine: ResumeEngine, store: SqlCheckpointStore) -> None:
    run_id = engine.start_run("billing").run_id
    before = summary(store, run_id)
    with pytest.raises(InvalidValueError, match="coroutine function"):
        engine.execute_step(run_id, "a", 0, {}, undo)
    assert summary(store, run_id) == before


def test_a_coroutine_that_nobody_could_foresee_fails_its_step(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(InvalidValueError, match="'a' returned something to await; it was not run"):
        engine.execute_workflow(run_id, [("a", COROUTINE_STEPS["a lambda"])])
    failure = summary(engine.store, run_id).failure
    assert failure is not None and failure.classification is FailureClassification.PERMANENT


def test_a_plain_call_inside_a_coroutine_step_refuses_instead_of_waiting_for_itself(
    engine: ResumeEngine,
) -> None:
    inner_id = engine.start_run("inner").run_id

    async def outer(_state: State, _key: str) -> State:
        with pytest.raises(InvalidValueError, match="coroutine function"):
            engine.execute_workflow(inner_id, coroutines(1))
        done = await engine.aexecute_workflow(inner_id, coroutines(1))
        return {"inner": done.status.value}

    done = run(engine.aexecute_workflow(engine.start_run("outer").run_id, [("a", outer)]))
    assert done.steps[0].output_data == {"inner": "completed"}


# Context variables


request = contextvars.ContextVar("request", default="none")


def test_steps_see_the_context_variables_of_the_caller(engine: ResumeEngine) -> None:
    seen: list[str] = []

    async def coroutine(_state: State, _key: str) -> State:
        seen.append(request.get())
        request.set("changed by a step")
        return {}

    def function(_state: State, _key: str) -> State:
        seen.append(request.get())
        return {}

    async def call(run_id: str) -> str:
        request.set("r-1")
        await engine.aexecute_workflow(
            run_id, [("a", coroutine), Step("b", function, timeout=10), Step("c", coroutine, timeout=10)]
        )
        return request.get()

    assert run(call(engine.start_run("billing").run_id)) == "r-1"
    assert seen == ["r-1"] * 3


# What a developer sees


def test_the_awaitable_calls_tell_their_names_and_arguments() -> None:
    for name in ("execute_workflow", "resume", "execute_step", "execute_compensation"):
        call = getattr(ResumeEngine, f"a{name}")
        assert inspect.iscoroutinefunction(call) and call.__name__ == f"a{name}"
        assert inspect.signature(call).parameters == inspect.signature(getattr(ResumeEngine, name)).parameters
        assert f"`{name}`" in (call.__doc__ or "")


def test_importing_the_engine_does_not_import_asyncio() -> None:
    script = "import sys, resume_engine; print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

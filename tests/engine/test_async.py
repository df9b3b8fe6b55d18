"""Coroutine steps: the same engine, records and rules, awaited."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import OutputNotDictError, ResumeBlockedError, RunBusyError
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError, TransientStepError
from resume_engine.core.run import RunStatus
from resume_engine.core.step import Step
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.worker import Worker
from tests.engine.coroutines import COROUTINE_STEPS, State, coroutines, run, undo
from tests.factories import failing, passing, steps
from tests.stores.changes import summary


@pytest.fixture
def file_store(tmp_path: Path) -> Any:
    """A store with more than one connection: the heart beats beside the step."""
    with open_store(f"sqlite:///{tmp_path / 'x.db'}") as opened:
        yield opened


# The same records


def test_coroutine_steps_leave_the_records_that_functions_leave(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing", run_id="run-1").run_id
    done = run(engine.aexecute_workflow(run_id, coroutines(3), initial_input={"order": 7}))
    assert done.status is RunStatus.COMPLETED
    trace = engine.get_audit_log(run_id)
    with open_store("sqlite:///:memory:") as other_store:
        other = ResumeEngine(other_store)
        other.start_run("billing", run_id="run-1")
        other.execute_workflow("run-1", steps(3), initial_input={"order": 7})
        assert other.get_audit_log("run-1") == trace
    assert engine.replay_run(run_id, coroutines(3))[1] == trace


def test_steps_of_both_kinds_mix(engine: ResumeEngine) -> None:
    threads: list[str] = []

    async def on_the_loop(state: State, _key: str) -> State:
        threads.append(threading.current_thread().name)
        return {"loop": state["first"] + 1}

    def in_the_thread(_state: State, _key: str) -> State:
        threads.append(threading.current_thread().name)
        return {"first": 1}

    run_id = engine.start_run("billing").run_id
    workflow = [("first", in_the_thread), ("second", on_the_loop), ("third", passing({"c": 3}))]
    done = run(engine.aexecute_workflow(run_id, workflow))
    assert [step.output_data for step in done.steps] == [{"first": 1}, {"loop": 2}, {"c": 3}]
    assert threads[1] == threading.main_thread().name != threads[0]


@pytest.mark.parametrize("kind", COROUTINE_STEPS)
def test_anything_that_makes_a_coroutine_is_awaited(engine: ResumeEngine, kind: str) -> None:
    run_id = engine.start_run("billing").run_id
    done = run(engine.aexecute_workflow(run_id, [("a", COROUTINE_STEPS[kind])]))
    assert done.steps[0].output_data == {"of": kind}


def test_a_failed_run_is_resumed_with_its_recorded_state(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    broken = coroutines(4, fail_at=2, error=TransientStepError("timed out"))
    with pytest.raises(TransientStepError, match="timed out"):
        run(engine.aexecute_workflow(run_id, broken, initial_input={"order": 7}))
    assert summary(engine.store, run_id).status is RunStatus.FAILED
    done = run(engine.aresume(run_id, coroutines(4)))
    assert done.status is RunStatus.COMPLETED
    assert done.steps[-1].input_data == {"order": 7, "out_0": 0, "out_1": 1, "out_2": 2}


def test_gates_hold(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(PermanentStepError):
        run(engine.aexecute_workflow(run_id, coroutines(2, fail_at=1)))
    with pytest.raises(ResumeBlockedError):
        run(engine.aresume(run_id, coroutines(2)))
    engine.grant_human_approval(run_id, "olga@example.com")
    assert run(engine.aresume(run_id, coroutines(2))).status is RunStatus.COMPLETED


def test_a_single_step_is_awaited_and_not_repeated(engine: ResumeEngine) -> None:
    calls: list[str] = []

    async def step(_state: State, key: str) -> State:
        calls.append(key)
        return {"done": True}

    async def both(run_id: str) -> list[Any]:
        first = await engine.aexecute_step(run_id, "a", 0, {"x": 1}, step)
        return [first, await engine.aexecute_step(run_id, "a", 0, {"x": 1}, step)]

    first, second = run(both(engine.start_run("billing").run_id))
    assert first.output_data == second.output_data == {"done": True}
    assert calls == [first.idempotency_key]


def test_branches_of_one_run_go_on_beside_each_other(file_store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(file_store)
    met = asyncio.Barrier(4)

    async def branch(_state: State, _key: str) -> State:
        await met.wait()  # none of them ends before all have begun
        return {}

    async def all_of(run_id: str) -> None:
        calls = (engine.aexecute_step(run_id, f"step_{i}", i, {}, branch) for i in range(4))
        await asyncio.gather(*calls)

    with engine.run("billing") as started:
        run(all_of(started.run_id))
    assert sorted(step.step_index for step in file_store.iter_steps(started.run_id)) == [0, 1, 2, 3]


def test_many_runs_wait_for_each_other_without_waiting_for_a_thread(file_store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(file_store)
    met = asyncio.Barrier(40)

    async def meet(_state: State, _key: str) -> State:
        await met.wait()
        return {}

    async def all_of() -> list[Any]:
        ids = [engine.start_run("billing").run_id for _ in range(40)]
        return await asyncio.gather(*(engine.aexecute_workflow(i, [("meet", meet)]) for i in ids))

    assert {done.status for done in run(all_of())} == {RunStatus.COMPLETED}


def test_a_compensation_may_be_a_coroutine_function(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(PartialStepError):
        run(engine.aexecute_workflow(run_id, coroutines(2, fail_at=1, error=PartialStepError("half"))))
    undone = run(engine.aexecute_compensation(run_id, undo))
    assert undone.output_data == {"undone": True}
    assert run(engine.aresume(run_id, coroutines(2))).status is RunStatus.COMPLETED


def test_a_reconciliation_may_be_a_coroutine_function(engine: ResumeEngine) -> None:
    async def found(state: State, _key: str) -> State:
        return {"found": state["order"]}

    run_id = engine.start_run("billing").run_id
    with pytest.raises(KeyboardInterrupt):
        engine.execute_workflow(run_id, [("a", _stopped)], initial_input={"order": 7})
    done = run(engine.aresume(run_id, [Step("a", coroutines(1)[0][1], reconcile=found)]))
    assert done.steps[0].output_data == {"found": 7}


def _stopped(_state: State, _key: str) -> State:
    raise KeyboardInterrupt


def test_what_a_coroutine_returns_is_checked(engine: ResumeEngine) -> None:
    async def nothing(_state: State, _key: str) -> None:
        return None

    with pytest.raises(OutputNotDictError, match="returned NoneType"):
        run(engine.aexecute_workflow(engine.start_run("billing").run_id, [("a", nothing)]))


def test_a_worker_resumes_runs_with_coroutine_steps(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(PermanentStepError):
        run(engine.aexecute_workflow(run_id, coroutines(3, fail_at=1)))
    engine.grant_human_approval(run_id, "olga@example.com")
    worker = Worker(engine, {"billing": coroutines(3)})
    assert worker.run_once() == 1
    assert summary(engine.store, run_id).status is RunStatus.COMPLETED


# The lease


def test_the_heart_beats_while_a_coroutine_works(file_store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(file_store, lease_seconds=0.3)
    run_id = engine.start_run("billing").run_id

    async def slow(_state: State, _key: str) -> State:
        for _ in range(4):
            await asyncio.sleep(0.2)
            with pytest.raises(RunBusyError):
                ResumeEngine(file_store).resume(run_id, [("a", failing(ValueError("never")))])
        return {}

    assert run(engine.aexecute_workflow(run_id, [("a", slow)])).status is RunStatus.COMPLETED

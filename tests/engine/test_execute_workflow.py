"""A workflow: the state its steps see, where it goes on, and what it leaves behind."""

from __future__ import annotations

import pytest

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import RunBusyError, RunFinishedError, RunNotFoundError
from resume_engine.core.failure_classifier import PermanentStepError, TransientStepError
from resume_engine.core.idempotency import generate_idempotency_key, hash_input
from resume_engine.core.permissions import Role
from resume_engine.core.run import RunStatus
from resume_engine.core.run_summary import RunState
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.engine.counted import Counted
from tests.factories import RunFactory, passing, steps
from tests.stores.changes import summary

# Workflows


def test_the_state_is_the_input_merged_with_each_output(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    first, second, third = Counted({"a": 1, "shared": "first"}), Counted({"shared": "second"}), Counted({})
    run = engine.execute_workflow(
        run_id, [("a", first), ("b", second), ("c", third)], initial_input={"order": 7}
    )
    assert run.status is RunStatus.COMPLETED
    assert [step.calls[0][0] for step in (first, second, third)] == [
        {"order": 7},
        {"order": 7, "a": 1, "shared": "first"},
        {"order": 7, "a": 1, "shared": "second"},
    ]


def test_outputs_reach_the_next_step_as_the_record_holds_them(engine: ResumeEngine) -> None:
    """A first run and a resumed one must see the same values."""
    run_id = engine.start_run("billing").run_id
    second = Counted()
    engine.execute_workflow(run_id, [("a", passing({"pair": (1, 2), 3: "x"})), ("b", second)])
    assert second.calls[0][0] == {"pair": [1, 2], "3": "x"}


def test_executing_again_goes_on_where_it_stopped(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    first, second = Counted({"a": 1}), Counted({"b": 2}, TransientStepError("x"))
    workflow = [("a", first), ("b", second)]
    with pytest.raises(TransientStepError):
        engine.execute_workflow(run_id, workflow, initial_input={"order": 7})
    run = engine.execute_workflow(run_id, workflow, initial_input={"order": 7})
    assert run.status is RunStatus.COMPLETED
    assert (len(first.calls), len(second.calls)) == (1, 2)
    assert second.calls[0] == second.calls[1], "same input, same key"


def test_a_completed_run_is_returned_as_it_is(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    step = Counted({"a": 1})
    done = engine.execute_workflow(run_id, [("a", step)])
    assert engine.resume(run_id, [("a", step)]) == done
    assert engine.execute_workflow(run_id, [("a", step)]) == done
    assert engine.complete_run(run_id) == done
    assert len(step.calls) == 1


def test_a_workflow_without_steps_completes(engine: ResumeEngine) -> None:
    assert engine.execute_workflow(engine.start_run("empty").run_id, []).status is RunStatus.COMPLETED


def test_an_injected_failure_is_transient_and_happens_once(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    step = Counted({"b": 1})
    workflow = [("a", passing({})), ("b", step)]
    with pytest.raises(TransientStepError, match="Injected failure at step 2"):
        engine.execute_workflow(run_id, workflow, inject_failure_at=1)
    assert step.calls == []
    assert engine.resume(run_id, workflow).status is RunStatus.COMPLETED


def test_a_finished_run_takes_no_step(engine: ResumeEngine, runs: RunFactory) -> None:
    for run in (runs.completed(), runs.cancelled()):
        with pytest.raises(RunFinishedError, match=f"Run {run.run_id} is {run.status}"):
            engine.execute_step(run.run_id, "more", 9, {}, passing({}))
    cancelled = runs.cancelled()
    with pytest.raises(RunFinishedError):
        engine.resume(cancelled.run_id, steps(3))
    with pytest.raises(RunFinishedError):
        engine.complete_run(cancelled.run_id)


def test_an_unknown_run_is_not_found(engine: ResumeEngine) -> None:
    for call in (
        lambda: engine.execute_step("none", "a", 0, {}, passing({})),
        lambda: engine.execute_workflow("none", steps(1)),
        lambda: engine.resume("none", steps(1)),
        lambda: engine.replay_run("none", steps(1)),
        lambda: engine.get_resume_blockers("none"),
        lambda: engine.get_audit_log("none"),
        lambda: engine.complete_run("none"),
        lambda: engine.grant_human_approval("none", "olga@example.com"),
        lambda: engine.execute_compensation("none", passing({})),
    ):
        with pytest.raises(RunNotFoundError, match="Run not found: none"):
            call()


def test_a_run_that_someone_executes_is_busy(engine: ResumeEngine, store: SqlCheckpointStore) -> None:
    held = RunFactory(store, worker="worker-2").running()
    for call in (
        lambda: engine.resume(held.run_id, steps(3)),
        lambda: engine.execute_step(held.run_id, "more", 2, {}, passing({})),
        lambda: engine.complete_run(held.run_id),
    ):
        with pytest.raises(RunBusyError, match=f"Run {held.run_id} is being executed by worker-2"):
            call()


# What is left behind


def test_every_act_leaves_one_event(engine: ResumeEngine, store: SqlCheckpointStore) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(PermanentStepError):
        engine.execute_workflow(run_id, steps(2, fail_at=1))
    engine.grant_human_approval(run_id, "olga@example.com", note="ok")
    worker = Actor(name="worker-9", role=Role.RUNNER, channel=Channel.WORKER)
    engine.resume(run_id, steps(2), actor=worker)
    events = store.list_events(run_id)
    assert [(event.event_type, event.actor, event.channel) for event in events] == [
        ("run.started", "worker-1", "library"),
        ("gate.approved", "olga@example.com", "library"),
        ("run.resumed", "worker-9", "worker"),
        ("run.completed", "worker-1", "library"),
    ]
    assert events[2].failure_key == "1:1"
    assert events[2].payload["resume_from_index"] == 1


def test_a_finished_run_holds_no_lease_and_no_failure(
    engine: ResumeEngine, store: SqlCheckpointStore
) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(TransientStepError):
        engine.execute_workflow(run_id, steps(2, fail_at=1, error=TransientStepError("x")))
    failed = summary(store, run_id)
    assert (failed.lease_owner, failed.lease_expires_at) == (None, None)
    engine.resume(run_id, steps(2))
    done = summary(store, run_id)
    assert (done.lease_owner, done.lease_expires_at, done.failure) == (None, None, None)
    assert done.finished_at is not None and done.state(done.finished_at) is RunState.COMPLETED
    assert (done.steps_completed, done.steps_total, done.resume_from_index) == (2, 2, 2)


def test_the_trace_is_the_records_without_a_clock(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing", run_id="run-1").run_id
    engine.execute_workflow(run_id, [("a", passing({"x": "ü"})), ("b", passing({}))], initial_input={"n": 1})
    hashes = [hash_input({"n": 1}), hash_input({"n": 1, "x": "ü"})]
    lines = [
        f'{{"idempotency_key":"{generate_idempotency_key(run_id, name, index, hashes[index])}",'
        f'"input_hash":"{hashes[index]}","output_data":{output},"sequence":{index},"status":"completed",'
        f'"step_index":{index},"step_name":"{name}"}}'
        for index, (name, output) in enumerate((("a", '{"x":"\\u00fc"}'), ("b", "{}")))
    ]
    assert engine.get_audit_log(run_id) == "\n".join(["run-1", "billing", *lines])
    run = engine.get_run_status(run_id)
    assert run is not None and run.audit_trace() == engine.get_audit_log(run_id)

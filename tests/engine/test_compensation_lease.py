"""A compensation is executed by one process at a time, and behind the closed gate until it is done."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from resume_engine.core.checkpoint_store import ResumeEngine
from resume_engine.core.clock import utc_now
from resume_engine.core.decisions import DecisionKind, DecisionRequest, decide
from resume_engine.core.errors import AlreadyDecidedError, ResumeBlockedError, RunBusyError
from resume_engine.core.failure_classifier import PartialStepError, TransientStepError
from resume_engine.core.policy import NO_POLICY
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.retry import Backoff, RetryPolicy
from resume_engine.core.run import RunStatus
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step import Step
from resume_engine.storage.schema import runs as runs_table
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import OLGA, RunFactory, failing, steps

State = dict[str, Any]
CLOSED = (GateAction.COMPENSATION,)


def summary(store: SqlCheckpointStore, run_id: str) -> RunSummary:
    found = store.load_summary(run_id)
    assert found is not None
    return found


def test_two_compensations_at_once_call_one_function(store: SqlCheckpointStore, runs: RunFactory) -> None:
    run_id = runs.blocked("partial").run_id
    calls: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def undo(_state: State, key: str) -> State:
        calls.append(key)
        begun.set()
        assert go_on.wait(10)
        return {"undone": True}

    first = threading.Thread(target=ResumeEngine(store).execute_compensation, args=(run_id, undo))
    first.start()
    assert begun.wait(10)
    with pytest.raises(RunBusyError, match="is being executed by"):
        ResumeEngine(store).execute_compensation(run_id, undo)
    go_on.set()
    first.join()
    assert len(calls) == 1
    after = summary(store, run_id)
    assert (after.status, after.blocked_by, after.lease_owner) == (RunStatus.PAUSED, (), None)


def test_the_gate_stays_closed_while_a_compensation_waits_for_its_retry(
    engine: ResumeEngine, store: SqlCheckpointStore
) -> None:
    seen: list[tuple[RunStatus, tuple[GateAction, ...], str | None]] = []

    def undo(_state: State, _key: str) -> State:
        run = summary(store, run_id)
        seen.append((run.status, run.blocked_by, run.in_flight[0].step_name))
        with pytest.raises(ResumeBlockedError):
            ResumeEngine(store).resume(run_id, workflow)
        if len(seen) < 3:
            raise TransientStepError("mail server is away")
        return {"undone": True}

    retry = RetryPolicy(attempts=3, backoff=Backoff(base_seconds=0.001))
    workflow = [Step("send", failing(PartialStepError("half done")), compensate=undo, retry=retry)]
    run_id = engine.start_run("mailing").run_id
    with pytest.raises(PartialStepError):
        engine.execute_workflow(run_id, workflow)
    record = engine.execute_compensation(run_id, steps=workflow)
    assert seen == [(RunStatus.FAILED, CLOSED, "__compensate__send")] * 3
    assert record.attempt == 3 and summary(store, run_id).blocked_by == ()


def test_a_branch_that_is_tried_again_does_not_open_the_gate_beside_it(
    engine: ResumeEngine, store: SqlCheckpointStore
) -> None:
    run_id = engine.start_run("fan_out").run_id
    seen: list[tuple[GateAction, ...]] = []

    def branch(_state: State, _key: str) -> State:
        if not seen:  # the other branch of this executor fails meanwhile, for good
            with pytest.raises(PartialStepError):
                engine.execute_step(run_id, "beside", 1, {}, failing(PartialStepError("half done")))
        seen.append(summary(store, run_id).blocked_by)
        if len(seen) < 2:
            raise TransientStepError("busy")
        return {}

    step = Step("branch", branch, retry=RetryPolicy(attempts=2, backoff=Backoff(base_seconds=0.001)))
    engine._executor.step(run_id, step, 0, {})
    assert seen == [CLOSED, CLOSED] and summary(store, run_id).blocked_by == CLOSED


def test_a_compensation_whose_process_vanished_is_run_again_with_the_same_key(
    store: SqlCheckpointStore, runs: RunFactory
) -> None:
    run_id = runs.blocked("partial").run_id
    keys: list[str] = []

    def vanish(_state: State, key: str) -> State:
        keys.append(key)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ResumeEngine(store).execute_compensation(run_id, vanish)
    left = summary(store, run_id)
    assert (left.status, left.blocked_by) == (RunStatus.FAILED, CLOSED)
    assert [step.step_name for step in left.in_flight] == ["__compensate__step_1"]
    with store.writing() as conn:  # the lease of a process on another machine has run out
        past = utc_now() - timedelta(seconds=1)
        conn.execute(update(runs_table).values(lease_owner="elsewhere", lease_expires_at=past))

    def undo(_state: State, key: str) -> State:
        keys.append(key)
        return {"undone": True}

    record = ResumeEngine(store).execute_compensation(run_id, undo)
    assert len(keys) == 2 and len(set(keys)) == 1
    assert record.attempt == 2 and summary(store, run_id).blocked_by == ()


def test_a_decision_made_meanwhile_wins_and_the_record_is_kept(
    store: SqlCheckpointStore, runs: RunFactory
) -> None:
    run_id = runs.blocked("partial").run_id

    def undo(_state: State, _key: str) -> State:
        decide(store, DecisionRequest(run_id=run_id, kind=DecisionKind.COMPENSATION, actor=OLGA), NO_POLICY)
        with pytest.raises(RunBusyError):  # not before the compensation is over
            ResumeEngine(store).resume(run_id, steps(3))
        return {"undone": True}

    with pytest.raises(AlreadyDecidedError):
        ResumeEngine(store).execute_compensation(run_id, undo)
    after = summary(store, run_id)
    assert (after.status, after.blocked_by, after.lease_owner) == (RunStatus.PAUSED, (), None)
    assert [r.step_name for r in store.iter_steps(run_id)][-1] == "__compensate__step_1"

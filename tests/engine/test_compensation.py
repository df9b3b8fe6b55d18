"""Compensations: what they get, when they run again, and which gate they open."""

from __future__ import annotations

import pytest

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.failure_classifier import PartialStepError, TransientStepError
from resume_engine.core.run import RunStatus
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.engine.counted import Counted
from tests.factories import RunFactory, steps
from tests.stores.changes import summary


def test_a_compensation_gets_the_failed_input_and_opens_the_gate(
    engine: ResumeEngine, runs: RunFactory, store: SqlCheckpointStore
) -> None:
    failed = runs.blocked("partial", initial_input={"mail": "m-1"})
    undo = Counted({"recalled": True})
    record = engine.execute_compensation(failed.run_id, undo)
    assert undo.calls[0][0] == {"mail": "m-1", "out_0": 0}
    assert (record.step_name, record.step_index, record.attempt) == ("__compensate__step_1", 1, 1)
    run = summary(store, failed.run_id)
    assert (run.status, run.blocked_by) == (RunStatus.PAUSED, ())
    [decided] = store.list_decisions(failed.run_id)
    assert (decided.result, decided.step_sequence) == ({"recalled": True}, record.sequence)
    assert engine.resume(failed.run_id, steps(3)).status is RunStatus.COMPLETED


def test_a_compensation_may_get_an_input_of_its_own(engine: ResumeEngine, runs: RunFactory) -> None:
    undo = Counted({})
    engine.execute_compensation(runs.blocked("partial").run_id, undo, input_data={"mail": "m-9"})
    assert undo.calls[0][0] == {"mail": "m-9"}


def test_a_compensation_that_fails_leaves_the_gate_closed(
    engine: ResumeEngine, runs: RunFactory, store: SqlCheckpointStore
) -> None:
    run_id = runs.blocked("partial").run_id
    before = summary(store, run_id)
    undo = Counted({}, TransientStepError("mail server is away"))
    with pytest.raises(TransientStepError):
        engine.execute_compensation(run_id, undo)
    after = summary(store, run_id)
    assert (after.failure, after.blocked_by, after.status) == (
        before.failure,
        before.blocked_by,
        before.status,
    )
    engine.execute_compensation(run_id, undo)
    assert len(undo.calls) == 2 and summary(store, run_id).blocked_by == ()


def test_a_compensation_whose_decision_was_lost_is_not_run_again(
    engine: ResumeEngine, runs: RunFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = runs.blocked("partial").run_id
    undo = Counted({"recalled": True})

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("resume_engine.core.compensation.decide", crash)
    with pytest.raises(KeyboardInterrupt):
        engine.execute_compensation(run_id, undo)
    monkeypatch.undo()
    assert engine.get_resume_blockers(run_id)
    engine.execute_compensation(run_id, undo)
    assert len(undo.calls) == 1 and engine.get_resume_blockers(run_id) == []


def test_each_failure_is_compensated_anew(engine: ResumeEngine, store: SqlCheckpointStore) -> None:
    """The same step, the same input, a second side effect: the first compensation does not undo it."""
    run_id = engine.start_run("billing").run_id
    charge = Counted({}, PartialStepError("1"), PartialStepError("2"), PartialStepError("3"))
    undo = Counted({"undone": True})
    for _ in range(3):
        with pytest.raises(PartialStepError):
            engine.execute_step(run_id, "charge", 0, {"amount": 7}, charge)
        engine.execute_compensation(run_id, undo)
    engine.execute_step(run_id, "charge", 0, {"amount": 7}, charge)
    assert len(undo.calls) == 3
    assert len({key for _, key in undo.calls}) == 3, "a receiver that honours keys undoes each of them"
    assert [record.step_name for record in store.iter_steps(run_id) if record.kind == "compensation"] == [
        "__compensate__charge",
        "__compensate__charge#2",
        "__compensate__charge#4",
    ]

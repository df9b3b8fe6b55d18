"""Rows of runs that are changed alone, with every guard in place: the entries contradict them.

No guard stands before a run's row, since every step of it changes the row; so whoever has the application's
database user can write there. What the entries tell must show it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from resume_engine.conformance.samples import failing, passing
from resume_engine.core.clock import utc_now
from resume_engine.core.decisions import decide
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import ResumeBlockedError
from resume_engine.core.failure_classifier import PermanentStepError, TransientStepError
from resume_engine.core.payload import payload_hash
from resume_engine.core.policy import NO_POLICY
from resume_engine.core.run import Environment, Run, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.chain_verification import ChainVerifier
from resume_engine.storage.encryption import EncryptedCodec
from resume_engine.storage.open_store import open_store
from resume_engine.storage.payload_codec import PLAIN
from resume_engine.storage.schema import runs, step_records
from resume_engine.storage.sealing import seal
from resume_engine.storage.signing import SecretKey
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory, ago, steps
from tests.guards import unguarded
from tests.stores.changes import completed, event, summary
from tests.stores.under_policy import ACK, ANA, APPROVE, HOUR, TWO, blocked, rule, wanted

KEY = SecretKey("a secret of the tests, long enough")
Make = Callable[[RunFactory], Run]
OPEN = {"status": "paused", "blocked_by": None}
NO_FAILURE: dict[str, Any] = {
    f"failure_{name}": None
    for name in ("step_index", "step_name", "sequence", "classification", "error_type", "message")
}


def findings(store: SqlCheckpointStore, run_id: str) -> list[str]:
    return [finding.problem for finding in ChainVerifier(store, key=KEY).verify_run(run_id).findings]


def write(store: SqlCheckpointStore, run_id: str, values: dict[str, Any]) -> None:
    """Change a row with the guards in place, as one UPDATE by hand does."""
    with store.writing() as conn:
        statement = update(runs).where(runs.c.run_id == run_id)
        assert conn.execute(statement.values(version=runs.c.version + 1, **values)).rowcount == 1


def _prod(factory: RunFactory) -> Run:
    return factory.blocked(environment=Environment.PROD)


def _tried_again_in_prod(factory: RunFactory) -> Run:
    return factory.failed("transient", environment=Environment.PROD)


def _with_input(factory: RunFactory) -> Run:
    return factory.blocked(initial_input={"amount": 10})


_OTHER_INPUT = {"amount": 10_000}
CHANGES: dict[str, tuple[Make, dict[str, Any], str]] = {
    "a gate of prod": (_prod, OPEN, "no entry tells who opened it"),
    "one of two gates": (_prod, {"blocked_by": "prod_resume_ack"}, "its gate human_approval"),
    "a gate of a run that goes on": (
        _prod,
        {"status": "running", "blocked_by": None, "lease_owner": "me"},
        "who opened it",
    ),
    "a gate and its failure": (
        RunFactory.blocked,
        {"status": "paused", "blocked_by": None, **NO_FAILURE},
        "who opened it",
    ),
    "a failure whose gate is left": (RunFactory.blocked, NO_FAILURE, "its failure is not there"),
    "a gate of a run that did not fail": (
        RunFactory.running,
        {"blocked_by": "human_approval"},
        "its failure is not there",
    ),
    "a gate of a failure that retries": (_tried_again_in_prod, OPEN, "its gate prod_resume_ack"),
    "a gate of another class": (
        RunFactory.blocked,
        {**OPEN, "failure_classification": "transient"},
        "who opened it",
    ),
    "the class of a failure": (
        RunFactory.blocked,
        {"failure_classification": "partial"},
        "not what was recorded",
    ),
    "the message of a failure": (RunFactory.blocked, {"failure_message": "fine"}, "not what was recorded"),
    "the step of a failure": (RunFactory.blocked, {"failure_step_name": "other"}, "not what was recorded"),
    "the type of a failure": (RunFactory.blocked, {"failure_error_type": "Other"}, "not what was recorded"),
    "the time of a failure": (RunFactory.blocked, {"failed_at": utc_now()}, "not what was recorded"),
    "another failure": (RunFactory.cleared, {"failure_sequence": 7}, "no entry tells of its failure 1:7"),
    "who cleared it": (RunFactory.cleared, {"cleared_by": "mallory"}, "that mallory cleared it"),
    "when it was cleared": (RunFactory.cleared, {"cleared_at": utc_now()}, "cleared it"),
    "a run that was rejected": (
        RunFactory.cancelled,
        {"status": "running", "finished_at": None},
        "it was cancelled",
    ),
    "a run that was completed": (RunFactory.completed, {"status": "cancelled"}, "it was completed"),
    "a run that goes on": (RunFactory.blocked, {"status": "completed"}, "no entry tells that it ended"),
    "when it ended": (RunFactory.completed, {"finished_at": utc_now()}, "it ended at"),
    "prod as dev": (_prod, {"environment": "dev"}, "its environment is dev"),
    "its workflow": (RunFactory.blocked, {"workflow_name": "other"}, "its workflow_name is other"),
    "who started it": (RunFactory.blocked, {"started_by": "mallory"}, "its started_by is mallory"),
    "when it was started": (RunFactory.blocked, {"created_at": utc_now()}, "its created_at"),
    "its input": (
        _with_input,
        {"initial_input_json": json.dumps(_OTHER_INPUT)},
        "not what its first step was given",
    ),
    "its input and the hash of it": (
        _with_input,
        {
            "initial_input_json": json.dumps(_OTHER_INPUT),
            "initial_input_hash": payload_hash(_OTHER_INPUT),
        },
        "not what its first step was given",
    ),
    "a state nobody knows": (RunFactory.blocked, {"status": "fine"}, "cannot be read"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_row_that_contradicts_its_entries_is_found(store: SqlCheckpointStore, what: str) -> None:
    make, values, problem = CHANGES[what]
    run_id = make(RunFactory(store)).run_id
    assert findings(store, run_id) == []
    write(store, run_id, values)
    found = findings(store, run_id)
    assert len(found) == 1 and problem in found[0], found


def test_a_gate_that_some_of_several_people_opened_is_not_open(store: SqlCheckpointStore) -> None:
    blocked(store)
    decide(store, wanted(), TWO)
    assert findings(store, "run-1") == []
    write(store, "run-1", OPEN)
    assert "who opened it" in findings(store, "run-1")[0]


def test_a_decision_does_not_hold_longer_than_it_says(store: SqlCheckpointStore) -> None:
    blocked(store)
    decide(store, wanted(), HOUR)
    assert findings(store, "run-1") == []
    write(store, "run-1", {"cleared_until": utc_now() + timedelta(days=9)})
    assert "stay open longer" in findings(store, "run-1")[0]
    write(store, "run-1", {"cleared_until": None})
    assert "stay open longer" in findings(store, "run-1")[0]


def _patched(store: SqlCheckpointStore, run_id: str, **fields: Any) -> None:
    run = store.get_run(run_id)
    assert run is not None
    for name, value in fields.items():
        setattr(run, name, value)
    store.update_run(run)


@pytest.mark.parametrize("make", [RunFactory.cancelled, RunFactory.completed])
def test_metadata_of_a_finished_run_may_change(store: SqlCheckpointStore, make: Make) -> None:
    run_id = make(RunFactory(store)).run_id
    _patched(store, run_id, metadata={"ticket": 7})
    assert findings(store, run_id) == []
    write(store, run_id, {"status": "paused", "finished_at": None})
    assert "its entries tell that it was" in findings(store, run_id)[0]


def test_one_of_several_decisions_sets_no_end_yet(store: SqlCheckpointStore) -> None:
    blocked(store, environment=Environment.PROD)
    decide(store, wanted(ACK), NO_POLICY)
    decide(store, wanted(), rule('approvers = 2\nexpires_after = "1h"'))
    assert findings(store, "run-1") == []


@pytest.mark.parametrize("status", ["paused", "failed", "pending"])
def test_the_first_end_of_several_decisions_counts(store: SqlCheckpointStore, status: str) -> None:
    blocked(store, environment=Environment.PROD)
    decide(store, wanted(ACK), HOUR)
    decide(store, wanted(), rule('expires_after = "8h"'))
    _patched(store, "run-1", metadata={"ticket": 7})
    assert findings(store, "run-1") == []
    write(store, "run-1", {"cleared_until": utc_now() + timedelta(hours=7), "status": status})
    assert "stay open longer" in findings(store, "run-1")[0]


def test_a_decision_that_was_used_has_no_end(store: SqlCheckpointStore) -> None:
    """A run driven step by step goes on without an event; its client may say that it waits again."""
    blocked(store)
    decide(store, wanted(), HOUR)
    _patched(store, "run-1", status=RunStatus.RUNNING)
    write(store, "run-1", {"cleared_until": None})  # as a claim does
    _patched(store, "run-1", status=RunStatus.PENDING)
    assert findings(store, "run-1") == []


def _given(engine: ResumeEngine, inputs: dict[str, int], index: int = 0) -> None:
    engine.execute_step("run-1", f"step_{index}", index, inputs, passing({"done": index}))


def _two_by_hand(engine: ResumeEngine) -> None:
    with pytest.raises(TransientStepError):
        engine.execute_step("run-1", "step_0", 0, {"amount": 1}, failing(TransientStepError("later")))
    _given(engine, {"amount": 2})
    engine.execute_workflow("run-1", steps(2), initial_input={"amount": 2})


def _second_first(engine: ResumeEngine) -> None:
    with pytest.raises(TransientStepError):
        plan = steps(2, fail_at=1, error=TransientStepError("later"))
        engine.execute_workflow("run-1", plan, initial_input={"amount": 1}, start_index=1)
    _given(engine, {"amount": 2})


def _between(engine: ResumeEngine) -> None:
    with pytest.raises(TransientStepError):
        plan = steps(2, fail_at=0, error=TransientStepError("later"))
        engine.execute_workflow("run-1", plan, initial_input={"amount": 1})
    _given(engine, {"amount": 2})


def _appended(engine: ResumeEngine) -> None:
    """Written by another client: it held nothing, and the executor that vanished held the input."""
    run = summary(engine.store)  # type: ignore[arg-type]
    claimed = run.evolve(initial_input_hash=payload_hash({"amount": 1}))
    engine.store.commit(RunChange(before=run, after=claimed, initial_input={"amount": 1}))
    engine.store.append_step("run-1", completed(0))


def _appended_after_an_interruption(engine: ResumeEngine) -> None:
    run = summary(engine.store)  # type: ignore[arg-type]
    claimed = run.evolve(initial_input_hash=payload_hash({"amount": 1}))
    told = event(run_id="run-1", event_type="run.interrupted", failure_key="0:0:1")
    change = RunChange(before=run, after=claimed, initial_input={"amount": 1}, events=(told,))
    engine.store.commit(change)
    _given(engine, {"amount": 2})


@pytest.mark.parametrize(
    "go_on",
    [_two_by_hand, _second_first, _between, _appended, _appended_after_an_interruption],
)
def test_steps_executed_by_hand_may_have_another_input(
    store: SqlCheckpointStore, go_on: Callable[[ResumeEngine], None]
) -> None:
    engine = ResumeEngine(store)
    engine.start_run("claims_intake", run_id="run-1")
    go_on(engine)
    assert findings(store, "run-1") == []


def test_a_run_that_failed_before_its_first_step_has_no_input_yet(store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(store)
    with pytest.raises(ConnectionError), engine.run("claims_intake", run_id="run-1"):
        raise ConnectionError("before the first step")
    engine.resume("run-1", steps(2), initial_input={"amount": 1})
    assert findings(store, "run-1") == []


def test_a_decision_that_ended_opens_nothing(
    store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked(store)
    run, _ = decide(store, wanted(), HOUR)
    assert run.cleared_until is not None
    with monkeypatch.context() as later:
        later.setattr("resume_engine.core.clock.utc_now", lambda: run.cleared_until)
        with pytest.raises(ResumeBlockedError):
            ResumeEngine(store).resume("run-1", [("step_0", lambda _, __: {})])
    assert findings(store, "run-1") == []
    write(store, "run-1", OPEN)
    assert "who opened it" in findings(store, "run-1")[0]


def test_the_gate_of_an_interruption_is_compared_too(store: SqlCheckpointStore) -> None:
    run_id = RunFactory(store).interrupted(environment=Environment.PROD).run_id
    write(store, run_id, {"lease_expires_at": ago(hours=1)})
    with pytest.raises(ResumeBlockedError):
        ResumeEngine(store).resume(run_id, [(f"step_{n}", lambda _, __: {}) for n in range(3)])
    assert findings(store, run_id) == []
    write(store, run_id, OPEN)
    assert "its gate prod_resume_ack" in findings(store, run_id)[0]


def test_both_gates_are_open_once_both_were_opened(store: SqlCheckpointStore) -> None:
    blocked(store, FailureClassification.PERMANENT, Environment.PROD)
    for kind in (APPROVE, ACK):
        decide(store, wanted(kind, ANA), HOUR)
        assert findings(store, "run-1") == []


@pytest.mark.parametrize("kind", ["permanent", "partial"])
@pytest.mark.parametrize("fails_again", [False, True])
def test_a_gate_that_was_opened_by_hand_and_passed_stays_found(
    store: SqlCheckpointStore, kind: str, fails_again: bool
) -> None:
    factory = RunFactory(store)
    run_id = factory.blocked(kind).run_id
    write(store, run_id, OPEN)
    plan = steps(3, fail_at=1, error=PermanentStepError("again")) if fails_again else steps(3)
    with suppress(PermanentStepError):
        factory.engine.resume(run_id, plan)
    assert "was passed, and no entry tells who opened it" in findings(store, run_id)[0]


def test_a_step_does_not_become_a_compensation(store: SqlCheckpointStore) -> None:
    """Compensations are left out where a run is continued or replayed."""
    run_id = RunFactory(store).completed().run_id
    with unguarded(store) as conn:
        mine = (step_records.c.run_id == run_id, step_records.c.sequence == 0)
        conn.execute(update(step_records).where(*mine).values(kind="compensation"))
    assert findings(store, run_id) == ["its kind is compensation, and its name tells another one"]


def test_what_is_sealed_is_compared_as_far_as_it_can_be(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'sealed.db'}"
    codec = EncryptedCodec([EncryptedCodec.generate_key()])
    with open_store(url, codec=codec) as store:
        factory = RunFactory(store)
        made = [run.run_id for run in factory.every_state(environment=Environment.PROD).values()]
        blocked(store)
        decide(store, wanted(display_name="Maria"), HOUR)
        updated = factory.pending()
        updated.status = RunStatus.COMPLETED
        store.update_run(updated)
        made += ["run-1", updated.run_id]
        assert seal(store, KEY) is not None
        assert [findings(store, run_id) for run_id in made] == [[]] * len(made)
    with open_store(url, codec=PLAIN) as locked:
        assert [findings(locked, run_id) for run_id in made] == [[]] * len(made)


def test_without_the_comparison_an_open_gate_is_missed(
    store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The protection taken out: nothing else finds it."""
    run_id = _prod(RunFactory(store)).run_id
    write(store, run_id, OPEN)
    monkeypatch.setattr("resume_engine.storage.run_check.RunCheck._problems", lambda *_: iter(()))
    assert findings(store, run_id) == []

"""Runs whose executor vanished: what is in doubt, and who must be asked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from resume_engine.core.actor import ENGINE_ACTOR
from resume_engine.core.clock import ManualClock, replaced_by
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import InvalidValueError, ResumeBlockedError
from resume_engine.core.failure_classifier import TransientStepError
from resume_engine.core.idempotency import generate_idempotency_key, hash_input
from resume_engine.core.interruption import (
    MAX_TAKEOVERS,
    assert_may_continue,
    interrupted_step,
    step_in_doubt,
)
from resume_engine.core.lease import Lease
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import Failure, RunSummary, StepInFlight
from resume_engine.core.runner_change import recording
from resume_engine.core.runner_request import Recording
from resume_engine.core.step import Step
from resume_engine.core.step_record import FailureClassification, StepRecord, StepStatus
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import OLGA, failing, passing
from tests.stores.changes import new_run, summary

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHARGE = StepInFlight(step_index=1, step_name="charge", idempotency_key="k" * 64, attempt=2, since=NOON)
APPROVAL, ACK = GateAction.HUMAN_APPROVAL, GateAction.PROD_RESUME_ACK
INTERRUPTION = Failure(
    step_index=1,
    step_name="charge",
    sequence=1,
    classification=FailureClassification.TRANSIENT,
    error_type="Interrupted",
    message="vanished",
    failed_at=NOON,
    attempts=2,
    lease_token=7,
)


def a_run(**fields: Any) -> RunSummary:
    """Return an interrupted run; fields say how it differs from that."""
    return RunSummary(
        **{
            "run_id": "run-1",
            "workflow_name": "billing",
            "status": RunStatus.RUNNING,
            "environment": Environment.DEV,
            "created_at": NOON,
            "updated_at": NOON,
            "lease_owner": "worker-1",
            "lease_token": 7,
            "lease_expires_at": NOON,
            "in_flight": (CHARGE,),
            **fields,
        }
    )


@pytest.mark.parametrize(
    ("fields", "interrupted", "doubtful"),
    [
        ({}, True, True),
        ({"lease_live": True}, False, False),
        ({"lease_owner": None}, False, False),
        ({"status": RunStatus.FAILED}, False, False),
        ({"status": RunStatus.PAUSED}, False, False),
        ({"in_flight": ()}, False, False),
        ({"retry_at": NOON}, False, False),
        # A person has looked at the interruption: it is over, its outcome is as unknown as before.
        ({"status": RunStatus.PAUSED, "lease_owner": None, "failure": INTERRUPTION}, False, True),
        ({"status": RunStatus.PAUSED, "failure": INTERRUPTION, "in_flight": ()}, False, False),
    ],
)
def test_what_is_in_doubt(fields: dict[str, Any], interrupted: bool, doubtful: bool) -> None:
    run = a_run(**fields)
    assert interrupted_step(run) == (CHARGE if interrupted else None)
    assert step_in_doubt(run) == (CHARGE if doubtful else None)


def vanished(store: SqlCheckpointStore, clock: ManualClock, environment: str, **fields: Any) -> RunSummary:
    """Make a run whose owner let its lease end."""
    before = new_run(store, environment=Environment(environment))
    change = RunChange(before=before, after=before.evolve(**{"in_flight": (CHARGE,), **fields}))
    Lease(store, "worker-1", 30, exclusive=True).take(change)
    clock.advance(31)
    return summary(store)


@pytest.mark.parametrize(
    ("environment", "on_interrupted", "fields", "gates"),
    [
        ("dev", "retry", {}, ()),
        ("staging", "retry", {}, ()),
        ("prod", "retry", {}, (ACK,)),
        ("dev", "gate", {}, (APPROVAL,)),
        ("prod", "gate", {}, (APPROVAL, ACK)),
        ("dev", "gate", {"in_flight": ()}, ()),  # it vanished between two steps: nothing to look at
        ("prod", "gate", {"in_flight": ()}, (ACK,)),
        ("dev", "gate", {"retry_at": NOON}, ()),  # or while it waited
        ("dev", "retry", {"takeovers": MAX_TAKEOVERS - 2}, ()),
        ("dev", "retry", {"takeovers": MAX_TAKEOVERS - 1}, (APPROVAL,)),
        ("prod", "retry", {"takeovers": MAX_TAKEOVERS - 1}, (APPROVAL, ACK)),
        ("dev", "retry", {"takeovers": MAX_TAKEOVERS - 1, "in_flight": ()}, ()),
    ],
)
def test_who_is_asked(
    store: SqlCheckpointStore,
    environment: str,
    on_interrupted: Any,
    fields: dict[str, Any],
    gates: tuple[GateAction, ...],
) -> None:
    clock = ManualClock(NOON)
    with replaced_by(clock):
        run = vanished(store, clock, environment, **fields)
        step = Step("charge", passing({}), on_interrupted=on_interrupted)
        if not gates:
            assert_may_continue(store, run, step, ENGINE_ACTOR)
            assert summary(store) == run, "nothing is written"
            return
        with pytest.raises(ResumeBlockedError) as caught:
            assert_may_continue(store, run, step, ENGINE_ACTOR)
    blocked = summary(store)
    assert blocked.blocked_by == gates and blocked.status is RunStatus.FAILED
    assert [b.required_action for b in caught.value.blockers] == [gate.value for gate in gates]
    assert blocked.lease_owner is None and blocked.takeovers == 0 and blocked.retry_at is None
    assert blocked.in_flight == run.in_flight, "what is in doubt stays to be seen"
    [event] = [e for e in store.list_events("run-1") if e.event_type == "run.interrupted"]
    assert blocked.failure is not None and event.failure_key == blocked.failure.key
    assert event.payload["executor"] == "worker-1"


def test_the_message_says_who_vanished_in_what_and_since_when(store: SqlCheckpointStore) -> None:
    clock = ManualClock(NOON)
    with replaced_by(clock):
        run = vanished(store, clock, "prod", takeovers=MAX_TAKEOVERS - 1)
        with pytest.raises(ResumeBlockedError):
            assert_may_continue(store, run, None, ENGINE_ACTOR)
    failure = summary(store).failure
    assert failure is not None
    assert failure.message == (
        "Interrupted: worker-1 vanished, its outcome is unknown (since 2026-03-01T12:00:00+00:00); "
        "5 executors in a row vanished at this step"
    )
    assert (failure.step_index, failure.step_name, failure.attempts) == (1, "charge", 2)
    assert failure.key == "1:0:1" and failure.failed_at == NOON + timedelta(seconds=30)


# Through the engine: an executor that is stopped by hand leaves the same behind as one that vanished.


def stop(_input: dict[str, Any], _key: str) -> dict[str, Any]:
    raise KeyboardInterrupt


def test_a_decision_about_one_interruption_does_not_open_the_next_gate(store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(store)
    run_id = engine.start_run("billing", environment="prod").run_id
    keys = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            engine.resume(run_id, [("charge", stop)])
        with pytest.raises(ResumeBlockedError) as caught:
            engine.resume(run_id, [("charge", stop)])
        keys.append(caught.value.blockers[0].failure_key)
        engine.ack_prod_resume(run_id, "olga")
    assert keys == ["0:0:1", "0:0:2"]
    with pytest.raises(TransientStepError):
        engine.resume(run_id, [("charge", failing(TransientStepError("x")))])
    # The failure that is recorded at the same place has a key of its own as well.
    assert [b.failure_key for b in engine.get_resume_blockers(run_id)] == ["0:0"]


def asks(fn: Any) -> list[Step]:
    return [Step("charge", fn, on_interrupted="gate"), Step("ship", passing({}))]


def outside_record(run_id: str, environment: str) -> StepRecord:
    """Return the next record of a run, made by a client that knows nothing of leases."""
    key = generate_idempotency_key(run_id, "ship", 1, hash_input({"in": environment}))
    return StepRecord(
        step_name="ship",
        step_index=1,
        input_data={"in": environment},
        input_hash=hash_input({"in": environment}),
        output_data={},
        status=StepStatus.COMPLETED,
        idempotency_key=key,
    )


@pytest.mark.parametrize("environment", ["dev", "prod"])
@pytest.mark.parametrize("way", ["by hand", "appended", "recorded"])
def test_what_an_interrupted_step_asks_for_holds_for_whoever_goes_on(
    store: SqlCheckpointStore, environment: str, way: str
) -> None:
    engine = ResumeEngine(store)
    run_id = engine.start_run("billing", environment=environment).run_id
    with pytest.raises(KeyboardInterrupt):
        engine.resume(run_id, asks(stop))
    record = outside_record(run_id, environment)
    with pytest.raises(ResumeBlockedError):
        if way == "by hand":
            engine.execute_step(run_id, "ship", 1, {}, passing({}))
        elif way == "appended":
            store.append_step(run_id, record)
        else:
            run = summary(store, run_id)
            given = Recording(change_id="a" * 16, version=run.version, record=record)
            recording(store, run, given, ENGINE_ACTOR)
    gates = (APPROVAL, ACK) if environment == "prod" else (APPROVAL,)
    assert summary(store, run_id).blocked_by == gates and list(store.iter_steps(run_id)) == []
    for gate in gates:
        engine.decide(run_id, gate.value, OLGA)
    assert engine.resume(run_id, asks(passing({}))).status is RunStatus.COMPLETED


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_a_record_from_elsewhere_is_acknowledged_in_prod_after_an_interruption(
    store: SqlCheckpointStore, environment: str
) -> None:
    engine = ResumeEngine(store)
    run_id = engine.start_run("billing", environment=environment).run_id
    with pytest.raises(KeyboardInterrupt):
        engine.resume(run_id, [("charge", stop), ("ship", passing({}))])
    if environment == "prod":
        with pytest.raises(ResumeBlockedError):
            store.append_step(run_id, outside_record(run_id, environment))
        engine.ack_prod_resume(run_id, "olga")
    store.append_step(run_id, outside_record(run_id, environment))
    assert len(list(store.iter_steps(run_id))) == 1


def test_a_completed_step_forgets_earlier_takeovers(store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(store)
    run_id = engine.start_run("billing").run_id
    seen = []
    workflow: list[Any]
    for done in range(2):
        workflow = [("a", passing({})), ("b", passing({}))]
        for _ in range(3):
            workflow[done] = (workflow[done][0], stop)
            with pytest.raises(KeyboardInterrupt):
                engine.resume(run_id, workflow)
            seen.append(summary(store, run_id).takeovers)
    assert seen == [0, 1, 2, 0, 1, 2]


def test_an_interrupted_run_is_not_completed_by_hand(store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(store)
    run_id = engine.start_run("billing").run_id
    with pytest.raises(KeyboardInterrupt):
        engine.execute_step(run_id, "charge", 0, {}, stop)
    with pytest.raises(InvalidValueError, match="vanished in step 0; resume it before completing it"):
        engine.complete_run(run_id)
    engine.execute_step(run_id, "charge", 0, {}, passing({}))
    assert engine.complete_run(run_id).status is RunStatus.COMPLETED


def test_a_run_driven_step_by_step_counts_and_records_its_takeovers(store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(store)
    run_id = engine.start_run("billing").run_id
    for _ in range(MAX_TAKEOVERS):
        with pytest.raises(KeyboardInterrupt):
            engine.execute_step(run_id, "charge", 0, {}, stop)
    with pytest.raises(ResumeBlockedError, match="5 executors in a row vanished"):
        engine.execute_step(run_id, "charge", 0, {}, stop)
    events = [e for e in store.list_events(run_id) if e.event_type == "run.resumed"]
    assert [e.payload["interrupted"]["step_name"] for e in events] == ["charge"] * (MAX_TAKEOVERS - 1)


def test_a_heartbeat_in_time_keeps_the_run_from_being_taken(store: SqlCheckpointStore) -> None:
    """A heartbeat does not change the version: a claim based on an ended lease must see it all the same."""
    clock = ManualClock(NOON)
    with replaced_by(clock):
        seen = vanished(store, clock, "dev")
        assert seen.is_interrupted
        assert store.renew_lease("run-1", "worker-1", seen.lease_token, 30), "it lives after all"
        with pytest.raises(Exception, match="is being executed by worker-1"):
            Lease(store, "worker-2", 30, exclusive=True).take(RunChange(before=seen, after=seen))
    assert summary(store).lease_owner == "worker-1"

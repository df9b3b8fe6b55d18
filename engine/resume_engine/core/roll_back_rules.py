"""What a run becomes while it is rolled back, be it executed beside its database or elsewhere."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from resume_engine.core import compensation
from resume_engine.core.actor import Actor
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.decision import DecisionKind
from resume_engine.core.decision_request import DecisionRequest, check_request, is_blank
from resume_engine.core.errors import DecisionInputError, InvalidValueError
from resume_engine.core.idempotency import generate_idempotency_key
from resume_engine.core.interruption import interrupted_step
from resume_engine.core.payload import payload_hash
from resume_engine.core.resume_gates import required_actions
from resume_engine.core.roll_back_plan import RollBack, Undoing, input_in_doubt, names_under_way
from resume_engine.core.run import RunStatus
from resume_engine.core.run_summary import RunSummary, StepInFlight, cleared, failure_of, finished
from resume_engine.core.step_record import FailureClassification, StepRecord

if TYPE_CHECKING:
    from resume_engine.core.store import CheckpointStore


def checked_request(
    run_id: str, actor: Actor, note: str, *, display_name: str | None = None
) -> DecisionRequest:
    """Return a rollback as the decision that it is, a rejection; raise `DecisionError` if it cannot be."""
    if is_blank(note):
        raise DecisionInputError("note", "a rollback cancels the run for good: give the reason")
    request = DecisionRequest(
        run_id=run_id, kind=DecisionKind.REJECT, actor=actor, note=note, display_name=display_name
    )
    check_request(request)
    return request


def left_of(run: RunSummary, wanted: RollBack) -> list[Undoing]:
    """Return what is still to be undone, first what is under way; the row of the run tells which that is."""
    index = next((step_index for step_index, _ in names_under_way(run)), None)
    order = [undoing.step_index for undoing in wanted.undone]
    if index not in order:
        raise InvalidValueError("run_id", f"run {run.run_id} does not tell how far its rollback is")
    return list(wanted.undone[order.index(index) :])


def given_to(store: CheckpointStore, run_id: str, undoing: Undoing, since: int) -> tuple[str, dict[str, Any]]:
    """Return the name of a compensation and what it is given: the state its step left behind."""
    if undoing.sequence is None:
        state = input_in_doubt(store, run_id, undoing)
    else:
        record = store.load_step(run_id, undoing.sequence)
        assert record is not None  # the plan names records that are there, and nothing removes one
        state = record.input_data | (record.output_data or {})
    return compensation.name_of(store, run_id, undoing.step_name, undoing.step_index, state, since), state


def key_of(store: CheckpointStore, run_id: str, undoing: Undoing, since: int) -> tuple[int, str, str]:
    """Return index, name and idempotency key of the compensation that undoes a step."""
    name, state = given_to(store, run_id, undoing, since)
    key = generate_idempotency_key(run_id, name, undoing.step_index, payload_hash(state))
    return undoing.step_index, name, key


def taken(run: RunSummary, first: StepInFlight, *, is_new: bool) -> RunSummary:
    """Return the run in the hands of an executor that begins a rollback, or goes on with it."""
    if is_new:  # closed gates are overruled
        return cleared(run).evolve(takeovers=0, in_flight=(first,))
    return run.evolve(
        cleared_until=None,
        in_flight=(first,),
        takeovers=run.takeovers + (interrupted_step(run) is not None),
        retry_at=run.retry_at if run.is_interrupted else None,
    )


def after_undoing(run: RunSummary, record: StepRecord, *, is_last: bool) -> RunSummary:
    """Return the run once a compensation is recorded: going on, failed with its gates, or cancelled."""
    moved = run.evolve(next_sequence=record.sequence + 1, updated_at=record.timestamp)
    if record.is_completed:
        running = cleared(moved).evolve(status=RunStatus.RUNNING, takeovers=0)
        return cancelled(running, record.timestamp) if is_last else running
    before = run.failure
    again = before is not None and before.step_name == record.step_name
    return moved.evolve(
        status=RunStatus.FAILED,
        retry_at=None,
        failure=failure_of(record, attempts=before.attempts + 1 if before and again else 1),
        # Nobody may take the run for undone, whatever the error was.
        blocked_by=required_actions(FailureClassification.PERMANENT, moved.environment),
        blocked_since=record.timestamp,
        cleared_by=None,
        cleared_at=None,
        cleared_until=None,
    )


def cancelled(run: RunSummary, at: datetime) -> RunSummary:
    """Return the run with everything undone."""
    return finished(run, RunStatus.CANCELLED, at)


def begin_event(actor: Actor, run: RunSummary, wanted: RollBack, at: datetime) -> AuditEvent:
    """Return the event that says for good what a rollback undoes."""
    return AuditEvent.by(
        actor,
        EventType.RUN_ROLLING_BACK,
        at,
        run_id=run.run_id,
        failure_key=run.failure.key if run.failure else None,
        note=wanted.note,
        payload=wanted.payload(),
    )


def resumed_event(actor: Actor, run: RunSummary, executor: str, at: datetime) -> AuditEvent:
    """Return the event of an executor that goes on with a rollback."""
    return AuditEvent.by(
        actor,
        EventType.RUN_RESUMED,
        at,
        run_id=run.run_id,
        failure_key=run.failure.key if run.failure else None,
        payload={"rolling_back": True, "executor": executor},
    )


def end_event(actor: Actor, run_id: str, wanted: RollBack, at: datetime) -> AuditEvent:
    """Return the event of a run that was rolled back."""
    return AuditEvent.by(
        actor, EventType.RUN_ROLLED_BACK, at, run_id=run_id, note=wanted.note, payload=wanted.payload()
    )

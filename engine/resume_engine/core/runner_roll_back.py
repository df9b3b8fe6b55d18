"""A rollback that a runner elsewhere executes: planned, judged and ended here, where the record is.

The runner says which steps have a compensation and how each of those ended. What has to be undone, in which
order, under which key, and what follows from a failure is computed here: nothing it sends can leave the
rollback, skip a compensation, or open the gate of one that failed.
"""

from __future__ import annotations

from resume_engine.core import clock
from resume_engine.core import roll_back_rules as rules
from resume_engine.core.actor import Actor
from resume_engine.core.audit import AuditEvent
from resume_engine.core.decisions import assert_policy
from resume_engine.core.errors import InvalidValueError, LeaseLostError, RunFinishedError
from resume_engine.core.execution import assert_open
from resume_engine.core.interruption import assert_may_continue
from resume_engine.core.lease import assert_idle
from resume_engine.core.policy import Policy
from resume_engine.core.roll_back_plan import RollBack, Undoing, begun, planned
from resume_engine.core.run import FINISHED_STATUSES, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.runner_request import (
    Recording,
    Rollback,
    RunnerChange,
    Term,
    assert_next_term,
    assert_version,
    holds,
    lease_of,
    retried,
)
from resume_engine.core.step_record import FailureClassification, StepRecord, StepStatus
from resume_engine.core.store import CheckpointStore


def begin(
    store: CheckpointStore, run: RunSummary, given: Rollback, actor: Actor, policy: Policy
) -> RunChange:
    """Return the change that begins a rollback, or raise why `actor` may not.

    Raises `DecisionError` as a rejection would, `RunFinishedError`, `RunBusyError`.
    """
    request = rules.checked_request(run.run_id, actor, given.note, display_name=given.display_name)
    assert_version(run, given)
    if run.status in FINISHED_STATUSES:
        raise RunFinishedError(run.run_id, run.status)
    if begun(store, run.run_id) is not None:
        raise RunFinishedError(run.run_id, "rolling back")
    assert_policy(store, run, request, policy)
    wanted = planned(
        store,
        run,
        lambda undoing: undoing.step_index in given.compensated,
        requested_by=actor.name,
        note=given.note,
        display_name=given.display_name,
    )
    unknown = given.compensated - {undoing.step_index for undoing in wanted.undone}
    if unknown:
        raise InvalidValueError("compensated", f"step {min(unknown)} left nothing behind that can be undone")
    at = clock.utc_now()
    event = rules.begin_event(actor, run, wanted, at)
    if not wanted.undone:
        assert_idle(run)
        return _ended(run, rules.cancelled(run, at), wanted, given, actor, before=(event,))
    if given.lease is None:
        raise InvalidValueError("lease", "say who undoes the steps, and for how long the run is held")
    assert_next_term(run, given.lease)
    return _taken(store, run, wanted, wanted.undone[0], given, given.lease, (event,), is_new=True)


def go_on(
    store: CheckpointStore, run: RunSummary, wanted: RollBack, given: RunnerChange, lease: Term, actor: Actor
) -> RunChange:
    """Return the change of an executor that takes a rollback over, or begins what it waited to try again."""
    assert_open(run, "")
    current = rules.left_of(run, wanted)[0]
    if not holds(run, lease):
        assert_may_continue(store, run, None, actor)
        event = rules.resumed_event(actor, run, lease.owner, clock.utc_now())
        return _taken(store, run, wanted, current, given, lease, (event,), is_new=False)
    _assert_intent(store, run, wanted, current, given)
    at = clock.utc_now()
    after = run.evolve(retry_at=None, in_flight=given.in_flight, updated_at=at, **lease_of(lease, at))
    return RunChange(before=run, after=after, lease_seconds=lease.seconds, change_id=given.change_id)


def undone(
    store: CheckpointStore, run: RunSummary, wanted: RollBack, given: Recording, actor: Actor
) -> RunChange:
    """Return the change that records how a compensation ended, with all that follows from that."""
    record, (current, *rest) = given.record, rules.left_of(run, wanted)
    if given.held is None or record.status not in (StepStatus.COMPLETED, StepStatus.FAILED):
        raise RunFinishedError(run.run_id, "rolling back")
    key = rules.key_of(store, run.run_id, current, wanted.since)
    if _key_of(record) != key:
        raise RunFinishedError(run.run_id, f"rolling back, at {key[1]!r}")
    after = rules.after_undoing(run, record, is_last=not rest)
    if after.status is RunStatus.CANCELLED:
        return _ended(run, after, wanted, given, actor, record=record)
    if given.retry_at is not None:
        after = retried(run, after, given)
    elif record.is_failed:
        return RunChange(before=run, after=_stopped(after, record), record=record, change_id=given.change_id)
    _assert_intent(store, run, wanted, current if record.is_failed else rest[0], given)
    lease = given.lease
    if lease is None or not holds(run, lease):
        raise LeaseLostError(run.run_id, lease.owner if lease else "nobody", run.lease_owner)
    return RunChange(
        before=run,
        after=after.evolve(in_flight=given.in_flight, **lease_of(lease, clock.utc_now())),
        record=record,
        lease_seconds=lease.seconds,
        change_id=given.change_id,
    )


def _taken(
    store: CheckpointStore,
    run: RunSummary,
    wanted: RollBack,
    first: Undoing,
    given: RunnerChange,
    lease: Term,
    events: tuple[AuditEvent, ...],
    *,
    is_new: bool,
) -> RunChange:
    _assert_intent(store, run, wanted, first, given)
    if lease.seconds is None:
        raise InvalidValueError("seconds", "say how long the run is held")
    at = clock.utc_now()
    after = rules.taken(run, given.in_flight[0], is_new=is_new)
    return RunChange(
        before=run,
        after=after.evolve(status=RunStatus.RUNNING, updated_at=at, **lease_of(lease, at)),
        events=events,
        lease_seconds=lease.seconds,
        change_id=given.change_id,
    )


def _ended(
    run: RunSummary,
    after: RunSummary,
    wanted: RollBack,
    given: RunnerChange,
    actor: Actor,
    *,
    record: StepRecord | None = None,
    before: tuple[AuditEvent, ...] = (),
) -> RunChange:
    event = rules.end_event(actor, run.run_id, wanted, after.updated_at)
    return RunChange(
        before=run, after=after, record=record, events=(*before, event), change_id=given.change_id
    )


def _stopped(after: RunSummary, record: StepRecord) -> RunSummary:
    """Return the run behind the gate of a compensation that failed for good; nobody holds it."""
    if record.failure_classification is not FailureClassification.PERMANENT:
        raise InvalidValueError(
            "failure_classification", "a compensation that failed for good is permanent: a person must look"
        )
    return after.evolve(lease_owner=None, lease_expires_at=None, lease_live=False, in_flight=())


def _assert_intent(
    store: CheckpointStore, run: RunSummary, wanted: RollBack, undoing: Undoing, given: RunnerChange
) -> None:
    """Raise unless the one compensation that is the next is about to be called."""
    index, name, key = rules.key_of(store, run.run_id, undoing, wanted.since)
    found = [(step.step_index, step.step_name, step.idempotency_key) for step in given.in_flight]
    if found != [(index, name, key)]:
        raise InvalidValueError("in_flight", f"the rollback is at step {index}, {name!r}, with the key {key}")


def _key_of(record: StepRecord) -> tuple[int, str, str]:
    return record.step_index, record.step_name, record.idempotency_key

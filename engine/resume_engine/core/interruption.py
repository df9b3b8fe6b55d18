"""Runs whose executor vanished: the outcome of what it was doing is unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resume_engine.core import clock
from resume_engine.core.actor import Actor
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.errors import ResumeBlockedError
from resume_engine.core.resume_gates import required_actions
from resume_engine.core.run import RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import Failure, RunSummary, StepInFlight, blockers_of
from resume_engine.core.step import Step
from resume_engine.core.step_record import FailureClassification

if TYPE_CHECKING:
    from resume_engine.core.store import CheckpointStore

MAX_TAKEOVERS = 5
"""So many executors in a row may vanish at one step before a person must look at it."""


def interrupted_step(run: RunSummary) -> StepInFlight | None:
    """Return the step whose outcome is unknown, or None; one that waited for its retry had not begun."""
    if not run.is_interrupted or not run.in_flight or run.retry_at is not None:
        return None
    return run.in_flight[0]


def step_in_doubt(run: RunSummary) -> StepInFlight | None:
    """Return the step whose outcome is unknown still, be it that a person has allowed it to run again."""
    gated = run.failure is not None and run.failure.lease_token is not None and run.in_flight
    return run.in_flight[0] if gated else interrupted_step(run)


def assert_may_continue(store: CheckpointStore, run: RunSummary, step: Step | None, actor: Actor) -> None:
    """Close the gates an interruption needs, if any, and raise `ResumeBlockedError` then.

    In prod every resume is acknowledged, that of an interrupted run too. A step that says so, `step` or the
    one that was interrupted, and one that took down `MAX_TAKEOVERS` executors in a row, needs an approval.
    Else the step simply runs again, with the same key and input.
    """
    if not run.is_interrupted:
        return
    in_flight = interrupted_step(run)
    lost = run.takeovers + 1 >= MAX_TAKEOVERS and in_flight is not None
    asks = step is not None and step.on_interrupted == "gate"
    asked = in_flight is not None and (asks or in_flight.asked)
    classification = FailureClassification.PERMANENT if lost or asked else FailureClassification.TRANSIENT
    actions = required_actions(classification, run.environment)
    if not actions:
        return
    at = clock.utc_now()
    failure = _failure(run, in_flight, classification, lost)
    after = run.evolve(
        status=RunStatus.FAILED,
        failure=failure,
        blocked_by=actions,
        blocked_since=at,
        cleared_by=None,
        cleared_at=None,
        cleared_until=None,
        lease_owner=None,
        lease_expires_at=None,
        in_flight=run.in_flight if in_flight is not None else (),
        takeovers=0,  # the decision allows as many again
        retry_at=None,
        updated_at=at,
    )
    event = AuditEvent.by(
        actor,
        EventType.RUN_INTERRUPTED,
        at,
        run_id=run.run_id,
        failure_key=failure.key,
        payload={
            "executor": run.lease_owner,
            "step_index": failure.step_index,
            "step_name": failure.step_name,
            "classification": failure.classification.value,
        },
    )
    blocked = store.commit(RunChange(before=run, after=after, events=(event,)))
    raise ResumeBlockedError(blockers_of(blocked), run.run_id)


def _failure(
    run: RunSummary, in_flight: StepInFlight | None, classification: FailureClassification, lost: bool
) -> Failure:
    since = in_flight.since if in_flight is not None else run.updated_at
    # A retry that was waited for had not begun; all the same its name tells a rollback from a workflow.
    waiting = run.in_flight[0] if run.in_flight else None
    doubt = "its outcome is unknown" if in_flight is not None else "no step was under way"
    message = (
        f"Interrupted: {run.lease_owner} vanished, {doubt} (since {since.isoformat(timespec='seconds')})"
    )
    if lost:
        message += f"; {run.takeovers + 1} executors in a row vanished at this step"
    return Failure(
        step_index=waiting.step_index if waiting is not None else run.resume_from_index,
        step_name=waiting.step_name if waiting is not None else "__run__",
        sequence=run.next_sequence,
        classification=classification,
        error_type="Interrupted",
        message=message,
        failed_at=run.lease_expires_at or clock.utc_now(),
        attempts=in_flight.attempt if in_flight is not None else 0,
        lease_token=run.lease_token,
    )

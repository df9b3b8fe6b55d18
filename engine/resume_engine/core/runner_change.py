"""What a runner elsewhere asks for, and what follows from it: decided here, where the record is.

A runner says which attempt ended how, who executes the run and what it does next. Status, failure, gates,
counters and audit events are computed from that by the rules of the engine; nothing a runner sends can open a
gate or pass one.
"""

from __future__ import annotations

from typing import Any

from resume_engine.core import clock, runner_roll_back
from resume_engine.core.actor import Actor
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.errors import InvalidValueError, LeaseLostError, ResumeBlockedError, StaleRunError
from resume_engine.core.execution import assert_open
from resume_engine.core.executor import RUN_BLOCK_STEP, assert_may_complete, completed
from resume_engine.core.gate_closing import closed_in_time
from resume_engine.core.interruption import assert_may_continue, interrupted_step
from resume_engine.core.lease import assert_idle
from resume_engine.core.open_failures import after_record, given_up, undecided
from resume_engine.core.payload import payload_hash
from resume_engine.core.roll_back_plan import assert_none_under_way, under_way
from resume_engine.core.run import RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary, StepInFlight
from resume_engine.core.runner_request import (
    Claim,
    Recording,
    RunnerChange,
    assert_next_term,
    assert_version,
    check_recorded,
    holds,
    lease_of,
    retried,
)
from resume_engine.core.step import Step
from resume_engine.core.store import CheckpointStore
from resume_engine.core.workflow import fingerprint


def claim(store: CheckpointStore, run: RunSummary, given: Claim, actor: Actor) -> RunChange:
    """Return the change that gives a run to an executor, or raise why it does not get it."""
    if given.lease is None or given.lease.seconds is None:
        raise InvalidValueError("seconds", "say how long the run is held")
    run = closed_in_time(store, run, actor)
    assert_version(run, given)
    is_held = holds(run, given.lease)
    if not is_held:
        assert_next_term(run, given.lease)
    begun = under_way(store, run)
    if begun is not None:
        return runner_roll_back.go_on(store, run, begun, given, given.lease, actor)
    _assert_intents(run, given.in_flight, is_held)
    lost = None if is_held else interrupted_step(run)
    # Whoever comes back under a term that is over has vanished like everybody else.
    if not (is_held and run.lease_live) and not run.blocked_by:
        assert_may_continue(store, run, None, actor)
    at = clock.utc_now()
    after = run.evolve(
        status=run.status if run.blocked_by else RunStatus.RUNNING,
        updated_at=at,
        in_flight=given.in_flight,
        takeovers=run.takeovers + (lost is not None),
        retry_at=run.retry_at if given.retry_at is not None else None,
        cleared_until=run.cleared_until if run.blocked_by else None,
        steps_total=run.steps_total if given.steps_total is None else given.steps_total,
        **lease_of(given.lease, at),
    )
    if given.workflow is not None:
        after = after.evolve(workflow_hash=fingerprint(given.workflow))
    if given.initial_input is not None:
        after = after.evolve(initial_input_hash=payload_hash(given.initial_input))
    return RunChange(
        before=run,
        after=after,
        events=tuple(_claim_events(store, run, after, given, lost, actor, is_held=is_held)),
        initial_input=given.initial_input,
        workflow=given.workflow,
        lease_seconds=given.lease.seconds,
        change_id=given.change_id,
    )


def recording(store: CheckpointStore, run: RunSummary, given: Recording, actor: Actor) -> RunChange:
    """Return the change that records an attempt, with all that follows, or raise why it is refused."""
    assert_version(run, given)
    record = given.record
    if given.held is None:
        run = closed_in_time(store, run, actor)
        assert_version(run, given)
        assert_idle(run)
        if not run.blocked_by:
            assert_may_continue(store, run, None, actor)
    elif not holds(run, given.held):
        raise LeaseLostError(run.run_id, given.held.owner, run.lease_owner)
    check_recorded(run, record)
    assert_open(run, record.step_name)
    begun = under_way(store, run)
    if begun is not None:
        return runner_roll_back.undone(store, run, begun, given, actor)
    after = after_record(store, run, record, only_blocking=not given.follows_failure)
    if given.retry_at is not None:
        after = retried(run, after, given)
    if given.lease is None:
        after = given_up(store, after, clock.utc_now())
    else:
        if given.held is None or not holds(run, given.lease):
            raise LeaseLostError(run.run_id, given.lease.owner, run.lease_owner)
        _assert_intents(run, given.in_flight, True)
        after = after.evolve(in_flight=given.in_flight, **lease_of(given.lease, clock.utc_now()))
    return RunChange(
        before=run,
        after=after,
        record=record,
        lease_seconds=given.lease.seconds if given.lease is not None else None,
        change_id=given.change_id,
    )


def completion(store: CheckpointStore, run: RunSummary, given: RunnerChange, actor: Actor) -> RunChange:
    """Return the change that completes a run; `lease` is the term that it ends."""
    assert_version(run, given)
    assert_open(run, RUN_BLOCK_STEP)
    assert_none_under_way(store, run)
    if given.lease is None or not holds(run, given.lease):
        assert_may_complete(run)
    elif run.failure is not None and undecided(store, run, clock.utc_now()):
        raise InvalidValueError(
            "action", f"step {run.failure.step_index} failed and is to be tried again first"
        )
    after = completed(run, clock.utc_now())
    event = AuditEvent.by(actor, EventType.RUN_COMPLETED, after.updated_at, run_id=run.run_id)
    return RunChange(before=run, after=after, events=(event,), change_id=given.change_id)


def close_interrupted(
    store: CheckpointStore, run: RunSummary, given: RunnerChange, actor: Actor, *, asked: bool
) -> None:
    """Close the gates of a run whose executor vanished; `asked`: its step wants a person to look."""
    if run.version == given.version + 1 and run.failure is not None and run.failure.lease_token is not None:
        return  # closed by the same call, whose answer got lost
    assert_version(run, given)
    try:
        step = Step("interrupted", _never, on_interrupted="gate" if asked else "retry")
        assert_may_continue(store, run, step, actor)
    except ResumeBlockedError:
        return
    raise StaleRunError(run.run_id, "an interrupted run that needs a person", f"{run.status}")


def _never(_: dict[str, Any], __: str) -> dict[str, Any]:
    raise AssertionError("the step of an interrupted attempt is not called here")


def _assert_intents(run: RunSummary, intents: tuple[StepInFlight, ...], is_held: bool) -> None:
    """Raise while a gate is closed for one of the steps that are about to be called."""
    known = {step.idempotency_key for step in run.in_flight} if is_held else set()
    names = [step.step_name for step in intents if step.idempotency_key not in known]
    for name in names or ([] if is_held else [RUN_BLOCK_STEP]):
        assert_open(run, name)


def _claim_events(
    store: CheckpointStore,
    run: RunSummary,
    after: RunSummary,
    given: Claim,
    lost: StepInFlight | None,
    actor: Actor,
    *,
    is_held: bool,
) -> list[AuditEvent]:
    """Return what a claim leaves in the audit: that the run goes on, and what was changed for that."""
    changes: list[tuple[EventType, dict[str, Any]]] = []
    if given.workflow is not None and run.workflow_hash not in (None, after.workflow_hash):
        recorded = list(store.load_workflow(run.run_id))
        payload: dict[str, Any] = {"before": recorded, "after": list(given.workflow)}
        changes.append((EventType.RUN_WORKFLOW_CHANGED, payload))
    before = _input_hash(store, run) if given.initial_input is not None else after.initial_input_hash
    if before not in (None, after.initial_input_hash):
        payload = {"before": before, "after": after.initial_input_hash}
        changes.append((EventType.RUN_INPUT_CHANGED, payload))
    goes_on = given.steps_total is not None and (run.next_sequence or run.lease_token)
    if not is_held and (lost is not None or goes_on):
        changes.append((EventType.RUN_RESUMED, _resumed(run, after, lost)))
    key = run.failure.key if run.failure else None
    return [
        AuditEvent.by(actor, kind, after.updated_at, run_id=run.run_id, failure_key=key, payload=payload)
        for kind, payload in changes
    ]


def _input_hash(store: CheckpointStore, run: RunSummary) -> str | None:
    """Return the hash of the input a run was begun with; of a run of 0.2.0, that of its first step."""
    if run.initial_input_hash is not None or not run.next_sequence:
        return run.initial_input_hash
    first = store.load_step(run.run_id, 0)
    return first.input_hash if first is not None and first.step_index == 0 else None


def _resumed(run: RunSummary, after: RunSummary, lost: StepInFlight | None) -> dict[str, Any]:
    index = after.in_flight[0].step_index if after.in_flight else run.resume_from_index
    payload: dict[str, Any] = {"resume_from_index": index, "executor": after.lease_owner}
    if lost is not None:
        payload["interrupted"] = {
            "step_index": lost.step_index,
            "step_name": lost.step_name,
            "since": lost.since.isoformat(),
            "executor": run.lease_owner,
        }
    return payload

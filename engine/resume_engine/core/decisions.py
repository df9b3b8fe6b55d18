"""Decisions about gates, and the one function that records them.

Library, pages, command line and API call `decide`; nothing else writes a decision.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from resume_engine.core import clock, codec
from resume_engine.core.actor import Actor
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.decision import Decision, DecisionKind, gates_view, parse_decision_kind
from resume_engine.core.decision_request import FAILURE_KEY_MAX_CHARACTERS, DecisionRequest, check_request
from resume_engine.core.errors import DecisionError, DecisionInputError, RunNotFoundError, StaleRunError
from resume_engine.core.gate_closing import closed_again
from resume_engine.core.gate_standing import end_of
from resume_engine.core.judgement import assert_allowed, judge
from resume_engine.core.open_failures import after_clearing
from resume_engine.core.payload import storable
from resume_engine.core.policy import Origin, Policy, Requirement
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import StepKind

if TYPE_CHECKING:
    from resume_engine.core.store import CheckpointStore

__all__ = [
    "Decision",
    "DecisionKind",
    "DecisionRequest",
    "assert_policy",
    "decide",
    "event_of",
    "gates_view",
    "origin_of",
    "parse_decision_kind",
    "rehearse",
]

_ATTEMPTS = 20  # rounds against others who change the same run; each round someone else got further


EVENT_OF_KIND: dict[DecisionKind, EventType] = {
    DecisionKind.COMPENSATION: EventType.GATE_COMPENSATED,
    DecisionKind.HUMAN_APPROVAL: EventType.GATE_APPROVED,
    DecisionKind.PROD_RESUME_ACK: EventType.GATE_PROD_RESUME_ACK,
    DecisionKind.REJECT: EventType.GATE_REJECTED,
}


def decide(store: CheckpointStore, request: DecisionRequest, policy: Policy) -> tuple[RunSummary, Decision]:
    """Record a decision and return the run as it stands then, with the decision.

    Checks, in this order: what is needed, whose role may, that the failure event is the one shown, that
    nobody decided before, and what the policy asks for. Where it asks for several people the gate stays
    closed until the last of them. Of two at once the first wins. A refusal is an audit event and changes
    nothing else. Raises `RunNotFoundError` or a `DecisionError`.
    """
    try:
        check_request(request)
        return _record(store, request, policy)
    except DecisionError as refusal:
        _record_refusal(store, request, refusal)
        raise


def rehearse(store: CheckpointStore, request: DecisionRequest, policy: Policy) -> None:
    """Raise what `decide` would, before something is done that only makes sense with the decision."""
    try:
        check_request(request)
        _judged(store, request, policy, clock.utc_now())
    except DecisionError as refusal:
        _record_refusal(store, request, refusal)
        raise


def assert_policy(store: CheckpointStore, run: RunSummary, request: DecisionRequest, policy: Policy) -> None:
    """Raise, on record, if the policy objects to a decision that is carried out elsewhere: a rollback."""
    needed = policy.requirement(request.kind, run.environment, run.workflow_name)
    try:
        assert_allowed(request, needed, origin_of(store, run, needed, [request.actor.name]))
    except DecisionError as refusal:
        _record_refusal(store, request, refusal)
        raise


def _record(store: CheckpointStore, request: DecisionRequest, policy: Policy) -> tuple[RunSummary, Decision]:
    at = clock.utc_now()
    for _ in range(_ATTEMPTS):
        change = _judged(store, request, policy, at)
        _assert_compensated(store, request, change.before)
        try:
            return store.commit(change), change.decisions[0]
        except StaleRunError:
            continue  # someone else changed the run meanwhile: judge again what it has become
    raise StaleRunError(request.run_id, "a quiet moment", f"changes by others in {_ATTEMPTS} rounds")


def _judged(store: CheckpointStore, request: DecisionRequest, policy: Policy, at: datetime) -> RunChange:
    """Return the change that records a decision about the run as it stands now, or raise why not."""
    before = store.load_summary(request.run_id)
    if before is None:
        raise RunNotFoundError(request.run_id)
    if request.version not in (None, before.version):
        raise StaleRunError(request.run_id, f"version {request.version}", f"version {before.version}")
    run, ended = closed_again(store, before, request.actor, at)
    key = request.failure_key or (run.failure.key if run.failure else "")
    earlier = store.list_decisions(request.run_id, failure_key=key)
    needed = policy.requirement(request.kind, run.environment, run.workflow_name)
    origin = origin_of(store, run, needed, [request.actor.name, *(d.actor for d in earlier)])
    after = judge(run, earlier, request, at, needed, origin)
    opened = request.kind is DecisionKind.REJECT or request.kind.value not in after.blocked_by
    if request.kind is not DecisionKind.REJECT and opened:
        after = after_clearing(store, after, at)
    decision = _decision(request, key, at, needed, earlier, opened=opened)
    events = (event_of(decision, request.actor, needed),)
    return RunChange(
        before=before,
        after=after,
        decisions=(decision,),
        events=events if ended is None else (ended, *events),
    )


def _assert_compensated(store: CheckpointStore, request: DecisionRequest, run: RunSummary) -> None:
    """Raise unless the record that a decision names is that of the compensation of the failure."""
    if request.step_sequence is None:
        return
    record = store.load_step(run.run_id, request.step_sequence)
    fits = (
        request.kind is DecisionKind.COMPENSATION
        and record is not None
        and run.failure is not None
        and (record.kind, record.is_completed) == (StepKind.COMPENSATION, True)
        and record.step_index == run.failure.step_index
        and record.sequence >= run.failure.sequence
    )
    if not fits:
        raise DecisionInputError(
            "step_sequence",
            "names the record of the compensation that the engine ran for this failure; leave it out",
        )


def origin_of(store: CheckpointStore, run: RunSummary, needed: Requirement, names: Collection[str]) -> Origin:
    """Return who is behind a run, as far as it matters: nothing is read where one person suffices."""
    if not needed.asks_who_is_behind:
        return Origin(started_by=run.started_by)
    editors: frozenset[str] = frozenset()
    if needed.not_input_editor:
        changed = (e for e in store.list_events(run.run_id) if e.event_type == EventType.RUN_INPUT_CHANGED)
        editors = frozenset(event.actor for event in changed)
    everybody = {*names, *editors, *([run.started_by] if run.started_by else [])}
    return Origin(started_by=run.started_by, input_editors=editors, owners=store.owners_of_keys(everybody))


def _decision(
    request: DecisionRequest,
    key: str,
    at: datetime,
    needed: Requirement,
    earlier: Sequence[Decision],
    *,
    opened: bool,
) -> Decision:
    return Decision(
        run_id=request.run_id,
        failure_key=key,
        kind=request.kind,
        actor=request.actor.name,
        role=request.actor.role.value,
        channel=request.actor.channel.value,
        decided_at=at,
        note=request.note or None,
        result=request.result,
        step_sequence=request.step_sequence,
        ordinal=1 + max((d.ordinal for d in earlier if d.kind is request.kind), default=0),
        opened=opened,
        expires_at=end_of(at, needed.expires_after),
        display_name=request.display_name or None,
    )


def event_of(decision: Decision, actor: Actor, needed: Requirement) -> AuditEvent:
    """Return the audit event of a decision."""
    payload: dict[str, Any] = {}
    if decision.display_name is not None:
        payload["display_name"] = decision.display_name
    if needed.rule is not None:
        payload["rule"] = needed.rule
    if needed.approvers > 1:
        payload["approvers"] = needed.approvers
    if needed.approvers > 1 or not decision.opened:
        payload["opened"] = decision.opened
    if decision.expires_at is not None:
        payload["expires_at"] = decision.expires_at.isoformat()
    if decision.result is not None:
        payload["result"] = codec.as_json(decision.result)
    if decision.step_sequence is not None:
        payload["step_sequence"] = decision.step_sequence
    return AuditEvent.by(
        actor,
        EVENT_OF_KIND[decision.kind],
        decision.decided_at,
        run_id=decision.run_id,
        failure_key=decision.failure_key,
        note=decision.note,
        payload=payload,
    )


def _record_refusal(store: CheckpointStore, request: DecisionRequest, refusal: DecisionError) -> None:
    if store.load_summary(request.run_id) is None:
        raise RunNotFoundError(request.run_id) from refusal
    shown = storable(request.failure_key)[:FAILURE_KEY_MAX_CHARACTERS] if request.failure_key else None
    store.append_event(
        AuditEvent.by(
            request.actor,
            EventType.GATE_REFUSED,
            clock.utc_now(),
            run_id=request.run_id,
            failure_key=shown,
            payload={"kind": request.kind.value, "reason": type(refusal).__name__, "message": str(refusal)},
        )
    )

"""Decisions about gates, and the one function that records them.

Library, pages, command line and API call `decide`; nothing else writes a decision.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from resume_engine.core import clock, codec
from resume_engine.core.actor import Actor
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.decision import Decision, DecisionKind, gates_view, parse_decision_kind
from resume_engine.core.errors import (
    AlreadyDecidedError,
    AnotherPersonNeededError,
    DecisionError,
    DecisionInputError,
    DecisionNotAllowedError,
    FailureMovedOnError,
    NothingToDecideError,
    PolicyRefusalError,
    RunNotFoundError,
    StaleRunError,
)
from resume_engine.core.gate_closing import closed_again
from resume_engine.core.gate_standing import GateStanding, end_of, standing_of
from resume_engine.core.open_failures import after_clearing
from resume_engine.core.payload import is_storable, storable
from resume_engine.core.permissions import Permission, role_allows
from resume_engine.core.policy import NO_REQUIREMENT, UNKNOWN_ORIGIN, Origin, Policy, Requirement, objection
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import FINISHED_STATUSES, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary

if TYPE_CHECKING:
    from resume_engine.core.store import CheckpointStore

__all__ = [
    "Decision",
    "DecisionKind",
    "DecisionRequest",
    "assert_policy",
    "check_request",
    "decide",
    "event_of",
    "gates_view",
    "judge",
    "origin_of",
    "parse_decision_kind",
    "rehearse",
]

ACTOR_MAX_CHARACTERS = 255
FAILURE_KEY_MAX_CHARACTERS = 32
NOTE_MAX_CHARACTERS = 2_000
RESULT_MAX_CHARACTERS = 64_000
_ATTEMPTS = 20  # rounds against others who change the same run; each round someone else got further


EVENT_OF_KIND: dict[DecisionKind, EventType] = {
    DecisionKind.COMPENSATION: EventType.GATE_COMPENSATED,
    DecisionKind.HUMAN_APPROVAL: EventType.GATE_APPROVED,
    DecisionKind.PROD_RESUME_ACK: EventType.GATE_PROD_RESUME_ACK,
    DecisionKind.REJECT: EventType.GATE_REJECTED,
}


@dataclass(frozen=True, kw_only=True)
class DecisionRequest:
    """Ask for one decision; `failure_key` is the failure event that was shown (None: the current one)."""

    run_id: str
    kind: DecisionKind
    actor: Actor
    failure_key: str | None = None
    note: str | None = None
    result: dict[str, Any] | None = None
    step_sequence: int | None = None
    display_name: str | None = None  # who a caller of the API says it is; the audit records `actor`


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


def check_request(request: DecisionRequest) -> None:
    """Raise `DecisionInputError` or `DecisionNotAllowedError` when the request itself cannot be accepted."""
    if not role_allows(request.actor.role, Permission.GATES_DECIDE):
        raise DecisionNotAllowedError(request.actor.name, request.actor.role, request.kind)
    if not request.actor.name.strip():
        raise DecisionInputError("actor", "say who decides")
    _check_text("actor", request.actor.name, ACTOR_MAX_CHARACTERS)
    _check_text("display_name", request.display_name or "", ACTOR_MAX_CHARACTERS)
    _check_text("note", request.note or "", NOTE_MAX_CHARACTERS)
    _check_text("failure_key", request.failure_key or "", FAILURE_KEY_MAX_CHARACTERS)
    if request.kind is DecisionKind.REJECT and not (request.note or "").strip():
        raise DecisionInputError("note", "a rejection cancels the run for good: give the reason")
    _check_result(request)


def _check_text(field: str, value: str, longest: int) -> None:
    if len(value) > longest:
        raise DecisionInputError(field, f"has {len(value)} characters; at most {longest} are kept")
    if not is_storable(value):
        raise DecisionInputError(field, "must be text without NUL characters")


def _check_result(request: DecisionRequest) -> None:
    if request.result is None:
        return
    if request.kind is not DecisionKind.COMPENSATION:
        raise DecisionInputError("result", "only a compensation has a result")
    if not isinstance(request.result, dict):
        raise DecisionInputError("result", 'must be a JSON object, for example {"refund_id": "r-1"}')
    try:
        size = len(codec.dumps(request.result))
    except (TypeError, ValueError, RecursionError) as problem:
        raise DecisionInputError("result", f"is not JSON: {problem}") from problem
    if size > RESULT_MAX_CHARACTERS:
        raise DecisionInputError("result", f"has {size} characters; at most {RESULT_MAX_CHARACTERS} are kept")


def judge(
    run: RunSummary,
    earlier: Sequence[Decision],
    request: DecisionRequest,
    at: datetime,
    needed: Requirement = NO_REQUIREMENT,
    origin: Origin = UNKNOWN_ORIGIN,
) -> RunSummary:
    """Return the run as the decision leaves it, or raise why it cannot be made; a pure function.

    `earlier` holds the decisions already made about the failure event in question. The gate stays closed
    when the policy asks for more people.
    """
    shown = request.failure_key or (run.failure.key if run.failure else None)
    is_current = run.failure is not None and shown == run.failure.key
    _raise_if_decided(earlier, request.kind, run.blocked_by if is_current else ())
    if run.failure is None or run.status in FINISHED_STATUSES:
        if request.failure_key is not None:
            raise FailureMovedOnError(run.run_id, request.failure_key, None)
        raise NothingToDecideError(
            run.run_id, request.kind, f"the run is {run.status} and has no open failure"
        )
    if shown != run.failure.key:
        raise FailureMovedOnError(run.run_id, str(shown), run.failure.key)
    if request.kind is DecisionKind.REJECT:
        rejected = _reject(run, earlier, at)
        assert_allowed(request, needed, origin)
        return rejected
    action = GateAction(request.kind.value)
    if action not in run.blocked_by:
        raise NothingToDecideError(run.run_id, request.kind, _why_not(run, action))
    assert_allowed(request, needed, origin)
    standing = standing_of(action, needed, earlier, origin, at)
    _raise_if_counted(standing, request)
    if len(standing.given) + 1 < standing.needed:
        return replace(run, updated_at=at)
    return _opened(run, standing, request, at)


def _opened(run: RunSummary, standing: GateStanding, request: DecisionRequest, at: datetime) -> RunSummary:
    left = tuple(a for a in run.blocked_by if a is not standing.action)
    ends = (run.cleared_until, standing.ends_at, end_of(at, standing.requirement.expires_after))
    return replace(
        run,
        status=RunStatus.PAUSED,
        blocked_by=left,
        blocked_since=run.blocked_since if left else None,
        cleared_by=request.display_name or request.actor.name,
        cleared_at=at,
        cleared_until=min((end for end in ends if end is not None), default=None),
        updated_at=at,
    )


def assert_allowed(request: DecisionRequest, needed: Requirement, origin: Origin) -> None:
    """Raise what in a request the policy objects to: who decides, or a note that is missing."""
    reason = objection(needed, request.actor, origin)
    if reason is not None:
        raise PolicyRefusalError(request.actor.name, request.actor.role, request.kind, reason, needed.rule)
    if needed.note_required and not (request.note or "").strip():
        raise DecisionInputError("note", f"the policy asks for a note here (rule {needed.rule!r})")


def assert_policy(store: CheckpointStore, run: RunSummary, request: DecisionRequest, policy: Policy) -> None:
    """Raise, on record, if the policy objects to a decision that is carried out elsewhere: a rollback."""
    needed = policy.requirement(request.kind, run.environment, run.workflow_name)
    try:
        assert_allowed(request, needed, origin_of(store, run, needed, [request.actor.name]))
    except DecisionError as refusal:
        _record_refusal(store, request, refusal)
        raise


def _raise_if_counted(standing: GateStanding, request: DecisionRequest) -> None:
    mine = standing.by(request.actor.name, by_engine=request.step_sequence is not None)
    if mine is not None:
        raise AnotherPersonNeededError(mine, standing.needed, [d.shown_name for d in standing.given])


def _reject(run: RunSummary, earlier: Sequence[Decision], at: datetime) -> RunSummary:
    if not run.blocked_by and run.status is not RunStatus.FAILED:
        if earlier:
            raise AlreadyDecidedError(earlier[-1])
        raise NothingToDecideError(run.run_id, DecisionKind.REJECT, f"the run is {run.status}")
    return replace(
        run,
        status=RunStatus.CANCELLED,
        blocked_by=(),
        blocked_since=None,
        cleared_by=None,
        cleared_at=None,
        cleared_until=None,
        finished_at=at,
        updated_at=at,
    )


def _raise_if_decided(
    earlier: Sequence[Decision], kind: DecisionKind, closed: Collection[GateAction]
) -> None:
    """Raise when the run was rejected, or when the gate is not, or no longer, among the closed ones."""
    for decision in reversed(earlier):
        if decision.kind is DecisionKind.REJECT or (decision.kind is kind and kind.value not in closed):
            raise AlreadyDecidedError(decision)


def _why_not(run: RunSummary, action: GateAction) -> str:
    assert run.failure is not None
    if action is GateAction.PROD_RESUME_ACK:
        return f"the run is in {run.environment}, only prod resumes are acknowledged"
    waiting = ", ".join(run.blocked_by) or "no decision"
    return f"its failure is {run.failure.classification} and waits for {waiting}"


def _record(store: CheckpointStore, request: DecisionRequest, policy: Policy) -> tuple[RunSummary, Decision]:
    at = clock.utc_now()
    for _ in range(_ATTEMPTS):
        change = _judged(store, request, policy, at)
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
        payload |= {"approvers": needed.approvers, "opened": decision.opened}
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

"""Decisions about gates, and the one function that records them.

Library, pages, command line and API call `decide`; nothing else writes a decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from resume_engine.core import codec
from resume_engine.core.actor import Actor
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.clock import utc_now
from resume_engine.core.errors import (
    AlreadyDecidedError,
    DecisionError,
    DecisionInputError,
    DecisionNotAllowedError,
    FailureMovedOnError,
    NothingToDecideError,
    RunNotFoundError,
    StaleRunError,
)
from resume_engine.core.open_failures import after_clearing
from resume_engine.core.payload import is_storable, storable
from resume_engine.core.permissions import Permission, role_allows
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import FINISHED_STATUSES, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary

if TYPE_CHECKING:
    from resume_engine.core.store import CheckpointStore

ACTOR_MAX_CHARACTERS = 255
FAILURE_KEY_MAX_CHARACTERS = 32
NOTE_MAX_CHARACTERS = 2_000
RESULT_MAX_CHARACTERS = 64_000
_ATTEMPTS = 20  # rounds against others who change the same run; each round someone else got further


class DecisionKind(StrEnum):
    """What a person can decide about a failure event."""

    COMPENSATION = "compensation"  # the side effects were undone
    HUMAN_APPROVAL = "human_approval"  # the step may run again
    PROD_RESUME_ACK = "prod_resume_ack"  # the resume in prod is known and wanted
    REJECT = "reject"  # the run is cancelled, for good


def parse_decision_kind(value: object) -> DecisionKind:
    """Return the kind named by `value`; raise `DecisionInputError` for any other word."""
    try:
        return DecisionKind(value)  # type: ignore[arg-type]
    except ValueError:
        known = ", ".join(kind.value for kind in DecisionKind)
        raise DecisionInputError("kind", f"{value!r} is unknown; use one of {known}") from None


_EVENT_OF_KIND: dict[DecisionKind, EventType] = {
    DecisionKind.COMPENSATION: EventType.GATE_COMPENSATED,
    DecisionKind.HUMAN_APPROVAL: EventType.GATE_APPROVED,
    DecisionKind.PROD_RESUME_ACK: EventType.GATE_PROD_RESUME_ACK,
    DecisionKind.REJECT: EventType.GATE_REJECTED,
}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One recorded decision about one failure event."""

    run_id: str
    failure_key: str
    kind: DecisionKind
    actor: str
    role: str
    channel: str
    decided_at: datetime
    note: str | None = None
    result: dict[str, Any] | None = None
    step_sequence: int | None = None  # of the compensation record, when the engine ran it
    decision_id: int | None = None


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


def decide(store: CheckpointStore, request: DecisionRequest) -> tuple[RunSummary, Decision]:
    """Record a decision and return the run as it stands then, with the decision.

    Checks, in this order: what is needed, who may, that the failure event is the one shown, that
    nobody decided before. Of two at once the first wins. A refusal is an audit event and changes
    nothing else. Raises `RunNotFoundError` or a `DecisionError`.
    """
    try:
        check_request(request)
        return _record(store, request)
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


def judge(run: RunSummary, earlier: Sequence[Decision], request: DecisionRequest, at: datetime) -> RunSummary:
    """Return the run as the decision leaves it, or raise why it cannot be made; a pure function.

    `earlier` holds the decisions already made about the failure event in question.
    """
    shown = request.failure_key or (run.failure.key if run.failure else None)
    _raise_if_decided(earlier, request.kind)
    if run.failure is None or run.status in FINISHED_STATUSES:
        if request.failure_key is not None:
            raise FailureMovedOnError(run.run_id, request.failure_key, None)
        raise NothingToDecideError(
            run.run_id, request.kind, f"the run is {run.status} and has no open failure"
        )
    if shown != run.failure.key:
        raise FailureMovedOnError(run.run_id, str(shown), run.failure.key)
    if request.kind is DecisionKind.REJECT:
        return _reject(run, earlier, at)
    action = GateAction(request.kind.value)
    if action not in run.blocked_by:
        raise NothingToDecideError(run.run_id, request.kind, _why_not(run, action))
    left = tuple(a for a in run.blocked_by if a is not action)
    return replace(
        run,
        status=RunStatus.PAUSED,
        blocked_by=left,
        blocked_since=run.blocked_since if left else None,
        cleared_by=request.actor.name,
        cleared_at=at,
        updated_at=at,
    )


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
        finished_at=at,
        updated_at=at,
    )


def _raise_if_decided(earlier: Sequence[Decision], kind: DecisionKind) -> None:
    for decision in earlier:
        if decision.kind in (kind, DecisionKind.REJECT):
            raise AlreadyDecidedError(decision)


def _why_not(run: RunSummary, action: GateAction) -> str:
    assert run.failure is not None
    if action is GateAction.PROD_RESUME_ACK:
        return f"the run is in {run.environment}, only prod resumes are acknowledged"
    waiting = ", ".join(run.blocked_by) or "no decision"
    return f"its failure is {run.failure.classification} and waits for {waiting}"


def _record(store: CheckpointStore, request: DecisionRequest) -> tuple[RunSummary, Decision]:
    at = utc_now()
    for _ in range(_ATTEMPTS):
        run = store.load_summary(request.run_id)
        if run is None:
            raise RunNotFoundError(request.run_id)
        key = request.failure_key or (run.failure.key if run.failure else "")
        after = judge(run, store.list_decisions(request.run_id, failure_key=key), request, at)
        if request.kind is not DecisionKind.REJECT:
            after = after_clearing(store, after)
        decision = _decision(request, key, at)
        change = RunChange(
            before=run, after=after, decisions=(decision,), events=(_event(decision, request.actor),)
        )
        try:
            return store.commit(change), decision
        except StaleRunError:
            continue  # someone else changed the run meanwhile: judge again what it has become
    raise StaleRunError(request.run_id, "a quiet moment", f"changes by others in {_ATTEMPTS} rounds")


def _decision(request: DecisionRequest, key: str, at: datetime) -> Decision:
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
    )


def _event(decision: Decision, actor: Actor) -> AuditEvent:
    payload: dict[str, Any] = {}
    if decision.result is not None:
        payload["result"] = codec.as_json(decision.result)
    if decision.step_sequence is not None:
        payload["step_sequence"] = decision.step_sequence
    return AuditEvent.by(
        actor,
        _EVENT_OF_KIND[decision.kind],
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
            utc_now(),
            run_id=request.run_id,
            failure_key=shown,
            payload={"kind": request.kind.value, "reason": type(refusal).__name__, "message": str(refusal)},
        )
    )


def gates_view(decisions: Sequence[Decision]) -> Mapping[str, Any]:
    """Return decisions in the shape in which 0.2.0 kept them in `run.metadata["gates"]`.

    Empty when there are none. Beside 0.2.0's fields `approvals` and `prod_resume_acks` keep every decision
    by failure key, and `prod_resume_ack` says which failure it acknowledged.
    """
    view: dict[str, Any] = {}
    for decision in sorted(decisions, key=lambda d: d.decided_at):
        at = decision.decided_at.isoformat()
        if decision.kind is DecisionKind.HUMAN_APPROVAL:
            entry = {
                "granted": True,
                "failure_key": decision.failure_key,
                "approved_by": decision.actor,
                "approved_at": at,
                "note": decision.note,
            }
            view["human_approval"] = entry
            view.setdefault("approvals", {})[decision.failure_key] = entry
        elif decision.kind is DecisionKind.COMPENSATION:
            view.setdefault("compensations", {})[decision.failure_key] = _compensation_view(decision, at)
        elif decision.kind is DecisionKind.PROD_RESUME_ACK:
            entry = {
                "granted": True,
                "failure_key": decision.failure_key,
                "acknowledged_by": decision.actor,
                "acknowledged_at": at,
                "note": decision.note,
            }
            view["prod_resume_ack"] = entry
            view.setdefault("prod_resume_acks", {})[decision.failure_key] = entry
    return view


def _compensation_view(decision: Decision, at: str) -> dict[str, Any]:
    if decision.step_sequence is not None:
        return {
            "completed_at": at,
            "step_sequence": decision.step_sequence,
            "output": codec.as_json(decision.result),
        }
    return {
        "completed_at": at,
        "result": codec.as_json(decision.result or {}),
        "note": decision.note,
        "recorded_externally": True,
    }

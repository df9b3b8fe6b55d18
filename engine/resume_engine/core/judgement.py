"""What a decision makes of a run, or why it cannot be made: pure rules."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from resume_engine.core.decision import Decision, DecisionKind
from resume_engine.core.decision_request import DecisionRequest, is_blank
from resume_engine.core.errors import (
    AlreadyDecidedError,
    AnotherPersonNeededError,
    DecisionInputError,
    FailureMovedOnError,
    NothingToDecideError,
    PolicyRefusalError,
)
from resume_engine.core.gate_standing import GateStanding, end_of, standing_of
from resume_engine.core.policy import NO_REQUIREMENT, UNKNOWN_ORIGIN, Origin, Requirement, objection
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import FINISHED_STATUSES, RunStatus
from resume_engine.core.run_summary import RunSummary


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
    if needed.note_required and is_blank(request.note):
        raise DecisionInputError("note", f"the policy asks for a note here (rule {needed.rule!r})")


def _raise_if_counted(standing: GateStanding, request: DecisionRequest) -> None:
    mine = standing.by(request.actor, by_engine=request.step_sequence is not None)
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

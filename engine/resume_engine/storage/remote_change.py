"""A change as it is asked for over HTTP: what happened, not what follows from it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.errors import RemoteUnsupportedError
from resume_engine.core.messages import intent_message, step_message
from resume_engine.core.payload import encode, storable
from resume_engine.core.run import RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import FailureClassification, StepRecord


@dataclass(frozen=True)
class ChangeRequest:
    """One request: the call under the run's address, and its body."""

    call: str
    body: dict[str, Any]
    idempotency_key: str | None = None  # for what carries no change id


def change_request(change: RunChange) -> ChangeRequest:
    """Return the one request that asks for `change`."""
    after = change.after
    if change.decisions:
        return ChangeRequest("decisions", _decision(change), change.change_id or secrets.token_hex(8))
    if change.record is not None:
        return ChangeRequest("steps", _step(change, change.record))
    if after.status is RunStatus.COMPLETED:
        body = {"action": "complete", "change": _common(change) | {"lease": _held(change.before)}}
        return ChangeRequest("lease", body)
    if after.failure is not None and after.failure.lease_token is not None and after.blocked_by:
        asked = after.failure.classification is FailureClassification.PERMANENT
        return ChangeRequest("lease", {"action": "interrupt", "asked": asked, "change": _common(change)})
    for event in change.events:
        if event.event_type == EventType.RUN_ROLLING_BACK:
            return ChangeRequest("roll_back", _roll_back(change, event))
    if after.lease_owner is None:
        raise RemoteUnsupportedError(f"Over HTTP nothing can make run {after.run_id} {after.status}.")
    return ChangeRequest("lease", _claim(change))


def _common(change: RunChange) -> dict[str, Any]:
    after = change.after
    return {
        "change_id": change.change_id or secrets.token_hex(8),
        "version": change.before.version,
        "lease": _held(after, change.lease_seconds),
        "in_flight": [intent_message(step) for step in after.in_flight],
        "retry_at": after.retry_at.isoformat() if after.retry_at else None,
    }


def _held(run: RunSummary, seconds: float | None = None) -> dict[str, Any] | None:
    if run.lease_owner is None:
        return None
    return {"owner": run.lease_owner, "token": run.lease_token, "seconds": seconds}


def _claim(change: RunChange) -> dict[str, Any]:
    before, after = change.before, change.after
    of_workflow = after.steps_total != before.steps_total or change.events
    return {
        "action": "claim",
        "change": _common(change),
        "steps_total": after.steps_total if of_workflow else None,
        "workflow": None if change.workflow is None else list(change.workflow),
        "initial_input_text": None if change.initial_input is None else encode(change.initial_input),
    }


def _roll_back(change: RunChange, begun: AuditEvent) -> dict[str, Any]:
    """Say which steps can be undone; the control plane reads from its record what has to be."""
    return {
        "change": _common(change),
        "note": begun.note,
        "compensated": [undoing["step_index"] for undoing in begun.payload["compensated"]],
        "display_name": begun.actor,  # the audit names the key
    }


_OWN = (
    "input_text",
    "output_text",
    "timestamp",
    "started_at",
    "attempt",
    "duration_ms",
    "error_type",
    "error_traceback",
    "classified_by",
    "worker",
)
_SHARED = (
    "step_name",
    "step_index",
    "status",
    "failure_classification",
    "error_message",
    "sequence",
    "idempotency_key",
)


def _step(change: RunChange, record: StepRecord) -> dict[str, Any]:
    message = step_message(record)
    for name in ("error_message", "error_traceback"):
        message[name] = storable(message[name]) if message[name] else message[name]
    common = _common(change)
    if not record.is_failed or change.after.retry_at == change.before.retry_at:
        common["retry_at"] = None  # no retry of this attempt
    return {name: message[name] for name in _SHARED} | {
        "change": common
        | {name: message[name] for name in _OWN}
        | {"held": _held(change.before), "follows_failure": change.after.failure is not None}
    }


def _decision(change: RunChange) -> dict[str, Any]:
    decision = change.decisions[0]
    return {
        "kind": decision.kind.value,
        "failure_key": decision.failure_key,
        "note": decision.note,
        "result_text": None if decision.result is None else encode(decision.result),
        "step_sequence": decision.step_sequence,
        # The control plane records the key; who it stands for is shown beside it.
        "display_name": decision.display_name or decision.actor,
    }

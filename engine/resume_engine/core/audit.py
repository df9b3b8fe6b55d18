"""Audit events: who did what, when, to which run.

Steps are derived from their records, never written twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.permissions import Role
from resume_engine.core.step_record import StepRecord


class EventType(StrEnum):
    """The kinds of audit events."""

    RUN_STARTED = "run.started"
    RUN_UPDATED = "run.updated"
    RUN_RESUMED = "run.resumed"
    RUN_INTERRUPTED = "run.interrupted"  # its executor vanished, and a person must look first
    RUN_WORKFLOW_CHANGED = "run.workflow_changed"  # resumed with other steps, as the caller asked by name
    RUN_INPUT_CHANGED = "run.input_changed"  # resumed with another input, as the caller asked by name
    RUN_ROLLING_BACK = "run.rolling_back"  # a person asked for it; says what is undone
    RUN_ROLLED_BACK = "run.rolled_back"  # its completed steps were compensated in reverse order
    RUN_RESUME_VALIDATED = "run.resume_validated"
    RUN_COMPLETED = "run.completed"
    RUN_COLLECTED = "run.collected"  # finished runs were deleted; one event for each batch names them
    RUN_FAILED = "run.failed"  # closed as failed without a failed step record
    STEP_RECORDED = "step.recorded"  # derived from step records on read
    GATE_COMPENSATED = "gate.compensated"
    GATE_APPROVED = "gate.approved"
    GATE_PROD_RESUME_ACK = "gate.prod_resume_ack"
    GATE_REJECTED = "gate.rejected"
    GATE_EXPIRED = "gate.expired"  # nobody resumed the run in time: the gate is closed again
    GATE_REFUSED = "gate.refused"  # an attempt to decide that was not accepted
    AUTH_SIGNED_IN = "auth.signed_in"
    AUTH_SIGN_IN_FAILED = "auth.sign_in_failed"
    AUTH_SIGNED_OUT = "auth.signed_out"
    AUTH_CONFIRMED = "auth.confirmed"  # gave the password once more, before an act that asks for it
    AUTH_CONFIRM_FAILED = "auth.confirm_failed"
    AUTH_SESSIONS_ENDED = "auth.sessions_ended"
    ACCESS_DENIED = "access.denied"  # this and the next: written at most once a minute for the same thing
    ACCESS_FOREIGN = "access.foreign"  # it did not come from a page of ours
    USER_CREATED = "user.created"
    USER_ROLE_CHANGED = "user.role_changed"
    USER_DISABLED = "user.disabled"
    USER_ENABLED = "user.enabled"
    USER_PASSWORD_CHANGED = "user.password_changed"
    USER_LINK_CREATED = "user.link_created"
    KEY_CREATED = "key.created"
    KEY_ROTATED = "key.rotated"
    KEY_REVOKED = "key.revoked"
    KEY_REFUSED = "key.refused"  # written at most every few minutes for one key or address
    AUDIT_CHAIN_STARTED = "audit.chain_started"  # what was recorded before there was a chain joined it
    AUDIT_EXPORTED = "audit.exported"
    AUDIT_VERIFIED = "audit.verified"  # the server looked whether anybody rewrote the log, and what it found
    PAYLOAD_REVEALED = "payload.revealed"  # somebody looked at a masked value


@dataclass(frozen=True, kw_only=True)
class AuditEvent:
    """One line of the audit log; `event_id` is None until it is stored and for derived events."""

    event_type: str
    actor: str
    role: str
    channel: str
    created_at: datetime
    run_id: str | None = None
    failure_key: str | None = None
    note: str | None = None
    payload: dict[str, Any] = field(default_factory=dict)
    event_id: int | None = None

    @classmethod
    def by(
        cls,
        actor: Actor,
        event_type: EventType,
        at: datetime,
        *,
        run_id: str | None = None,
        failure_key: str | None = None,
        note: str | None = None,
        payload: dict[str, Any] | None = None,
    ) -> AuditEvent:
        """Return the event of an act of `actor` at the moment `at`."""
        return cls(
            event_type=event_type.value,
            actor=actor.name,
            role=actor.role.value,
            channel=actor.channel.value,
            created_at=at,
            run_id=run_id,
            failure_key=failure_key,
            note=note,
            payload=payload or {},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the event as JSON."""
        return {
            "event_id": self.event_id,
            "event_type": self.event_type,
            "actor": self.actor,
            "role": self.role,
            "channel": self.channel,
            "run_id": self.run_id,
            "failure_key": self.failure_key,
            "note": self.note,
            "payload": self.payload,
            "created_at": self.created_at.isoformat(),
        }


def step_event(run_id: str, record: StepRecord) -> AuditEvent:
    """Return the `step.recorded` event that a step record stands for."""
    failure = record.failure_classification
    return AuditEvent(
        event_type=EventType.STEP_RECORDED.value,
        actor=record.worker or "engine",
        role=Role.RUNNER.value,
        channel=Channel.LIBRARY.value,
        created_at=record.timestamp,
        run_id=run_id,
        failure_key=record.failure_key if failure else None,
        payload={
            "step_name": record.step_name,
            "step_index": record.step_index,
            "sequence": record.sequence,
            "status": record.status.value,
            "attempt": record.attempt,
            "idempotency_key": record.idempotency_key,
            "input_hash": record.input_hash,
            "failure_classification": failure.value if failure else None,
            "error_message": record.error_message,
        },
    )

"""Rows of decisions and audit events, and back."""

from __future__ import annotations

from typing import Any

from resume_engine.core.audit import AuditEvent
from resume_engine.core.audit_chain import Link
from resume_engine.core.decision import Decision, DecisionKind
from resume_engine.core.payload import storable
from resume_engine.storage import rows
from resume_engine.storage.payload_codec import PLAIN, PayloadCodec, shown_value

# Kinds of events that never hold data of a run's payloads.
PLAIN_EVENTS = ("access.", "audit.", "auth.", "key.", "payload.", "user.")


def decision_values(decision: Decision, codec: PayloadCodec) -> dict[str, Any]:
    """Return the columns of a decision."""
    return {
        "run_id": decision.run_id,
        "failure_key": decision.failure_key,
        "kind": decision.kind.value,
        "actor": decision.actor,
        "role": decision.role,
        "channel": decision.channel,
        "note": rows.encode_text(decision.note, codec),
        "result_json": None if decision.result is None else codec.encode(decision.result),
        "step_sequence": decision.step_sequence,
        "decided_at": decision.decided_at,
        "ordinal": decision.ordinal,
        "opened": int(decision.opened),
        "expires_at": decision.expires_at,
        "display_name": decision.display_name,
    }


def decision_from_row(row: rows.AnyRow, codec: PayloadCodec = PLAIN) -> Decision:
    """Return the decision held by a row."""
    return Decision(
        run_id=row.run_id,
        failure_key=row.failure_key,
        kind=DecisionKind(row.kind),
        actor=row.actor,
        role=row.role,
        channel=row.channel,
        decided_at=row.decided_at,
        note=rows.decode_text(row.note, codec),
        result=None if row.result_json is None else shown_value(codec, row.result_json),
        step_sequence=row.step_sequence,
        decision_id=row.decision_id,
        ordinal=row.ordinal,
        opened=bool(row.opened),
        expires_at=row.expires_at,
        display_name=row.display_name,
    )


def event_values(event: AuditEvent, codec: PayloadCodec = PLAIN) -> dict[str, Any]:
    """Return the columns of an audit event; what concerns accounts and access is never sealed."""
    if str(event.event_type).startswith(PLAIN_EVENTS):
        codec = PLAIN
    return {
        "event_type": event.event_type,
        "run_id": event.run_id,
        "actor": storable(event.actor)[:255],
        "role": event.role,
        "channel": event.channel,
        "failure_key": event.failure_key,
        "note": rows.encode_text(event.note, codec),
        "payload_json": codec.encode(event.payload),
        "created_at": event.created_at,
    }


def event_link_values(stream: str, link: Link) -> dict[str, Any]:
    """Return the columns that place an audit event in a chain."""
    return {
        "stream": stream,
        "chain_seq": link.seq,
        "prev_hash": link.prev_hash,
        "chain_hash": link.hash,
    }


def event_from_row(row: rows.AnyRow, codec: PayloadCodec = PLAIN) -> AuditEvent:
    """Return the audit event held by a row."""
    payload = shown_value(codec, row.payload_json)
    return event_of(row, note=rows.decode_text(row.note, codec), payload=payload)


def event_of(row: rows.AnyRow, *, note: str | None, payload: dict[str, Any]) -> AuditEvent:
    """Return the audit event of a row whose texts were read already."""
    return AuditEvent(
        event_type=row.event_type,
        actor=row.actor,
        role=row.role,
        channel=row.channel,
        created_at=row.created_at,
        run_id=row.run_id,
        failure_key=row.failure_key,
        note=note,
        payload=payload,
        event_id=row.event_id,
    )

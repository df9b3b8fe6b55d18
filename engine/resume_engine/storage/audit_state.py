"""How the audit stands, for people: sealed until when, verified until where, what is late."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select

from resume_engine.core.actor import ENGINE_ACTOR
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.chain_report import ChainReport, Verdict
from resume_engine.core.checkpoint import Checkpoint
from resume_engine.core.clock import utc_now
from resume_engine.storage import audit_rows
from resume_engine.storage.driver import asked_again
from resume_engine.storage.schema import audit_events
from resume_engine.storage.sealing import latest
from resume_engine.storage.sql_store import SqlCheckpointStore

LATE_AFTER = timedelta(minutes=10)
_COUNTED = 1_000
_WORDS = {
    Verdict.INTACT: "intact",
    Verdict.TAMPERED: "tampered with",
    Verdict.CANNOT_TELL: "cannot tell",
    Verdict.UNREADABLE: "unreadable",
}


@dataclass(frozen=True, kw_only=True)
class LastVerification:
    """The newest verification that the server made by itself."""

    at: datetime
    verdict: str
    entries: int
    checkpoint: int | None
    findings: tuple[str, ...]

    @property
    def is_bad(self) -> bool:
        """Return whether somebody has to look."""
        return self.verdict in (_WORDS[Verdict.TAMPERED], _WORDS[Verdict.UNREADABLE])


@dataclass(frozen=True, kw_only=True)
class AuditState:
    """The newest checkpoint and verification; events since that checkpoint, counted up to a thousand."""

    checkpoint: Checkpoint | None
    verified: LastVerification | None
    unsealed: int
    oldest_unsealed: datetime | None
    now: datetime

    @property
    def is_late(self) -> bool:
        """Return whether events wait longer for their seal than they should."""
        return self.oldest_unsealed is not None and self.now - self.oldest_unsealed > LATE_AFTER


@asked_again
def load_audit_state(store: SqlCheckpointStore) -> AuditState:
    """Return how the audit stands; three statements that cost the same however long it is."""
    event = audit_events.c
    verified = select(audit_events).where(event.event_type == EventType.AUDIT_VERIFIED.value)
    with store.viewing() as conn:
        checkpoint = latest(conn)
        row = conn.execute(verified.order_by(event.created_at.desc(), event.event_id.desc()).limit(1)).first()
        since = select(event.created_at)
        if checkpoint is not None:
            since = since.where(event.created_at > checkpoint.created_at)
        newer = since.order_by(event.created_at).limit(_COUNTED).subquery()
        count, oldest = conn.execute(select(func.count(), func.min(newer.c.created_at))).one()
    return AuditState(
        checkpoint=checkpoint,
        verified=None if row is None else _verification(audit_rows.event_from_row(row)),
        unsealed=count,
        oldest_unsealed=oldest,
        now=utc_now(),
    )


def record_verification(store: SqlCheckpointStore, report: ChainReport) -> None:
    """Write what a verification found as an event of the audit."""
    payload: dict[str, Any] = {
        "message": _sentence(report),
        "verdict": _WORDS[report.verdict],
        "entries": report.entries,
        "streams": report.streams,
        "checkpoint": report.checkpoint,
        "findings": [str(finding) for finding in report.findings[:5]] or report.sentences()[:5],
    }
    store.append_event(AuditEvent.by(ENGINE_ACTOR, EventType.AUDIT_VERIFIED, utc_now(), payload=payload))


def _sentence(report: ChainReport) -> str:
    entries = f"{report.entries:,} entries"
    if report.verdict is not Verdict.CANNOT_TELL:
        return f"{_WORDS[report.verdict]}: {entries}"
    return "; ".join([f"{entries} fit together", *report.sentences()[:1]])


def _verification(event: AuditEvent) -> LastVerification:
    found = event.payload
    return LastVerification(
        at=event.created_at,
        verdict=str(found.get("verdict", "unreadable")),
        entries=int(found.get("entries", 0)),
        checkpoint=found.get("checkpoint"),
        findings=tuple(found.get("findings", ())),
    )

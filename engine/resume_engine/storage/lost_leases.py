"""Executors that vanished, as the audit tells of them: by whoever found their runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select

from resume_engine.core.audit import EventType
from resume_engine.storage.driver import asked_again
from resume_engine.storage.payload_codec import shown_value
from resume_engine.storage.schema import audit_events
from resume_engine.storage.sql_store import SqlCheckpointStore


@dataclass(frozen=True, kw_only=True)
class LostLeases:
    """How many runs another executor went on with, and how many wait for a person since."""

    resumed: int
    left_to_a_person: int


@asked_again
def lost_leases(store: SqlCheckpointStore, since: datetime, *, limit: int) -> LostLeases:
    """Return what became of runs whose executor had vanished, by the newest events since; two statements.

    Resumes that are sealed with a key that is not here cannot be told apart and are left out.
    """
    with store.viewing() as conn:
        resumes = conn.execute(_newest(EventType.RUN_RESUMED, since, limit)).scalars().all()
        left = conn.execute(_newest(EventType.RUN_INTERRUPTED, since, limit)).scalars().all()
    taken_over = ["interrupted" in shown_value(store.codec, text) for text in resumes]
    return LostLeases(resumed=taken_over.count(True), left_to_a_person=len(left))


def _newest(kind: EventType, since: datetime, limit: int) -> Select[Any]:
    event = audit_events.c
    return (
        select(event.payload_json)
        .where(event.event_type == kind.value, event.created_at >= since)
        .order_by(event.created_at.desc(), event.event_id.desc())
        .limit(limit)
        .with_hint(audit_events, "INDEXED BY ix_audit_events_type", "sqlite")
    )

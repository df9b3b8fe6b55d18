"""What the audit pages and exports read: stored events, and step events derived from the records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select

from resume_engine.core.audit import AuditEvent, EventType, step_event
from resume_engine.storage import rows
from resume_engine.storage.schema import audit_events
from resume_engine.storage.sql_store import SqlCheckpointStore

_EVENTS_PER_FETCH = 500
_KNOWN_KINDS = tuple(kind.value for kind in EventType)


@dataclass(frozen=True, kw_only=True)
class EventFilter:
    """Narrow the audit log; None and empty text mean "any".

    `kind` is an event type, or `gate.` for all of a family.
    """

    actor: str | None = None
    kind: str | None = None
    run_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class AuditQueries:
    """Answer the questions of the audit page and its exports."""

    def __init__(self, store: SqlCheckpointStore) -> None:
        self._store = store

    def list_events(
        self, wanted: EventFilter, *, before: int | None = None, after: int | None = None, limit: int = 100
    ) -> tuple[list[AuditEvent], bool]:
        """Return stored events, newest first, and whether there are more in that direction.

        `before` asks for events older than that event id, `after` for newer ones.
        """
        query = _filtered(wanted)
        if after is not None:
            query = query.where(audit_events.c.event_id > after).order_by(audit_events.c.event_id)
        else:
            query = query.order_by(audit_events.c.event_id.desc())
            if before is not None:
                query = query.where(audit_events.c.event_id < before)
        with self._store.reading() as conn:
            found = [rows.event_from_row(row) for row in conn.execute(query.limit(limit + 1))]
        page = found[:limit]
        if after is not None:
            page.reverse()
        return page, len(found) > limit

    def latest(self, *, limit: int = 12, families: Sequence[str] = ("gate.", "run.")) -> list[AuditEvent]:
        """Return the latest events of some families, newest first."""
        kinds = [k for k in _KNOWN_KINDS if k.startswith(tuple(families))]
        query = (
            select(audit_events)
            .where(audit_events.c.event_type.in_(kinds))
            .order_by(audit_events.c.event_id.desc())
            .limit(limit)
        )
        with self._store.reading() as conn:
            return [rows.event_from_row(row) for row in conn.execute(query)]

    def stream(self, wanted: EventFilter) -> Iterator[AuditEvent]:
        """Yield stored events, oldest first, a few hundred in memory at a time."""
        last = 0
        while True:
            query = _filtered(wanted).where(audit_events.c.event_id > last).order_by(audit_events.c.event_id)
            with self._store.reading() as conn:
                found = [rows.event_from_row(row) for row in conn.execute(query.limit(_EVENTS_PER_FETCH))]
            yield from found
            if len(found) < _EVENTS_PER_FETCH:
                return
            last = found[-1].event_id or 0

    def stream_run(self, run_id: str) -> Iterator[AuditEvent]:
        """Yield all events of a run by time, the derived `step.recorded` among the stored ones."""
        stored = self.stream(EventFilter(run_id=run_id))
        derived = (step_event(run_id, record) for record in self._store.iter_steps(run_id))
        yield from _merged(stored, derived)


def _merged(first: Iterator[AuditEvent], second: Iterator[AuditEvent]) -> Iterator[AuditEvent]:
    a, b = next(first, None), next(second, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a.created_at <= b.created_at):
            assert a is not None
            yield a
            a = next(first, None)
        else:
            yield b
            b = next(second, None)


def _filtered(wanted: EventFilter) -> Select[Any]:
    query = select(audit_events)
    if wanted.actor:
        query = query.where(audit_events.c.actor == wanted.actor)
    if wanted.kind:
        exact = [wanted.kind] if not wanted.kind.endswith(".") else []
        family = [k for k in _KNOWN_KINDS if wanted.kind.endswith(".") and k.startswith(wanted.kind)]
        query = query.where(audit_events.c.event_type.in_(exact + family))
    if wanted.run_id:
        query = query.where(audit_events.c.run_id == wanted.run_id)
    if wanted.since is not None:
        query = query.where(audit_events.c.created_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(audit_events.c.created_at < wanted.until)
    return query

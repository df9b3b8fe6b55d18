"""What the audit pages and exports read: stored events, and step events derived from the records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, literal, select, tuple_, union_all

from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.storage import previews
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

        `before` asks for events older than the one with that id, `after` for newer ones.
        """
        forwards = after is not None
        query = _page(wanted, after if forwards else before, limit + 1, descending=not forwards)
        with self._store.asking() as conn:
            found = [previews.event(row, self._store.codec) for row in conn.execute(query)]
        page = found[:limit]
        if forwards:
            page.reverse()
        return page, len(found) > limit

    def stream(self, wanted: EventFilter) -> Iterator[AuditEvent]:
        """Yield stored events, oldest first, a few hundred in memory at a time."""
        last: int | None = None
        while True:
            query = _page(wanted, last, _EVENTS_PER_FETCH, descending=False)
            with self._store.asking() as conn:
                found = [previews.event(row, self._store.codec) for row in conn.execute(query)]
            yield from found
            if len(found) < _EVENTS_PER_FETCH:
                return
            last = found[-1].event_id

    def stream_run(self, run_id: str) -> Iterator[AuditEvent]:
        """Yield all events of a run by time, the derived `step.recorded` among the stored ones."""
        stored = self.stream(EventFilter(run_id=run_id))
        derived = (previews.step_event(run_id, record) for record in self._store.iter_steps(run_id))
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


def _page(wanted: EventFilter, position: int | None, limit: int, *, descending: bool) -> Select[Any]:
    """Return the statement for events behind the one with the id `position`, ordered by time."""
    kinds = _kinds(wanted.kind)
    behind = () if position is None else (_behind(position, descending),)
    if wanted.run_id or wanted.actor or len(kinds) < 2:
        of_kind = (audit_events.c.event_type.in_(kinds),) if kinds else ()
        return _walk(wanted, (*of_kind, *behind), limit, descending=descending)
    # One walk for each kind of a family: each is in order, whereas all together would have to be sorted.
    walks = [
        _walk(wanted, (audit_events.c.event_type == kind, *behind), limit, descending=descending)
        .with_only_columns(audit_events.c.event_id, audit_events.c.created_at)
        .subquery()
        for kind in kinds
    ]
    keys = union_all(*(select(*walk.c) for walk in walks)).subquery()
    page = _in_order(select(*keys.c), keys.c, limit, descending).subquery()
    query = select(audit_events).join(page, page.c.event_id == audit_events.c.event_id)
    return _in_order(query, page.c, limit, descending)


def _walk(
    wanted: EventFilter, extra: Sequence[ColumnElement[bool]], limit: int, *, descending: bool
) -> Select[Any]:
    query = select(audit_events).where(*_conditions(wanted), *extra)
    # SQLite has no statistics to choose by, see run_list.
    query = query.with_hint(audit_events, f"INDEXED BY {_index_for(wanted)}", "sqlite")
    return _in_order(query, audit_events.c, limit, descending)


def _index_for(wanted: EventFilter) -> str:
    if wanted.run_id:
        return "ix_audit_events_run"
    if wanted.actor:
        return "ix_audit_events_actor"
    return "ix_audit_events_type" if wanted.kind else "ix_audit_events_created"


def _in_order(query: Select[Any], columns: Any, limit: int, descending: bool) -> Select[Any]:
    moment, event_id = columns.created_at, columns.event_id
    keys = (moment.desc(), event_id.desc()) if descending else (moment, event_id)
    return query.order_by(*keys).limit(limit)


def _behind(event_id: int, descending: bool) -> ColumnElement[bool]:
    there = audit_events.alias()
    moment = select(there.c.created_at).where(there.c.event_id == event_id).scalar_subquery()
    here = tuple_(audit_events.c.created_at, audit_events.c.event_id)
    position = tuple_(moment, literal(event_id))
    return here < position if descending else here > position


def _kinds(kind: str | None) -> list[str]:
    if not kind:
        return []
    return [k for k in _KNOWN_KINDS if k.startswith(kind)] or [kind] if kind.endswith(".") else [kind]


def _conditions(wanted: EventFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.actor:
        found.append(audit_events.c.actor == wanted.actor)
    if wanted.run_id:
        found.append(audit_events.c.run_id == wanted.run_id)
    if wanted.since is not None:
        found.append(audit_events.c.created_at >= wanted.since)
    if wanted.until is not None:
        found.append(audit_events.c.created_at < wanted.until)
    return found

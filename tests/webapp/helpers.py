"""Words that the tests of the pages share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from werkzeug.routing import Rule

from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.storage import rows
from resume_engine.storage.schema import audit_events
from resume_engine.storage.sql_store import SqlCheckpointStore

SOME_ID = "f0000000-0000-4000-8000-000000000000"  # of nothing


def address_of(rule: Rule) -> str:
    """Return an address that a route matches; its ids belong to nothing."""
    values: dict[str, Any] = {
        name: 999_999 if type(converter).__name__ == "IntegerConverter" else SOME_ID
        for name, converter in rule._converters.items()
    }
    built = rule.build(values)
    assert built is not None, rule
    return built[1]


def events(store: SqlCheckpointStore, *kinds: EventType) -> list[AuditEvent]:
    """Return the stored audit events of these kinds (of all kinds without any), oldest first."""
    query = select(audit_events).order_by(audit_events.c.event_id)
    if kinds:
        query = query.where(audit_events.c.event_type.in_([kind.value for kind in kinds]))
    with store.reading() as conn:
        return [rows.event_from_row(row) for row in conn.execute(query)]

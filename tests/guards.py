"""Take the guards of the audit away for a while, as whoever owns a database can."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from resume_engine.storage import audit_guards
from resume_engine.storage.sql_store import SqlCheckpointStore


@contextmanager
def unguarded(store: SqlCheckpointStore) -> Iterator[Connection]:
    """Lend a connection that may write what the guards forbid; they are back when the block ends."""
    with store.writing() as conn:
        audit_guards.drop(conn)
        yield conn
        audit_guards.create(conn)

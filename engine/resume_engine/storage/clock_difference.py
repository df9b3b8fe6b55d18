"""How far the clock of this host is from that of the database server."""

from __future__ import annotations

from sqlalchemy import Connection, select, type_coerce

from resume_engine.core import clock
from resume_engine.storage.schema import UtcDateTime
from resume_engine.storage.sql_store import SqlCheckpointStore


def clock_difference(store: SqlCheckpointStore, conn: Connection) -> float:
    """Return how many seconds this host is ahead; half of the time that the question took is taken off."""
    before = clock.utc_now()
    theirs = conn.execute(select(type_coerce(store.database_now(), UtcDateTime))).scalar_one()
    after = clock.utc_now()
    return (before + (after - before) / 2 - theirs).total_seconds()

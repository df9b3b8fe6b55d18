"""Guards that keep the audit append-only, whoever writes to the database.

What stands in the audit is neither changed nor removed; a payload may only become a sealed one, as a change
of keys makes it. Records and decisions go when their run has gone, and a run goes only when it is finished.
Whoever owns the database can take the guards away: that is what the chain and its seals are for.

Release 0.2.0 knows nothing of the chain, of versions and of decisions. It opens an upgraded database as if it
were its own, so the database itself refuses what it writes, and says what to do.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, text

from resume_engine.storage import postgres_guards, sqlite_guards
from resume_engine.storage.guarded_tables import Guard


def guards(conn: Connection) -> list[Guard]:
    """Return every guard that a database of this kind has."""
    return list(postgres_guards.guards() if _is_postgres(conn) else sqlite_guards.guards())


def create(conn: Connection) -> None:
    """Make every guard."""
    if _is_postgres(conn):
        _run(conn, postgres_guards.FUNCTIONS)
    for guard in guards(conn):
        _run(conn, guard.make)


def renew(conn: Connection) -> None:
    """Bring the guards of an older schema to what they are now; part of a migration.

    On SQLite all are made anew: some say more than they did. PostgreSQL locks a table for each of its
    triggers, so there those that stand stay.
    """
    if not _is_postgres(conn):
        drop(conn)
        create(conn)
        return
    _run(conn, [*postgres_guards.FUNCTIONS, *postgres_guards.unmake_obsolete(conn)])
    new = missing(conn)
    for guard in guards(conn):
        if guard in new:
            _run(conn, guard.make)


def drop(conn: Connection) -> None:
    """Take every guard away; whoever owns the tables can."""
    _run(conn, [guard.unmake for guard in guards(conn)])


def missing(conn: Connection) -> list[Guard]:
    """Return the guards that are not there, or do not always act."""
    present = postgres_guards.present(conn) if _is_postgres(conn) else sqlite_guards.present(conn)
    return [guard for guard in guards(conn) if guard.name not in present]


def _is_postgres(conn: Connection) -> bool:
    return conn.dialect.name == "postgresql"


def _run(conn: Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        conn.execute(text(statement))

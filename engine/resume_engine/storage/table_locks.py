"""The tables of a PostgreSQL database, taken for an upgrade while executors write to them.

A step locks `step_records` and `runs` in either order, so whoever waits for one while it holds the other can
meet an executor that does the opposite. PostgreSQL would then end one of the two, and a step whose effect has
happened would not be recorded. So an upgrade waits for less time than PostgreSQL looks on, lets go of both,
and tries again: it is never the executor that gives way.
"""

from __future__ import annotations

import random
import time

from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

_WAIT_MILLISECONDS = 200  # PostgreSQL looks for deadlocks after a second
_PAUSE_SECONDS = (0.02, 0.2)
GIVE_UP_AFTER_SECONDS = 60.0
_LOCK_NOT_AVAILABLE = "55P03"


def take_tables(conn: Connection) -> None:
    """Lock the tables of runs and records until the transaction ends; SQLite has one lock for all.

    Raises the database's own error when somebody holds a table for a minute.
    """
    if conn.dialect.name != "postgresql":
        return
    deadline = time.monotonic() + GIVE_UP_AFTER_SECONDS
    conn.execute(text(f"SET LOCAL lock_timeout = {_WAIT_MILLISECONDS}"))
    while not _taken(conn, give_up=time.monotonic() > deadline):
        time.sleep(random.uniform(*_PAUSE_SECONDS))
    conn.execute(text("SET LOCAL lock_timeout TO DEFAULT"))


def _taken(conn: Connection, *, give_up: bool) -> bool:
    try:
        with conn.begin_nested():
            conn.execute(text("LOCK TABLE runs, step_records IN ACCESS EXCLUSIVE MODE"))
    except OperationalError as error:
        if give_up or getattr(error.orig, "pgcode", None) != _LOCK_NOT_AVAILABLE:
            raise
        return False
    return True

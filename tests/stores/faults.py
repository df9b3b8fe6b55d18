"""Make a database refuse every write to one table, by means that no code above it can go around."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text

from resume_engine.storage.sql_store import SqlCheckpointStore

_FUNCTION = (
    "CREATE OR REPLACE FUNCTION test_fault() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'test fault'; END $$"
)
# A SQLite connection that has not seen a trigger go refuses to make another of its name.
_NUMBERS = itertools.count()


@contextmanager
def writes_fail(store: SqlCheckpointStore, table: str) -> Iterator[None]:
    """Let writes to `table` fail, after the row is there, while the block runs."""
    postgres = store.engine.dialect.name == "postgresql"
    fail = "EXECUTE FUNCTION test_fault()" if postgres else "BEGIN SELECT RAISE(ABORT, 'test fault'); END"
    names = {f"test_fault_{next(_NUMBERS)}": verb for verb in ("INSERT", "UPDATE")}
    made = [f"CREATE TRIGGER {name} AFTER {verb} ON {table} {fail}" for name, verb in names.items()]
    _run(store, [_FUNCTION, *made] if postgres else made)
    try:
        yield
    finally:
        _run(store, [f"DROP TRIGGER {name}{f' ON {table}' if postgres else ''}" for name in names])


def _run(store: SqlCheckpointStore, statements: list[str]) -> None:
    with store.writing() as conn:
        for statement in statements:
            conn.execute(text(statement))

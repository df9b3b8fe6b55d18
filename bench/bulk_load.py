"""Fill an empty database at the newest schema as fast as it takes rows; its indexes are built afterwards."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, Engine, Index, Table, inspect, text

from bench.stamping import COLUMNS, Stamped, Values
from resume_engine.storage import audit_guards
from resume_engine.storage.schema import audit_events, decisions, runs, step_records

_LOADED: tuple[Table, ...] = (runs, step_records, decisions, audit_events)
_RUNS_PER_BATCH = 2_000

Rows = Iterator[tuple[Stamped, list[Values]]]
Progress = Callable[[int], None]


def load(engine: Engine, rows: Rows, progress: Progress) -> None:
    """Write all rows, then build the indexes and give the database its first statistics."""
    indexes = [index for table in _LOADED for index in table.indexes]
    with engine.begin() as conn:
        for index in indexes:
            conn.execute(text(f'DROP INDEX IF EXISTS "{index.name}"'))
        audit_guards.drop(conn)  # the copies of a story are not chained
    write = _write_sqlite if engine.dialect.name == "sqlite" else _write_postgres
    done = 0
    raw = engine.raw_connection()
    try:
        for batch in _batches(rows):
            write(raw.driver_connection, batch)
            done += len(batch["runs"])
            progress(done)
    finally:
        raw.close()
        engine.dispose()  # the connection that did not wait for the disk is not used again
    build_indexes(engine)
    if engine.dialect.name == "postgresql":
        _settle_postgres(engine)


def build_indexes(engine: Engine) -> list[str]:
    """Make the indexes those of the schema and return what that took."""
    done = []
    with engine.begin() as conn:
        wanted = {str(i.name): i for t in _LOADED for i in t.indexes if _is_for(i, engine)}
        present = _columns_of_indexes(conn)
        kept = {name for name, index in wanted.items() if present.get(name) == list(index.columns.keys())}
        for name in sorted(present.keys() - kept):
            conn.execute(text(f'DROP INDEX "{name}"'))
            done.append(f"dropped {name}")
        for name in sorted(wanted.keys() - kept):
            wanted[name].create(conn)
            done.append(f"built {name}")
        if audit_guards.missing(conn):
            audit_guards.create(conn)
    return done


def _is_for(index: Index, engine: Engine) -> bool:
    return "pattern" not in str(index.name) or engine.dialect.name == "postgresql"


def _columns_of_indexes(conn: Connection) -> dict[str, list[str]]:
    inspector = inspect(conn)
    indexes = [index for table in _LOADED for index in inspector.get_indexes(table.name)]
    found = {str(index["name"]): [str(column) for column in index["column_names"]] for index in indexes}
    keys = {str(key.name) for table in _LOADED for key in table.constraints}
    return {name: columns for name, columns in found.items() if name not in keys}


def _batches(rows: Rows) -> Iterator[dict[str, list[Values]]]:
    batch: dict[str, list[Values]] = {name: [] for name in COLUMNS}
    for run, events in rows:
        batch["runs"].append(run.run)
        batch["step_records"] += run.steps
        batch["decisions"] += run.decisions
        batch["audit_events"] += events
        if len(batch["runs"]) == _RUNS_PER_BATCH:
            yield batch
            batch = {name: [] for name in COLUMNS}
    yield batch


def _write_sqlite(raw: sqlite3.Connection, batch: dict[str, list[Values]]) -> None:
    raw.execute("PRAGMA synchronous=OFF")
    raw.execute("BEGIN")
    for table, rows in batch.items():
        columns = ", ".join(f'"{name}"' for name in COLUMNS[table])
        places = ", ".join("?" * len(COLUMNS[table]))
        raw.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", rows)
    raw.execute("COMMIT")


def _write_postgres(raw: Any, batch: dict[str, list[Values]]) -> None:
    with raw.cursor() as cursor:
        for table, rows in batch.items():
            columns = ", ".join(f'"{name}"' for name in COLUMNS[table])
            cursor.copy_expert(f"COPY {table} ({columns}) FROM STDIN", _CopyText(rows))
    raw.commit()


def _settle_postgres(engine: Engine) -> None:
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as conn:
        for table, key in (
            ("step_records", "id"),
            ("decisions", "decision_id"),
            ("audit_events", "event_id"),
        ):
            conn.execute(
                text(f"SELECT setval(pg_get_serial_sequence('{table}', '{key}'), max({key})) FROM {table}")
            )
        conn.execute(text("VACUUM ANALYZE"))
        conn.execute(text("CHECKPOINT"))


class _CopyText:
    """Rows in the text form of COPY, read like a file."""

    def __init__(self, rows: Iterable[Values]) -> None:
        self._lines = (_copy_line(row) for row in rows)
        self._left = ""

    def read(self, size: int) -> str:
        """Return about `size` characters."""
        parts, length = [self._left], len(self._left)
        while length < size:
            line = next(self._lines, None)
            if line is None:
                break
            parts.append(line)
            length += len(line)
        found = "".join(parts)
        self._left = found[size:]
        return found[:size]


def _copy_line(row: Values) -> str:
    return "\t".join(["\\N" if value is None else _escaped(str(value)) for value in row]) + "\n"


def _escaped(value: str) -> str:
    if "\\" not in value and "\n" not in value and "\t" not in value and "\r" not in value:
        return value
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")

"""Compare a database with what this release expects of it, without changing anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Select, func, inspect, literal, or_, select

from resume_engine.core.run import FINISHED_STATUSES
from resume_engine.storage import audit_guards
from resume_engine.storage.encryption import EncryptedCodec
from resume_engine.storage.key_rotation import count_unsealed
from resume_engine.storage.run_filter import BLOCKED_BY_TEXTS
from resume_engine.storage.schema import HEAD_REVISION, metadata, runs, step_records
from resume_engine.storage.schema_version import found_schema, raise_if_too_new
from resume_engine.storage.sql_store import SqlCheckpointStore

_SHOWN_RUNS = 5
_POSTGRES_ONLY = {"ix_runs_run_id_pattern"}


def verify(store: SqlCheckpointStore) -> list[str]:
    """Return what is wrong with a database, one sentence each; nothing when all is well.

    Raises `SchemaTooNewError` for what a newer release has made: only that one can tell.
    """
    with store.reading() as conn:
        found = found_schema(conn)
        if found != HEAD_REVISION:
            raise_if_too_new(found)
            return [f"the schema is at {found}, this release needs {HEAD_REVISION}"]
        findings = list(_missing_parts(conn))
        if not findings:
            findings += _counter_findings(conn)
    return findings + _clear_findings(store) + store.settings_at_risk()


def _clear_findings(store: SqlCheckpointStore) -> list[str]:
    """Return what lies in the clear, or under an older key, although a key is given."""
    count = count_unsealed(store) if isinstance(store.codec, EncryptedCodec) else 0
    if not count:
        return []
    return [f"{count} row(s) are not sealed with the newest key: run `resume-engine db rotate-keys`"]


def _missing_parts(conn: Connection) -> Iterator[str]:
    inspector = inspect(conn)
    names = set(inspector.get_table_names())
    for table in metadata.sorted_tables:
        if table.name not in names:
            yield f"table {table.name} is missing"
            continue
        columns = {str(column["name"]) for column in inspector.get_columns(table.name)}
        yield from _lacking(f"column of {table.name}", {column.name for column in table.columns}, columns)
        indexes = {str(index["name"]) for index in inspector.get_indexes(table.name)}
        wanted = {str(index.name) for index in table.indexes}
        if conn.dialect.name != "postgresql":
            wanted -= _POSTGRES_ONLY
        yield from _lacking(f"index on {table.name}", wanted, indexes)
    for guard in audit_guards.missing(conn):
        yield f"guard of {guard.table} is missing: {guard.name}"


def _lacking(what: str, wanted: set[str], found: set[str]) -> Iterator[str]:
    return (f"{what} is missing: {name}" for name in sorted(wanted - found))


def _counter_findings(conn: Connection) -> Iterator[str]:
    """Yield runs whose row does not say what their records say."""
    recorded = (
        select(step_records.c.run_id, func.max(step_records.c.sequence).label("last"))
        .group_by(step_records.c.run_id)
        .subquery()
    )
    wrong_sequence = (
        select(runs.c.run_id)
        .join(recorded, recorded.c.run_id == runs.c.run_id, isouter=True)
        .where(runs.c.next_sequence != func.coalesce(recorded.c.last, -1) + 1)
    )
    yield from _named(conn, wrong_sequence, "count their records wrongly")
    finished = [status.value for status in FINISHED_STATUSES]
    wrong_gates = (
        select(runs.c.run_id)
        .where(runs.c.blocked_by.is_not(None))
        .where(
            or_(
                runs.c.failure_sequence.is_(None),
                runs.c.status.in_(finished),
                runs.c.blocked_by.not_in(BLOCKED_BY_TEXTS),
            )
        )
    )
    yield from _named(conn, wrong_gates, "have a closed gate that fits no failure")
    orphans = select(recorded.c.run_id).where(
        ~select(literal(1)).where(runs.c.run_id == recorded.c.run_id).exists()
    )
    yield from _named(conn, orphans, "have records but no run")


def _named(conn: Connection, query: Select[Any], problem: str) -> Iterator[str]:
    found = list(conn.execute(query.limit(_SHOWN_RUNS + 1)).scalars())
    if found:
        shown = ", ".join(found[:_SHOWN_RUNS]) + (" and more" if len(found) > _SHOWN_RUNS else "")
        yield f"runs that {problem}: {shown}"

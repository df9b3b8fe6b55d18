"""A store with enough rows that plans matter, and the plans of the statements that a call sends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Table, event, insert, text

from resume_engine.storage.schema import audit_events, decisions, runs, step_records
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.guards import unguarded

NOW = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)
LONG_RUN = "f0000000-0000-4000-8000-000000000000"
RUNS, STEPS_OF_THE_LONG_RUN, EVENTS = 6_000, 2_000, 6_000
BIG_TABLES = ("runs", "step_records", "audit_events")

Row = dict[str, Any]
_MANY = 400
_LEASE = timedelta(seconds=30)


@dataclass(frozen=True)
class Sent:
    """One statement that a call sent, with what the database says about how it will work."""

    sql: str
    plan: str

    def problems(self) -> list[str]:
        """Return what makes this statement slower when the tables grow."""
        scans = {table: (f"SCAN {table}\n", f"Seq Scan {table}") for table in BIG_TABLES}
        found = [
            f"reads all of {table}" for table, words in scans.items() if any(w in self.plan for w in words)
        ]
        if "TEMP B-TREE FOR ORDER BY" in self.plan or "sorts many" in self.plan:
            found.append("sorts what it found")
        return found


@contextmanager
def statements_of(store: SqlCheckpointStore) -> Iterator[list[Sent]]:
    """Collect the statements, each with its plan, that are sent while the block runs."""
    sent: list[Sent] = []
    busy = False

    def note(conn: Any, _cursor: Any, sql: str, parameters: Any, *_rest: Any) -> None:
        nonlocal busy
        if busy or sql.split(None, 1)[0] in ("BEGIN", "COMMIT", "ROLLBACK"):
            return
        busy = True
        try:
            sent.append(Sent(sql, _plan(conn, sql, parameters)))
        finally:
            busy = False

    for engine in store.engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        for engine in store.engines:
            event.remove(engine, "before_cursor_execute", note)


def sent_by(store: SqlCheckpointStore, call: Callable[[], object]) -> list[Sent]:
    """Return the statements of one call."""
    with statements_of(store) as sent:
        call()
    return sent


def _plan(conn: Any, sql: str, parameters: Any) -> str:
    if conn.dialect.name == "sqlite":
        lines = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).all()
        return "".join(f"{line[3]}\n" for line in lines)
    found = conn.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sql}", parameters).scalar()
    tree = json.loads(found) if isinstance(found, str) else found
    return "".join(f"{line}\n" for line in _nodes(tree[0]["Plan"]))


def _nodes(node: Row) -> Iterator[str]:
    words = [str(node[key]) for key in ("Node Type", "Relation Name", "Index Name") if key in node]
    # PostgreSQL may well sort a handful of rows that one look-up finds.
    if node["Node Type"] == "Sort" and node["Plan Rows"] > _MANY:
        words.append("sorts many")
    yield " ".join(words)
    for part in node.get("Plans", ()):
        yield from _nodes(part)


def fill(store: SqlCheckpointStore) -> None:
    """Write rows of every state; nearly all runs completed, as in a database that has been used for long."""
    tables: list[tuple[Table, list[Row]]] = [
        (runs, [_run(number) for number in range(RUNS)]),
        (step_records, [_step(number) for number in range(STEPS_OF_THE_LONG_RUN)]),
        (step_records, [_step(0, run_id=_run_id(number)) for number in range(1, RUNS)]),
        (audit_events, [_event(number) for number in range(EVENTS)]),
        (decisions, [_decision(number) for number in range(0, RUNS, 40)]),
    ]
    with unguarded(store) as conn:
        for table, rows in tables:
            conn.execute(insert(table), rows)
    if store.engine.dialect.name == "postgresql":
        with store.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as conn:
            conn.execute(text("VACUUM ANALYZE"))
            conn.execute(text(f'ALTER DATABASE "{store.engine.url.database}" SET random_page_cost = 1.1'))
        store.engine.dispose()


def _run_id(number: int) -> str:
    return f"{number * 2_654_435_761 % 2**32:08x}-0000-4000-8000-{number:012x}" if number else LONG_RUN


def _run(number: int) -> Row:
    kind = number % 50
    status = {1: "failed", 2: "paused", 3: "cancelled", 4: "running", 5: "pending", 6: "failed"}.get(
        kind, "completed"
    )
    has_failed = kind in (1, 2, 3, 6)
    is_blocked = kind == 1
    created = NOW - timedelta(minutes=number * 7)
    return {
        "run_id": _run_id(number),
        "workflow_name": f"flow_{number % 7}",
        "status": status,
        "created_at": created,
        "updated_at": created,
        "metadata_json": json.dumps({"padding": "x" * 200}),
        "environment": ("dev", "staging", "prod")[number % 3],
        "next_sequence": STEPS_OF_THE_LONG_RUN if not number else 1,
        "failure_step_index": 0 if has_failed else None,
        "failure_step_name": "step" if has_failed else None,
        "failure_sequence": 0 if has_failed else None,
        "failure_classification": ("partial", "permanent")[number % 2] if has_failed else None,
        "failure_error_type": "ValueError" if has_failed else None,
        "failure_message": f"amount {number % 3} is negative" if has_failed else None,
        "failed_at": created if has_failed else None,
        "blocked_by": "human_approval" if is_blocked else None,
        "blocked_since": created if is_blocked else None,
        "lease_owner": "runner" if kind == 4 else None,
        "lease_expires_at": (NOW if number % 100 == 4 else created) + _LEASE if kind == 4 else None,
    }


def _step(sequence: int, *, run_id: str = LONG_RUN) -> Row:
    failed = sequence % 400 == 399
    return {
        "run_id": run_id,
        "step_name": "step",
        "step_index": sequence,
        "input_json": json.dumps({"padding": "x" * 100}),
        "input_hash": "0" * 64,
        "output_json": None if failed else "{}",
        "status": "failed" if failed else "completed",
        "idempotency_key": f"{run_id}{sequence:028}"[:64],
        "timestamp": NOW + timedelta(seconds=sequence),
        "sequence": sequence,
    }


def _event(number: int) -> Row:
    kind = (
        "run.completed" if number % 20 else ("gate.approved", "gate.rejected", "auth.signed_in")[number % 3]
    )
    return {
        "event_type": kind,
        "run_id": _run_id(number % RUNS),
        "actor": f"person_{number % 9}",
        "role": "operator",
        "channel": "dashboard",
        "payload_json": json.dumps({"padding": "x" * 1_500}),
        "created_at": NOW - timedelta(minutes=(EVENTS - number) * 5),
    }


def _decision(number: int) -> Row:
    return {
        "run_id": _run_id(number),
        "failure_key": "0:0",
        "kind": "human_approval",
        "actor": "person_1",
        "role": "operator",
        "channel": "dashboard",
        "decided_at": NOW - timedelta(minutes=number * 7),
    }

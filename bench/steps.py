"""What a durable step costs, beside the least that durability can cost: one insert and one commit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from bench.databases import Shelf
from bench.measure import interleaved, table, traffic
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.step import Step
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore

SIZES = (100, 1_000)
_INPUT = {"case": 4711, "amount": "120.00", "customer": "c-20931", "language": "en"}
_FLOOR_TABLE = "CREATE TABLE bench_floor (id integer PRIMARY KEY, run_id varchar(36), record text)"


def report(shelf: Shelf, rounds: int) -> str:
    """Measure both databases and return the table."""
    header = ["a durable step", "steps", "ms a step", "p95", "bare ms", "to bare", "SQL", "commits"]
    lines = []
    for backend in shelf.backends:
        store = open_store(shelf.scratch_url(backend, "steps"))
        for size in SIZES:
            lines.append(_line(backend, store, size, max(3, rounds * SIZES[0] // size)))
        store.close()
    return table(header, lines)


def _line(backend: str, store: SqlCheckpointStore, size: int, rounds: int) -> list[str]:
    engine = ResumeEngine(store)
    steps = [Step(f"step_{number}", _work) for number in range(size)]

    def workflow() -> None:
        run = engine.start_run("bench.steps")
        engine.execute_workflow(run.run_id, steps, initial_input=_INPUT)

    statements, commits = _traffic(store, workflow, size)
    times = interleaved({"steps": workflow, "bare": _bare(store, size)}, rounds)
    each, bare = times["steps"], times["bare"]
    return [
        "SQLite, synchronous=FULL" if backend == "sqlite" else "PostgreSQL",
        f"{size:,}",
        f"{each.p50 / size:.3f}",
        f"{each.p95 / size:.3f}",
        f"{bare.p50 / size:.3f}",
        f"{each.p50 / bare.p50:.2f}",
        f"{statements / size:.2f}",
        f"{commits / size:.2f}",
    ]


def _work(state: dict[str, Any], key: str) -> dict[str, Any]:
    return {"cursor": key[:8], "checked": True}


def _traffic(store: SqlCheckpointStore, workflow: Callable[[], None], size: int) -> tuple[int, int]:
    with traffic(store) as seen:
        workflow()
        return len(seen.statements), seen.commits


def _bare(store: SqlCheckpointStore, size: int) -> Callable[[], None]:
    """Return the floor: the driver alone writes and commits a record of the same size, `size` times."""
    raw = store.engine.raw_connection()
    is_sqlite = store.engine.dialect.name == "sqlite"
    insert = "INSERT INTO bench_floor (id, run_id, record) VALUES (?, ?, ?)"
    cursor = raw.cursor()
    if not is_sqlite:
        insert = insert.replace("?", "%s")
    cursor.execute("DROP TABLE IF EXISTS bench_floor")
    cursor.execute(_FLOOR_TABLE)
    raw.commit()
    record = json.dumps([_INPUT, _work({}, "0" * 64), "0" * 64, "0" * 64, "2026-11-20T15:00:00+00:00"] * 2)
    state = {"next": 0}

    def write() -> None:
        for _ in range(size):
            state["next"] += 1
            if is_sqlite:
                cursor.execute("BEGIN IMMEDIATE")
            cursor.execute(insert, (state["next"], "b0000010-0000-4000-8000-000000000010", record))
            if is_sqlite:
                cursor.execute("COMMIT")
            else:
                raw.commit()

    return write

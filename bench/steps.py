"""What a durable step costs, beside the least that durability can cost: one insert and one commit.

Every step of the measured workflow also writes a bare record by the driver alone, and the clock is read
around it: so each durable step stands beside a bare commit of the same moment, however noisy the disk is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from sqlalchemy import func, select

from bench.databases import Shelf
from bench.measure import Timings, table, traffic
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.step import Step
from resume_engine.storage.open_store import open_store
from resume_engine.storage.schema import step_records
from resume_engine.storage.sql_store import SqlCheckpointStore

SIZES = (100, 1_000, 5_000)
_INPUT = {"case": 4711, "amount": "120.00", "customer": "c-20931", "language": "en"}
_FLOOR_TABLE = "CREATE TABLE bench_floor (id integer PRIMARY KEY, run_id varchar(36), record text)"
NAMES = {"sqlite": "SQLite, synchronous=FULL", "postgresql": "PostgreSQL"}

Write = Callable[[], None]


@dataclass
class Meter:
    """Times of durable steps and of the bare commits between them."""

    durable: Timings = field(default_factory=Timings)
    bare: Timings = field(default_factory=Timings)
    _left: float | None = None

    def step(self, write_bare: Write) -> None:
        """Stand inside a step: what lies between two calls is the engine's and the database's work."""
        entered = time.perf_counter()
        if self._left is not None:
            self.durable.milliseconds.append((entered - self._left) * 1000)
        write_bare()
        self._left = time.perf_counter()
        self.bare.milliseconds.append((self._left - entered) * 1000)

    def pause(self) -> None:
        """Leave out what lies between two workflows."""
        self._left = None


def report(shelf: Shelf, rounds: int) -> str:
    """Measure both databases and return the table."""
    header = ["a durable step", "steps", "ms a step", "p95", "bare ms", "to bare", "SQL", "commits"]
    lines, growing = [], []
    for backend in shelf.backends:
        store = open_store(shelf.scratch_url(backend, "steps"))
        for size in SIZES:
            lines.append(_line(NAMES[backend], store, size, max(2, rounds * SIZES[0] // size)))
        growing += [_growing_line(NAMES[backend], store, size) for size in SIZES]
        store.close()
    more = ["each step adds a field", "steps", "ms of the last steps", "stored bytes", "bytes of the state"]
    return f"{table(header, lines)}\n\n{table(more, growing)}"


def _growing_line(name: str, store: SqlCheckpointStore, size: int) -> list[str]:
    """Measure the last steps of a workflow whose state grows with each of them."""
    begun: list[float] = []
    state_bytes = 0

    def work(state: dict[str, Any], key: str) -> dict[str, Any]:
        nonlocal state_bytes
        begun.append(time.perf_counter())
        if len(begun) == size:
            state_bytes = len(json.dumps(state))
        return {f"field_{len(begun):05}": "x" * 20}

    engine = ResumeEngine(store)
    run = engine.start_run("bench.growing")
    engine.execute_workflow(run.run_id, [Step(f"step_{n}", work) for n in range(size)], initial_input=_INPUT)
    last = sorted(b - a for a, b in pairwise(begun[-51:]))
    stored = func.length(step_records.c.input_json) + func.length(step_records.c.output_json)
    of_last = (step_records.c.run_id == run.run_id, step_records.c.sequence == size - 1)
    with store.reading() as conn:
        count = conn.execute(select(stored).where(*of_last)).scalar_one()
    return [name, f"{size:,}", f"{last[len(last) // 2] * 1000:.3f}", f"{count:,}", f"{state_bytes:,}"]


def _line(name: str, store: SqlCheckpointStore, size: int, rounds: int) -> list[str]:
    statements, commits = _traffic(store, size)
    meter = Meter()
    write_bare, end = bare_commit(store)
    try:
        for _ in range(rounds):
            _run(store, size, lambda: meter.step(write_bare))
            meter.pause()
    finally:
        end()
    durable, bare = meter.durable, meter.bare
    figures = [f"{figure:.3f}" for figure in (durable.p50, durable.p95, bare.p50)]
    ratio = f"{durable.p50 / bare.p50:.2f}"
    return [name, f"{size:,}", *figures, ratio, f"{statements / size:.2f}", f"{commits / size:.2f}"]


def _run(store: SqlCheckpointStore, size: int, inside: Write) -> None:
    def work(state: dict[str, Any], key: str) -> dict[str, Any]:
        inside()
        return {"cursor": key[:8], "checked": True}

    engine = ResumeEngine(store)
    run = engine.start_run("bench.steps")
    steps = [Step(f"step_{number}", work) for number in range(size)]
    engine.execute_workflow(run.run_id, steps, initial_input=_INPUT)


def _traffic(store: SqlCheckpointStore, size: int) -> tuple[int, int]:
    with traffic(store) as seen:
        _run(store, size, lambda: None)
        return len(seen.statements), seen.commits


def bare_commit(store: SqlCheckpointStore) -> tuple[Write, Write]:
    """Return the floor, a record of the same size written and committed by the driver alone, and its end."""
    raw = store.engine.raw_connection()
    is_sqlite = store.engine.dialect.name == "sqlite"
    insert = "INSERT INTO bench_floor (id, run_id, record) VALUES (?, ?, ?)"
    insert = insert if is_sqlite else insert.replace("?", "%s")
    cursor = raw.cursor()
    cursor.execute("DROP TABLE IF EXISTS bench_floor")
    cursor.execute(_FLOOR_TABLE)
    raw.commit()
    parts = [_INPUT, {"cursor": "0" * 8, "checked": True}, "0" * 64, "0" * 64, "2026-11-20T15:00:00+00:00"]
    record = json.dumps([*parts, *parts])
    number = 0

    def write() -> None:
        nonlocal number
        number += 1
        if is_sqlite:
            cursor.execute("BEGIN IMMEDIATE")
        cursor.execute(insert, (number, "b0000010-0000-4000-8000-000000000010", record))
        if is_sqlite:
            cursor.execute("COMMIT")
        else:
            raw.commit()

    return write, raw.close

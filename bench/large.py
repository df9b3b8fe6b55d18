"""What a step costs on a database that holds millions of them, beside the same on an empty one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import Any

from sqlalchemy import delete, func, select

from bench.databases import Shelf
from bench.measure import table
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.step import Step
from resume_engine.storage.open_store import open_store
from resume_engine.storage.schema import audit_events, runs, step_records
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.guards import unguarded

STEPS = 50
_NAME = "bench.large"


def report(shelf: Shelf, size: int, rounds: int) -> str:
    """Execute workflows on both databases in turn and return the table."""
    header = ["appending a step", "steps there", "ms a step", "beside an empty one", "ratio"]
    lines = []
    for backend in shelf.backends:
        large = shelf.open(backend, size).store
        empty = open_store(shelf.scratch_url(backend, "large"))
        with large, empty, _as_it_was(large):
            times = _times(large, empty, rounds)
            medians = [median(found) * 1000 for found in times]
            ratio = median(a / b for a, b in zip(*times, strict=True))
            figures = [f"{medians[0]:.3f}", f"{medians[1]:.3f}", f"{ratio:.2f}"]
            lines.append([backend, f"{_count(large):,}", *figures])
    return table(header, lines)


def _times(large: SqlCheckpointStore, empty: SqlCheckpointStore, rounds: int) -> tuple[list[float], ...]:
    """Return the seconds a step took in each round, of the large database and of the empty one."""
    found: tuple[list[float], ...] = ([], [])
    for number in range(rounds + 1):
        for seconds, store in zip(found, (large, empty), strict=True):
            taken = _seconds_a_step(store)
            if number:  # the first one opens connections
                seconds.append(taken)
    return found


def _seconds_a_step(store: SqlCheckpointStore) -> float:
    entered: list[float] = []

    def work(state: dict[str, Any], key: str) -> dict[str, Any]:
        entered.append(time.perf_counter())
        return {"cursor": key[:8], "checked": True, "text": "x" * 200}

    engine = ResumeEngine(store)
    run = engine.start_run(_NAME)
    engine.execute_workflow(
        run.run_id, [Step(f"step_{n}", work) for n in range(STEPS)], initial_input={"n": 1}
    )
    return median(after - before for before, after in pairwise(entered))


def _count(store: SqlCheckpointStore) -> int:
    with store.reading() as conn:
        return int(conn.execute(select(func.count()).select_from(step_records)).scalar_one())


@contextmanager
def _as_it_was(store: SqlCheckpointStore) -> Iterator[None]:
    """Take what was appended away again: other tables count the runs of this database."""
    try:
        yield
    finally:
        ours = select(runs.c.run_id).where(runs.c.workflow_name == _NAME)
        with unguarded(store) as conn:
            for child in (step_records, audit_events):
                conn.execute(delete(child).where(child.c.run_id.in_(ours)))
            conn.execute(delete(runs).where(runs.c.workflow_name == _NAME))

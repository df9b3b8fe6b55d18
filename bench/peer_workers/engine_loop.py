"""resume_engine: this release or 0.2.0, whichever the environment holds."""

from __future__ import annotations

import sys
from typing import Any

from loop import OUTPUT, count_rows, is_sqlite, serve

from resume_engine import ResumeEngine

ADDRESS = sys.argv[1]

if is_sqlite(ADDRESS):
    from resume_engine import SQLiteCheckpointStore

    store: Any = SQLiteCheckpointStore(ADDRESS)
else:
    from resume_engine.storage.postgres_backend import PostgresCheckpointStore

    store = PostgresCheckpointStore(ADDRESS)
engine = ResumeEngine(store)


def work(state: dict[str, Any], key: str) -> dict[str, Any]:
    """Do nothing, durably."""
    return dict(OUTPUT)


def run(steps: int) -> None:
    """Execute a workflow of so many steps."""
    started = engine.start_run("bench.peers")
    engine.execute_workflow(
        started.run_id, [(f"step_{n}", work) for n in range(steps)], initial_input={"case": 1}
    )


serve(run, lambda: count_rows(ADDRESS, "step_records"))

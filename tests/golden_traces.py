"""The golden traces: loading them into a store, and replaying them in a process of its own.

`python golden_traces.py URL` prints, for each run of the files, its id and the SHA-256 of its replayed trace.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import insert, update

from resume_engine.core.codec import from_json
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.payload import payload_hash
from resume_engine.core.run import Run
from resume_engine.storage import step_rows
from resume_engine.storage.open_store import open_store
from resume_engine.storage.schema import runs, step_records
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.guards import unguarded

FOLDER = Path(__file__).resolve().parent / "data" / "golden_traces"
REPLAYS = 5


def cases() -> Iterator[dict[str, Any]]:
    """Yield the runs of all files."""
    for path in sorted(FOLDER.glob("*.json")):
        yield from json.loads(path.read_text(encoding="utf-8"))["cases"]


def never(_state: dict[str, Any], _key: str) -> dict[str, Any]:
    """Stand for a step that must not be called."""
    raise AssertionError("a replay called a step")


def load(store: SqlCheckpointStore) -> None:
    """Write the runs of all files as they were recorded, past the engine."""
    for case in cases():
        run = Run.from_dict(case["run"])
        run.metadata.pop("gates", None)
        store.create_run(run)
        values: dict[str, Any] = {"steps_total": case["steps_total"], "next_sequence": len(run.steps)}
        if case["initial_input"] is not None:
            initial = from_json(case["initial_input"])
            values["initial_input_json"] = store.codec.encode(initial)
            values["initial_input_hash"] = payload_hash(initial)
        with unguarded(store) as conn:  # what older releases recorded stands in no chain
            conn.execute(update(runs).where(runs.c.run_id == run.run_id).values(values))
            if run.steps:
                records = [step_rows.step_values(run.run_id, record, store.codec) for record in run.steps]
                conn.execute(insert(step_records), records)


def replayed(store: SqlCheckpointStore) -> Iterator[tuple[str, str]]:
    """Yield run id and hash of the trace for each run, after replaying it a few times."""
    engine = ResumeEngine(store)
    for case in cases():
        run_id = case["run"]["run_id"]
        steps = [(name, never) for name in case["workflow"]]
        traces = {engine.replay_run(run_id, steps)[1] for _ in range(REPLAYS)}
        [trace] = traces
        yield run_id, hashlib.sha256(trace.encode()).hexdigest()


if __name__ == "__main__":
    with open_store(sys.argv[1]) as opened:
        print(json.dumps(dict(replayed(opened))))

"""A process of the published release 0.2.0 on a database, told what to do line by line.

Runs in an environment that holds `resume_engine==0.2.0` and nothing of this repository. Every line on its
standard input names a call and its run; every line on its output says what came of it, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from resume_engine.core.checkpoint_store import ResumeEngine
from resume_engine.core.run import RunStatus
from resume_engine.core.step_record import StepRecord, StepStatus
from resume_engine.storage.postgres_backend import PostgresCheckpointStore
from resume_engine.storage.sqlite_backend import SQLiteCheckpointStore

INPUT = {"order": "A-17", "amount": 12.5, "name": "Zoë <b>"}
URL = os.environ["OLD_DATABASE"]
store = SQLiteCheckpointStore(URL) if URL.startswith("sqlite") else PostgresCheckpointStore(URL)
engine = ResumeEngine(store)
effects: list[str] = []


def steps(names: tuple[str, ...] = ("fetch", "charge", "notify")) -> list[tuple[str, Any]]:
    def acting(name: str, index: int) -> Callable[[dict[str, Any], str], dict[str, Any]]:
        def act(_state: dict[str, Any], key: str) -> dict[str, Any]:
            effects.append(key)
            return {f"out_{index}": index, "text": "naïve ✓"}

        return act

    return [(name, acting(name, index)) for index, name in enumerate(names)]


def record(run_id: str, sequence: int) -> None:
    step = StepRecord(
        step_name="forged",
        step_index=sequence,
        input_data=INPUT,
        input_hash="0" * 64,
        output_data={"forged": True},
        status=StepStatus.COMPLETED,
        idempotency_key=os.urandom(32).hex(),
        sequence=sequence,
    )
    store.append_step(run_id, step)


def set_status(run_id: str, **metadata: Any) -> None:
    run = store.get_run(run_id)
    assert run is not None
    run.status = RunStatus.COMPLETED
    run.metadata.update(metadata)
    store.update_run(run)


def endless(run_id: str) -> None:
    """Work on runs of its own until it is refused, each acknowledged step on a line of its own."""
    number = 0
    while True:
        run = engine.start_run("endless", run_id=f"{run_id}-{number}")
        for index in range(5):
            made = engine.execute_step(run.run_id, "s", index, {"n": index}, lambda _i, key: {"key": key})
            print(json.dumps({"acknowledged": [run.run_id, made.sequence, made.idempotency_key]}), flush=True)
            time.sleep(0.002)
        number += 1


CALLS: dict[str, Callable[[str], object]] = {
    "start": lambda run_id: engine.start_run("billing", run_id=run_id),
    "start prod": lambda run_id: engine.start_run("w", run_id=run_id, metadata={"environment": "prod"}),
    "resume": lambda run_id: engine.resume(run_id, steps(), initial_input=INPUT),
    "resume unchecked": lambda run_id: engine.resume(
        run_id, steps(), initial_input=INPUT, skip_gate_check=True
    ),
    "execute": lambda run_id: engine.execute_workflow(run_id, steps(), initial_input=INPUT),
    "step": lambda run_id: engine.execute_step(run_id, "more", 7, INPUT, steps()[0][1]),
    "append": lambda run_id: record(run_id, 0),
    "append next": lambda run_id: record(run_id, 99),
    "complete": set_status,
    "forge gates": lambda run_id: set_status(run_id, gates={"prod_resume_ack": {"granted": True}}),
    "approve": lambda run_id: engine.grant_human_approval(run_id, "mallory"),
    "compensate": lambda run_id: engine.record_compensation(run_id, result={"forged": True}),
    "replay": lambda run_id: engine.replay_run(run_id, steps(), initial_input=INPUT),
    "trace": lambda run_id: engine.get_audit_log(run_id),
    "endless": endless,
}


def answer(call: str, run_id: str) -> dict[str, Any]:
    effects.clear()
    try:
        found = CALLS[call](run_id)
    except Exception as error:
        return {"error": type(error).__name__, "words": str(error), "effects": list(effects)}
    return {"found": found if isinstance(found, str) else None, "effects": list(effects)}


print(json.dumps({"version": version("resume_engine")}), flush=True)
for line in sys.stdin:
    print(json.dumps(answer(*json.loads(line))), flush=True)

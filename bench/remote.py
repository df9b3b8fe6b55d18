"""What a step over HTTP costs, beside the least a request that writes can cost: a POST that commits one row.

Both go to the same server on loopback, over kept connections of the same client; every step of the measured
workflow also sends the bare request, so that both meet the same moment.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Flask, request
from sqlalchemy import text
from waitress import create_server, wasyncore

from bench.measure import Timings, table
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.permissions import Role
from resume_engine.core.step import Step
from resume_engine.storage.open_store import open_store
from resume_engine.storage.remote_backend import RemoteCheckpointStore
from resume_engine.storage.sql_store import SqlCheckpointStore
from webapp import Settings, create_app
from webapp.permissions import public

KEY = "key-of-the-benchmark"
STEPS = 100
_FLOOR = "CREATE TABLE bench_floor (id integer PRIMARY KEY, record text)"
_RECORD = {"case": 4711, "amount": "120.00", "customer": "c-20931", "language": "en"}


@dataclass(frozen=True)
class Plane:
    """A control plane on loopback."""

    url: str


def report(rounds: int) -> str:
    """Measure and return the table."""
    step, bare, requests = Timings(), Timings(), 0
    with (
        tempfile.TemporaryDirectory() as folder,
        open_store(f"sqlite:///{Path(folder, 'plane.db')}") as store,
        _serving(store) as plane,
        RemoteCheckpointStore(f"{plane.url}/api", api_key=KEY) as remote,
    ):
        for _ in range(rounds):
            requests = _workflow(remote, plane, step, bare)
    header = ["a step over HTTP", "ms a step", "p95", "bare POST ms", "to bare", "requests"]
    line = [
        f"SQLite, {STEPS} steps",
        f"{step.p50:.2f}",
        f"{step.p95:.2f}",
        f"{bare.p50:.2f}",
        f"{step.p50 / bare.p50:.2f}",
        f"{requests / STEPS:.2f}",
    ]
    return table(header, [line])


def _workflow(remote: RemoteCheckpointStore, plane: Plane, step: Timings, bare: Timings) -> int:
    left: list[float] = []
    sent: list[int] = []
    client = remote._http._client  # the same client, so that both pay the same for it

    def act(_state: dict[str, Any], _key: str) -> dict[str, Any]:
        entered = time.perf_counter()
        sent.append(remote.requests)
        if left:
            step.milliseconds.append((entered - left[-1]) * 1000)
        asked = time.perf_counter()
        client.post(f"{plane.url}/api/bench_floor", json=_RECORD).raise_for_status()
        bare.milliseconds.append((time.perf_counter() - asked) * 1000)
        left.append(time.perf_counter())
        return dict(_RECORD)

    engine = ResumeEngine(remote)
    run = engine.start_run("bench")
    engine.execute_workflow(run.run_id, [Step(f"step_{n}", act) for n in range(STEPS + 1)])
    return sent[-1] - sent[0]


@contextmanager
def _serving(store: SqlCheckpointStore) -> Iterator[Plane]:
    app = create_app(Settings(api_keys={KEY: Role.RUNNER}, api_rate_limit=None), store=store)
    with store.writing() as conn:
        conn.execute(text(_FLOOR))
    _add_floor(app, store)
    connections: dict[int, Any] = {}
    server = create_server(app, host="127.0.0.1", port=0, threads=4, map=connections)
    running = threading.Thread(target=server.run, daemon=True)
    running.start()
    yield Plane(f"http://127.0.0.1:{server.effective_port}")
    server.task_dispatcher.shutdown(timeout=5)
    # Closed by its own thread: what it waits for must not be closed under it.
    server.trigger.pull_trigger(lambda: wasyncore.close_all(connections, ignore_all=True))
    running.join(10)
    assert not running.is_alive()


def _add_floor(app: Flask, store: SqlCheckpointStore) -> None:
    @public
    def floor() -> str:
        with store.writing() as conn:
            conn.execute(
                text("INSERT INTO bench_floor (record) VALUES (:record)"),
                {"record": request.get_data(as_text=True)},
            )
        return "{}"

    app.add_url_rule("/api/bench_floor", "bench_floor", floor, methods=["POST"])

"""Reads over the JSON API: server time and statements on the small and the large database."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

from bench.databases import NOW, Dataset, Shelf
from bench.measure import interleaved, table, traffic
from bench.stamping import RUN_OF_10, RUN_OF_1000
from resume_engine.core import clock
from resume_engine.core.permissions import Role
from resume_engine.storage.keyset import Cursor
from tests.webapp.api.caller import ApiClient, caller
from webapp import Settings, create_app

_DEEP = Cursor(moment=NOW - timedelta(days=31), row_id="8").encode()

READS: dict[str, str] = {
    "runs": "/runs",
    "runs, blocked": "/runs?status=blocked",
    "runs, prod": "/runs?environment=prod",
    "runs, a deep page": f"/runs?cursor={_DEEP}",
    "run, 10 steps": f"/runs/{RUN_OF_10}",
    "run, 1,000 steps": f"/runs/{RUN_OF_1000}",
    "status": f"/runs/{RUN_OF_10}/status",
    "status, 1,000 steps": f"/runs/{RUN_OF_1000}/status",
    "resume_blockers": f"/runs/{RUN_OF_10}/resume_blockers",
    "audit_events": f"/runs/{RUN_OF_10}/audit_events",
    "audit_events, 1,000 steps": f"/runs/{RUN_OF_1000}/audit_events",
}


def report(shelf: Shelf, sizes: tuple[int, int], rounds: int, match: str = "") -> str:
    """Measure every read on every database and return one table for each kind of database."""
    reads = {name: path for name, path in READS.items() if match in name}
    parts = []
    for backend in shelf.backends:
        data = [shelf.open(backend, size) for size in sizes]
        with clock.replaced_by(clock.ManualClock(NOW)):
            parts.append(_backend_table(backend, data, reads, rounds))
        for dataset in data:
            dataset.store.close()
    return "\n\n".join(parts)


def _backend_table(backend: str, data: list[Dataset], reads: dict[str, str], rounds: int) -> str:
    clients = [_client(dataset) for dataset in data]
    counts = {}
    with traffic(data[1].store) as seen:
        for name, path in reads.items():
            seen.clear()
            _read(clients[1], path)
            counts[name] = len(seen.statements)
    calls: dict[Any, Any] = {
        (name, at): partial(_read, client, path)
        for name, path in reads.items()
        for at, client in enumerate(clients)
    }
    times = interleaved(calls, rounds)
    header = [backend, "SQL", f"{data[0].runs:,} p50", f"{data[1].runs:,} p50", "p95", "cpu", "growth"]
    lines = []
    for name in reads:
        small, large = times[name, 0], times[name, 1]
        shown = [f"{figure:.1f}" for figure in (small.p50, large.p50, large.p95, large.cpu)]
        lines.append([name, str(counts[name]), *shown, f"{large.p50 / small.p50:.2f}"])
    return table(header, lines)


def _client(data: Dataset) -> ApiClient:
    settings = Settings(database_url=data.store.url, secret_key="x" * 32, api_rate_limit=None)
    return caller(create_app(settings, store=data.store), Role.OPERATOR)


def _read(client: ApiClient, path: str) -> None:
    answer = client.get(path)
    body = answer.data  # a long answer is made while it is read
    if answer.status_code != 200 or not body:
        raise RuntimeError(f"{path} answered {answer.status_code}: {answer.text[:300]}")

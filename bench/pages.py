"""The dashboard's pages: server time and statements, beside the bare queries on the same database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from bench.databases import NOW, Dataset, Shelf
from bench.measure import Timings, interleaved, table, traffic
from bench.stamping import RUN_OF_10, RUN_OF_1000, RUN_OF_10000
from resume_engine.core import clock
from resume_engine.core.permissions import Role
from resume_engine.storage.keyset import Cursor
from resume_engine.storage.run_rows import SUMMARY_COLUMNS
from tests.provision.app_fixtures import CHEAP, PageClient, add_person, signed_in_client
from webapp import Settings, create_app
from webapp.accounts.store import AccountStore

Call = Callable[[], Any]
Times = dict[Any, Timings]

LIST_FLOOR, RUN_FLOOR = "bare page of 50", "bare 1,000 steps"
_DEEP = Cursor(moment=NOW - timedelta(days=31), row_id="8").encode()
_FULL_ENOUGH = 0.9  # of the larger page's bytes: a page with fewer rows proves nothing by being fast

PAGES: dict[str, str] = {
    "explorer": "/runs",
    "explorer, completed": "/runs?status=completed",
    "explorer, failed": "/runs?status=failed",
    "explorer, blocked": "/runs?status=blocked",
    "explorer, interrupted": "/runs?status=interrupted",
    "explorer, cancelled": "/runs?status=cancelled",
    "explorer, workflow": "/runs?workflow=billing.refund",
    "explorer, environment": "/runs?environment=staging",
    "explorer, failure class": "/runs?failure=partial",
    "explorer, blocked by": "/runs?blocked_by=compensation",
    "explorer, last 7 days": "/runs?since=7d",
    "explorer, completed + workflow": "/runs?status=completed&workflow=reporting.month_end",
    "explorer, cancelled + workflow": "/runs?status=cancelled&workflow=reporting.month_end",
    "explorer, prod + class + workflow": (
        "/runs?environment=prod&failure=permanent&workflow=reporting.month_end"
    ),
    "explorer, prod + failed + 30 days": "/runs?environment=prod&status=cancelled&since=30d",
    "explorer, a cause": "/runs?error_type=PartialStepError&since=7d"
    "&message=Payment%20was%20captured%2C%20but%20the%20booking%20was%20not%20confirmed",
    "explorer, search id": f"/runs?q={RUN_OF_1000[:6]}&environment=prod",
    "explorer, search id of one letter": "/runs?q=b",
    "explorer, search name": "/runs?q=data_sync",
    "explorer, search nothing": "/runs?q=zzz-no-such-run",
    "explorer, deep page": f"/runs?cursor={_DEEP}",
    "queue": "/gates",
    "queue, compensation": "/gates?kind=compensation",
    "queue, prod + workflow": "/gates?environment=prod&workflow=claims.settlement",
    "run, 10 steps": f"/runs/{RUN_OF_10}",
    "run, 1,000 steps": f"/runs/{RUN_OF_1000}",
    "run, 10,000 steps": f"/runs/{RUN_OF_10000}",
    "run, 10,000 steps, events": f"/runs/{RUN_OF_10000}?tab=events",
    "run, 10,000 steps, trace": f"/runs/{RUN_OF_10000}?tab=trace",
    "overview": "/",
    "audit": "/audit",
    "audit, decisions": "/audit?kind=gate.",
    "audit, one actor": "/audit?actor=elif.demir%40example.com",
    "audit, last 7 days": "/audit?since=7d",
}


@dataclass(frozen=True)
class Browser:
    """Somebody signed in to the dashboard of one dataset."""

    data: Dataset
    client: PageClient

    @classmethod
    def of(cls, data: Dataset) -> Browser:
        """Sign an operator in."""
        settings = Settings(database_url=data.store.url, password_cost=CHEAP, secret_key="x" * 32)
        app = create_app(settings, store=data.store)
        app.test_client_class = PageClient
        email = "bench@example.org"
        person = AccountStore(data.store).find(email) or add_person(data.store, "bench", Role.OPERATOR)
        return cls(data, signed_in_client(app, data.store, person))

    def open(self, path: str) -> bytes:
        """Return the body of a page that must be there."""
        answer = self.client.get(path)
        if answer.status_code != 200:
            raise RuntimeError(f"{path} answered {answer.status_code}: {answer.text[:300]}")
        return answer.data


def bare_queries(data: Dataset) -> dict[str, Call]:
    """Return the two queries that no page can be faster than, straight to the driver."""
    columns = ", ".join(column.name for column in SUMMARY_COLUMNS)
    mark = "?" if data.backend == "sqlite" else "%s"
    listed = f"SELECT {columns} FROM runs ORDER BY created_at DESC, run_id DESC LIMIT 50"
    steps = f"SELECT * FROM step_records WHERE run_id = {mark} ORDER BY sequence LIMIT 1000"
    raw = data.store.engine.raw_connection()

    def ask(sql: str, parameters: tuple[str, ...] = ()) -> object:
        cursor = raw.cursor()
        cursor.execute(sql, parameters)
        found = cursor.fetchall()
        cursor.close()
        raw.rollback()
        return found

    return {LIST_FLOOR: lambda: ask(listed), RUN_FLOOR: lambda: ask(steps, (RUN_OF_1000,))}


def report(shelf: Shelf, sizes: tuple[int, int], rounds: int, match: str = "") -> str:
    """Measure every page on every database and return one table for each kind of database."""
    pages = {name: path for name, path in PAGES.items() if match in name}
    parts = []
    for backend in shelf.backends:
        data = [shelf.open(backend, size) for size in sizes]
        with clock.replaced_by(clock.ManualClock(NOW)):
            parts.append(_backend_table(backend, data, pages, rounds))
        for dataset in data:
            dataset.store.close()
    return "\n\n".join(parts)


def _backend_table(backend: str, data: list[Dataset], pages: dict[str, str], rounds: int) -> str:
    browsers = [Browser.of(dataset) for dataset in data]
    counts, sizes = _look(browsers, pages)
    calls: dict[Any, Call] = {}
    for name, path in pages.items():
        for at, browser in enumerate(browsers):
            calls[name, at] = lambda b=browser, p=path: b.open(p)  # type: ignore[misc]
    for at, dataset in enumerate(data):
        calls |= {(name, at): call for name, call in bare_queries(dataset).items()}
    times = interleaved(calls, rounds)
    small, large = (f"{dataset.runs:,}" for dataset in data)
    header = [backend, "SQL", f"{small} p50", f"{large} p50", "p95", "cpu", "growth", "to bare"]
    floors = [_floor_line(name, times) for name in (LIST_FLOOR, RUN_FLOOR)]
    lines = [_page_line(name, counts[name], sizes[name], times) for name in pages]
    return table(header, floors + lines)


def _look(
    browsers: list[Browser], pages: dict[str, str]
) -> tuple[dict[str, int], dict[str, tuple[int, int]]]:
    """Return the statements of each page, and its bytes on the small and on the large database."""
    counts, sizes = {}, {}
    with traffic(browsers[1].data.store) as seen:
        for name, path in pages.items():
            seen.clear()
            large = len(browsers[1].open(path))
            counts[name] = len(seen.statements)
            sizes[name] = (len(browsers[0].open(path)), large)
    return counts, sizes


def _floor_line(name: str, times: Times) -> list[str]:
    small, large = times[name, 0], times[name, 1]
    growth = f"{large.p50 / small.p50:.1f}"
    return [
        name,
        "1",
        f"{small.p50:.2f}",
        f"{large.p50:.2f}",
        f"{large.p95:.2f}",
        f"{large.cpu:.2f}",
        growth,
        "1",
    ]


def _page_line(name: str, count: int, sizes: tuple[int, int], times: Times) -> list[str]:
    small, large = times[name, 0], times[name, 1]
    floor = times[RUN_FLOOR if name.startswith("run") else LIST_FLOOR, 1]
    is_full = sizes[0] >= _FULL_ENOUGH * sizes[1]
    like = times[name.partition(",")[0], 0] if not is_full else small  # the kind's plain page is full
    growth = f"{large.p50 / like.p50:.2f}{'' if is_full else '*'}"
    return [
        name,
        str(count),
        f"{small.p50:.1f}",
        f"{large.p50:.1f}",
        f"{large.p95:.1f}",
        f"{large.cpu:.1f}",
        growth,
        f"{large.p50 / floor.p50:.0f}",
    ]

"""The read side query by query: where a slow page loses its time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from bench.databases import NOW, Dataset, Shelf
from bench.measure import interleaved, table, traffic
from bench.stamping import RUN_OF_10, RUN_OF_1000, RUN_OF_10000
from resume_engine.core import clock
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment
from resume_engine.core.run_summary import RunState
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.audit_queries import AuditQueries, EventFilter
from resume_engine.storage.gate_queries import GateQueries
from resume_engine.storage.keyset import Cursor
from resume_engine.storage.run_filter import RunFilter
from resume_engine.storage.run_page_queries import RunPageQueries
from resume_engine.storage.run_queries import RunQueries
from resume_engine.storage.step_queries import StepQueries

Call = Callable[[], object]

FILTERS: dict[str, RunFilter] = {
    "plain": RunFilter(),
    **{f"state={state}": RunFilter(state=state) for state in RunState},
    "workflow": RunFilter(workflow="billing.refund"),
    "environment": RunFilter(environment=Environment.STAGING),
    "class": RunFilter(classification=FailureClassification.PARTIAL),
    "blocked_by": RunFilter(blocked_by=GateAction.COMPENSATION),
    "since": RunFilter(since=NOW - timedelta(days=20), until=NOW - timedelta(days=19)),
    "failed+workflow": RunFilter(state=RunState.FAILED, workflow="reporting.month_end"),
    "completed+workflow": RunFilter(state=RunState.COMPLETED, workflow="reporting.month_end"),
    "cancelled+workflow": RunFilter(state=RunState.CANCELLED, workflow="claims.settlement"),
    "interrupted+workflow": RunFilter(state=RunState.INTERRUPTED, workflow="reporting.month_end"),
    "completed+class": RunFilter(state=RunState.COMPLETED, classification=FailureClassification.PARTIAL),
    "prod+class+workflow": RunFilter(
        environment=Environment.PROD,
        classification=FailureClassification.PERMANENT,
        workflow="reporting.month_end",
    ),
    "prod+failed": RunFilter(environment=Environment.PROD, state=RunState.FAILED),
    "prod+cancelled+since": RunFilter(
        environment=Environment.PROD, state=RunState.CANCELLED, since=NOW - timedelta(days=7)
    ),
    "cause": RunFilter(
        error_type="PartialStepError",
        message_start="Payment was captured, but the booking was not confirmed",
        since=NOW - timedelta(days=7),
    ),
    "blocked+workflow": RunFilter(state=RunState.BLOCKED, workflow="reporting.month_end"),
    "search id 8": RunFilter(search=RUN_OF_1000[:8]),
    "search id 1": RunFilter(search="b"),
    "search name": RunFilter(search="data_sync"),
    "search both": RunFilter(search="c"),
    "search name+state": RunFilter(search="billing", state=RunState.CLEARED),
    "search nothing": RunFilter(search="zzz no such run"),
}


def cases(data: Dataset) -> dict[str, Call]:
    """Return the read side's questions to one database."""
    found: dict[str, Call] = {}
    read, attempts = RunQueries(data.store), StepQueries(data.store)
    gates, pages, audit = GateQueries(data.store), RunPageQueries(data.store), AuditQueries(data.store)
    deep = Cursor(moment=NOW - timedelta(days=31), row_id="8")
    for name, wanted in FILTERS.items():
        found[f"runs {name}"] = lambda w=wanted: read.list_runs(w)  # type: ignore[misc]
    found["runs deep page"] = lambda: read.list_runs(RunFilter(), cursor=deep)
    found["runs deep back"] = lambda: read.list_runs(
        RunFilter(state=RunState.COMPLETED), cursor=Cursor(moment=deep.moment, row_id="8", backwards=True)
    )
    found["workflow names"] = read.workflow_names
    found["count blocked"] = read.count_blocked
    found["count states 7 d"] = lambda: read.count_states(
        NOW - timedelta(days=7), NOW, hourly_from=NOW - timedelta(hours=23)
    )
    found["failure causes 7 d"] = lambda: read.failure_causes(NOW - timedelta(days=7))
    found["queue"] = read.list_blocked
    found["queue action"] = lambda: read.list_blocked(action=GateAction.PROD_RESUME_ACK)
    found["queue prod+workflow"] = lambda: read.list_blocked(
        environment=Environment.PROD, workflow="reporting.month_end"
    )
    found["oldest waiting"] = gates.oldest_waiting
    found["decided lately"] = lambda: gates.decided_since(NOW - timedelta(hours=8))
    for size, run_id in (("10", RUN_OF_10), ("1,000", RUN_OF_1000), ("10,000", RUN_OF_10000)):
        found[f"run {size} head"] = lambda r=run_id: pages.load(r)  # type: ignore[misc]
        found[f"run {size} steps"] = lambda r=run_id: attempts.list_steps(r)  # type: ignore[misc]
        found[f"run {size} failed"] = lambda r=run_id: attempts.list_steps(r, only_failed=True)  # type: ignore[misc]
        found[f"run {size} attempts"] = lambda r=run_id: attempts.list_attempts(r, latest=200)  # type: ignore[misc]
        found[f"run {size} case"] = lambda r=run_id: gates.load_case(r)  # type: ignore[misc]
    found["audit newest"] = lambda: audit.list_events(EventFilter())
    found["audit actor"] = lambda: audit.list_events(EventFilter(actor="elif.demir@example.com"))
    found["audit family"] = lambda: audit.list_events(EventFilter(kind="gate."))
    found["audit kind"] = lambda: audit.list_events(EventFilter(kind="gate.rejected"))
    found["audit run"] = lambda: audit.list_events(EventFilter(run_id=RUN_OF_1000))
    found["audit since"] = lambda: audit.list_events(
        EventFilter(since=NOW - timedelta(days=31), until=NOW - timedelta(days=30))
    )
    found["audit actor+kind+since"] = lambda: audit.list_events(
        EventFilter(
            actor="elif.demir@example.com",
            kind="gate.rejected",
            since=NOW - timedelta(days=31),
            until=NOW - timedelta(days=30),
        )
    )
    found["audit unknown actor"] = lambda: audit.list_events(EventFilter(actor="nobody", kind="gate."))
    return found


def report(shelf: Shelf, sizes: tuple[int, int], rounds: int, match: str = "") -> str:
    """Measure every question on every database and return the table."""
    data = {(b, n): shelf.open(b, n) for b in shelf.backends for n in sizes}
    with clock.replaced_by(clock.ManualClock(NOW)):
        asked = {key: cases(dataset) for key, dataset in data.items()}
        counts = {b: _statements(data[b, sizes[1]]) for b in shelf.backends}
        calls = {
            (name, *key): call
            for key, found in asked.items()
            for name, call in found.items()
            if match in name
        }
        times = interleaved(calls, rounds)
    header = ["question"]
    for backend in shelf.backends:
        header += [f"{backend} SQL", f"{sizes[0]:,}", f"{sizes[1]:,}", "p95", "ratio"]
    lines = []
    for name in (name for name in next(iter(asked.values())) if match in name):
        line = [name]
        for backend in shelf.backends:
            small, large = times[name, backend, sizes[0]], times[name, backend, sizes[1]]
            line += [str(counts[backend][name]), f"{small.p50:.2f}", f"{large.p50:.2f}", f"{large.p95:.2f}"]
            line.append(f"{large.p50 / small.p50:.1f}")
        lines.append(line)
    for dataset in data.values():
        dataset.store.close()
    return table(header, lines)


def _statements(data: Dataset) -> dict[str, int]:
    found = {}
    with traffic(data.store) as seen:
        for name, call in cases(data).items():
            seen.clear()
            call()
            found[name] = len(seen.statements)
    return found

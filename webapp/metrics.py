"""Numbers for Prometheus: what this server answered, and what the database holds.

Counters are those of one process, or of all workers of a server when `resume-engine serve` started several.
What is read from the database is kept for a few seconds, so that no scraper can make it work harder.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from flask import Blueprint, Flask, Response, current_app, g, request
from flask.typing import ResponseReturnValue
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from resume_engine.core import clock
from resume_engine.core.permissions import Permission
from resume_engine.core.run_summary import RunState
from resume_engine.storage.decision_waits import decision_waits
from resume_engine.storage.run_queries import RunQueries
from resume_engine.storage.sql_store import SqlCheckpointStore
from webapp.extensions import current_settings, services
from webapp.keys.caller import refuse_demo_key
from webapp.permissions import requires

logger = logging.getLogger(__name__)
blueprint = Blueprint("api_metrics", __name__)  # like the API it takes keys, no sessions

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Where several workers keep their counters, so that each of them can tell the numbers of all."""
KEPT_SECONDS = 5.0
QUANTILES = (0.5, 0.9, 0.99)
LATEST_DECISIONS = 1_000
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_EVER = datetime(2000, 1, 1, tzinfo=UTC)
_PREFIX = "resume_engine"
_KEY = "resume_engine_metrics"


class RequestMetrics:
    """Count the requests of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            f"{_PREFIX}_http_request_seconds",
            "Time to answer requests.",
            ["method", "route", "status"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._refusals = Counter(
            f"{_PREFIX}_api_refusals",
            "Requests to the API that were refused, by the code of the error.",
            ["code"],
            registry=self.registry,
        )

    def start(self) -> None:
        """Note when a request began."""
        g.began_at = time.perf_counter()

    def finish(self, response: Response) -> Response:
        """Count a request that is answered."""
        route = request.url_rule.rule if request.url_rule is not None else "none"
        method = request.method if request.url_rule is not None else "any"
        seconds = time.perf_counter() - g.began_at if "began_at" in g else 0.0
        self._seconds.labels(method, route, str(response.status_code)).observe(seconds)
        if "refusal_code" in g:
            self._refusals.labels(g.refusal_code).inc()
        return response


class DatabaseMetrics(Collector):
    """Read the numbers of the database: three statements, at most every few seconds."""

    def __init__(self, store: SqlCheckpointStore) -> None:
        self._store = store
        self._reading = threading.Lock()
        self._read_at: float | None = None
        self._found: list[Metric] = []

    def collect(self) -> Iterable[Metric]:
        """Return the numbers; while the database does not answer, only that it does not."""
        with self._reading:
            if self._read_at is None or time.monotonic() - self._read_at >= KEPT_SECONDS:
                try:
                    found = [_up(1), self._runs(), *self._gates(), self._waits()]
                except (OperationalError, InterfaceError, PoolTimeoutError):
                    logger.warning("the numbers of the database could not be read", exc_info=True)
                    found = [_up(0)]
                self._found, self._read_at = found, time.monotonic()
            return self._found

    def _runs(self) -> Metric:
        found = RunQueries(self._store).count_states(_EVER, clock.utc_now(), hourly_from=clock.utc_now())
        counts = dict.fromkeys(RunState, 0)
        for entry in found:
            counts[entry.state] += entry.count
        family = GaugeMetricFamily(f"{_PREFIX}_runs", "Runs by state.", labels=["state"])
        for state, count in counts.items():
            family.add_metric([state.value], count)
        return family

    def _gates(self) -> Iterable[Metric]:
        labels = ["kind", "environment"]
        opened = GaugeMetricFamily(f"{_PREFIX}_closed_gates", "Gates that wait for a person.", labels=labels)
        oldest = GaugeMetricFamily(
            f"{_PREFIX}_oldest_closed_gate_seconds", "Age of the gate that waits longest.", labels=labels
        )
        now, counts, since = clock.utc_now(), dict[tuple[str, str], int](), dict[tuple[str, str], datetime]()
        for entry in RunQueries(self._store).count_blocked():
            for action in entry.actions:
                key = (action.value, entry.environment.value)
                counts[key] = counts.get(key, 0) + entry.count
                if entry.oldest is not None:
                    since[key] = min(since.get(key, entry.oldest), entry.oldest)
        for key, count in counts.items():
            opened.add_metric(list(key), count)
        for key, moment in since.items():
            oldest.add_metric(list(key), max(0.0, (now - moment).total_seconds()))
        return opened, oldest

    def _waits(self) -> Metric:
        family = GaugeMetricFamily(
            f"{_PREFIX}_decision_wait_seconds",
            f"From a failure to a decision about it: the last 24 hours, newest {LATEST_DECISIONS} at most.",
            labels=["kind", "quantile"],
        )
        by_kind: dict[str, list[float]] = {}
        since = clock.utc_now() - timedelta(hours=24)
        for wait in decision_waits(self._store, since, limit=LATEST_DECISIONS):
            by_kind.setdefault(wait.kind, []).append(wait.seconds)
        for kind, seconds in by_kind.items():
            seconds.sort()
            for quantile in QUANTILES:
                family.add_metric([kind, str(quantile)], seconds[int(quantile * (len(seconds) - 1))])
        return family


def register(app: Flask) -> None:
    """Measure every request of `app`."""
    measured = RequestMetrics()
    app.extensions[_KEY] = (measured, DatabaseMetrics(services(app).store))
    app.before_request(measured.start)
    app.after_request(measured.finish)


@blueprint.get("/metrics")
@requires(Permission.RUNS_READ)
def metrics() -> ResponseReturnValue:
    """Tell the numbers."""
    if not current_settings().metrics_public:
        refuse_demo_key()
    measured, database = current_app.extensions[_KEY]
    requests = measured.registry
    if os.environ.get(SHARED_FOLDER):
        requests = CollectorRegistry()
        MultiProcessCollector(requests)
    read = CollectorRegistry()
    read.register(database)
    return Response(generate_latest(requests) + generate_latest(read), content_type=CONTENT_TYPE_LATEST)


def _up(value: int) -> Metric:
    return GaugeMetricFamily(f"{_PREFIX}_database_up", "Whether the database answers.", value=value)

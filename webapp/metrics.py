"""Numbers for Prometheus: what this server answered, and what the database holds.

Counters are those of one process, or of all workers of a server when `resume-engine serve` started several.
What is read from the database is kept for a few seconds, so that no scraper can make it work harder.
"""

from __future__ import annotations

import logging
import os
import time
from datetime import UTC, datetime

from flask import Blueprint, Flask, Response, current_app, g, request
from flask.typing import ResponseReturnValue
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from resume_engine.core.permissions import Permission
from webapp.database_metrics import DatabaseMetrics
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
LEASE_LOST = "lease_lost"
"""The code of `LeaseLostError`: somebody else holds the run by now."""
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
        self._lease_losses = Counter(
            f"{_PREFIX}_lease_losses",
            "Writes over HTTP that were refused because their executor had lost its lease.",
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
            if g.refusal_code == LEASE_LOST:
                self._lease_losses.inc()
        return response


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

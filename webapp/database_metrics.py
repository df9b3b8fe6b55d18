"""What the database holds, as numbers for Prometheus: read at most every few seconds, whoever asks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from resume_engine.core import clock
from resume_engine.core.run_summary import RunState
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.audit_state import load_audit_state
from resume_engine.storage.decision_waits import decision_waits
from resume_engine.storage.lost_leases import lost_leases
from resume_engine.storage.run_queries import RunQueries
from resume_engine.storage.sql_store import SqlCheckpointStore
from webapp.errors import is_away

logger = logging.getLogger(__name__)

KEPT_SECONDS = 5.0
QUANTILES = (0.5, 0.9, 0.99)
LATEST = 1_000
"""So many of the newest decisions, and of the newest resumes, are looked at."""
LATELY = timedelta(hours=24)
_EVER = datetime(2000, 1, 1, tzinfo=UTC)
_PREFIX = "resume_engine"


class DatabaseMetrics(Collector):
    """Read the numbers of the database: nine statements, at most every few seconds."""

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
                    found = [_up(1), *self._all()]
                except SQLAlchemyError as problem:
                    if not is_away(problem):
                        raise
                    logger.warning("the numbers of the database could not be read", exc_info=True)
                    found = [_up(0)]
                self._found, self._read_at = found, time.monotonic()
            return self._found

    def _all(self) -> Iterable[Metric]:
        yield self._runs()
        yield self._failures()
        yield from self._gates()
        yield self._waits()
        yield self._lost_leases()
        yield from self._audit()

    def _runs(self) -> Metric:
        found = RunQueries(self._store).count_states(_EVER, clock.utc_now(), hourly_from=clock.utc_now())
        counts = dict.fromkeys(RunState, 0)
        for entry in found:
            counts[entry.state] += entry.count
        family = GaugeMetricFamily(f"{_PREFIX}_runs", "Runs by state.", labels=["state"])
        for state, count in counts.items():
            family.add_metric([state.value], count)
        return family

    def _failures(self) -> Metric:
        family = GaugeMetricFamily(
            f"{_PREFIX}_failed_runs",
            "Runs whose failure nobody has mended yet, by its class.",
            labels=["classification"],
        )
        counts = RunQueries(self._store).count_failures()
        for classification in FailureClassification:
            family.add_metric([classification.value], counts.get(classification, 0))
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
            f"From a failure to a decision about it: the last 24 hours, newest {LATEST} at most.",
            labels=["kind", "quantile"],
        )
        by_kind: dict[str, list[float]] = {}
        for wait in decision_waits(self._store, clock.utc_now() - LATELY, limit=LATEST):
            by_kind.setdefault(wait.kind, []).append(wait.seconds)
        for kind, seconds in by_kind.items():
            seconds.sort()
            for quantile in QUANTILES:
                family.add_metric([kind, str(quantile)], seconds[int(quantile * (len(seconds) - 1))])
        return family

    def _lost_leases(self) -> Metric:
        family = GaugeMetricFamily(
            f"{_PREFIX}_lost_leases",
            "Runs whose executor had vanished: another went on, or a person has to look; the last 24 hours, "
            f"the newest {LATEST} of each at most.",
            labels=["outcome"],
        )
        found = lost_leases(self._store, clock.utc_now() - LATELY, limit=LATEST)
        family.add_metric(["resumed"], found.resumed)
        family.add_metric(["left to a person"], found.left_to_a_person)
        return family

    def _audit(self) -> Iterable[Metric]:
        state = load_audit_state(self._store)
        yield GaugeMetricFamily(
            f"{_PREFIX}_audit_unsealed_events",
            "Audit events since the newest checkpoint, counted up to a thousand.",
            value=state.unsealed,
        )
        yield GaugeMetricFamily(
            f"{_PREFIX}_audit_sealing_late",
            "Whether events wait longer for their seal than ten minutes: the sealer is down or fails.",
            value=int(state.is_late),
        )
        if state.checkpoint is not None:
            yield GaugeMetricFamily(
                f"{_PREFIX}_audit_checkpoint_timestamp_seconds",
                "When the newest checkpoint was made.",
                value=state.checkpoint.created_at.timestamp(),
            )
        if state.verified is not None:
            yield GaugeMetricFamily(
                f"{_PREFIX}_audit_tampered",
                "Whether the newest verification of the server found the audit tampered with or unreadable.",
                value=int(state.verified.is_bad),
            )


def _up(value: int) -> Metric:
    return GaugeMetricFamily(f"{_PREFIX}_database_up", "Whether the database answers.", value=value)

"""The read side: what explorer, queue, overview and run page ask; none of it reads steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, literal, select, text

from resume_engine.core.decisions import Decision
from resume_engine.core.masking import mask_text
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import (
    FailureClassification,
)
from resume_engine.storage import previews, run_rows
from resume_engine.storage.driver import asked_again
from resume_engine.storage.keyset import Cursor, Page, cut_page
from resume_engine.storage.run_counts import StateCount, Stretches, count_states
from resume_engine.storage.run_filter import (
    CAUSE_CHARACTERS,
    Condition,
    RunFilter,
    cause_condition,
    cause_start,
    gate_condition,
    standing_failure,
)
from resume_engine.storage.run_list import (
    FEW_IDS,
    Stretch,
    blocked_query,
    by_index,
    few_ids_query,
    list_query,
    search_query,
)
from resume_engine.storage.schema import decisions, runs
from resume_engine.storage.sql_store import SqlCheckpointStore

_WORKFLOW_NAMES = text(
    """
    WITH RECURSIVE names(name) AS (
        SELECT min(workflow_name) FROM runs
        UNION ALL
        SELECT (SELECT min(workflow_name) FROM runs WHERE workflow_name > names.name)
        FROM names WHERE names.name IS NOT NULL
    )
    SELECT name FROM names WHERE name IS NOT NULL LIMIT 500
    """
)
"""One index look-up per name; SELECT DISTINCT would read every run."""


@dataclass(frozen=True, kw_only=True)
class BlockedCount:
    """How many runs wait for the same gates in one environment, and since when the oldest does."""

    actions: tuple[GateAction, ...]
    environment: Environment
    count: int
    oldest: datetime


@dataclass(frozen=True, kw_only=True)
class FailureCause:
    """Current failures with the same class, error type and beginning of the message."""

    classification: FailureClassification
    error_type: str | None
    message_start: str
    count: int
    last_failed_at: datetime
    in_prod: int


@dataclass(frozen=True, kw_only=True)
class RunHead:
    """The run row with its metadata and decisions, without the steps."""

    summary: RunSummary
    metadata: dict[str, Any]
    decisions: Sequence[Decision]


class RunQueries:
    """Answer the questions of pages, API and command line about runs."""

    def __init__(self, store: SqlCheckpointStore) -> None:
        self._store = store

    def workflow_names(self) -> list[str]:
        """Return the names of all workflows, in order (at most 500)."""
        with self._store.asking() as conn:
            return list(conn.execute(_WORKFLOW_NAMES).scalars())

    def list_runs(
        self,
        wanted: RunFilter,
        *,
        cursor: Cursor | None = None,
        limit: int = 50,
        names: Sequence[str] | None = None,
    ) -> Page[RunSummary]:
        """Return a page of runs, newest first. `names` saves a statement when the caller has them."""
        stretch = Stretch(cursor=cursor, limit=limit + 1)
        query = self._search(wanted, names, stretch) if wanted.has_search else list_query(wanted, stretch)
        with self._store.asking() as conn:
            found = [previews.run(row, self._store.codec) for row in conn.execute(query).all()]
        return cut_page(found, cursor, limit, lambda run: (run.created_at, run.run_id))

    def count_blocked(self) -> list[BlockedCount]:
        """Return what waits for a person, by gates and environment."""
        query = (
            select(runs.c.blocked_by, runs.c.environment, func.count(), func.min(runs.c.blocked_since))
            .where(runs.c.blocked_by.is_not(None))
            .group_by(runs.c.blocked_by, runs.c.environment)
        )
        query = by_index(query, "ix_runs_blocked_gates")
        with self._store.asking() as conn:
            found = conn.execute(query).all()
        return [
            BlockedCount(
                actions=tuple(GateAction(word) for word in actions.split("+")),
                environment=Environment(environment),
                count=count,
                oldest=oldest,
            )
            for actions, environment, count, oldest in found
        ]

    def list_blocked(
        self,
        *,
        action: GateAction | None = None,
        environment: Environment | None = None,
        workflow: str | None = None,
        message_start: str | None = None,
        cursor: Cursor | None = None,
        limit: int = 50,
    ) -> Page[RunSummary]:
        """Return runs that wait for a person, the longest waiting first."""
        wanted: list[Condition] = []
        if action is not None:
            wanted.append(gate_condition(action))
        if environment is not None:
            wanted.append(runs.c.environment == environment.value)
        if workflow:
            wanted.append(runs.c.workflow_name == workflow)
        if message_start:
            wanted.append(cause_condition(message_start))
        stretch = Stretch(cursor=cursor, limit=limit + 1, newest_first=False)
        with self._store.asking() as conn:
            found = [
                previews.run(row, self._store.codec) for row in conn.execute(blocked_query(wanted, stretch))
            ]
        return cut_page(found, cursor, limit, lambda run: (run.blocked_since or run.created_at, run.run_id))

    def count_states(
        self, since: datetime, now: datetime, *, hourly_from: datetime | None = None
    ) -> list[StateCount]:
        """Return how many runs created since then are in each state, by hour of creation.

        What was created before `hourly_from` is counted as one, under the first hour: that is cheaper.
        """
        stretches = Stretches.between(since, now, hourly_from)
        with self._store.asking() as conn:
            return count_states(conn, stretches, now, self._store.hour_of, self._store.parse_hour)

    def failure_causes(self, since: datetime, *, limit: int = 8) -> list[FailureCause]:
        """Return the commonest causes among current failures of runs created since then."""
        start = cause_start().label("message_start")
        in_prod = func.sum(literal(1)).filter(runs.c.environment == Environment.PROD.value)
        amount = func.count().label("amount")
        last = func.max(runs.c.failed_at).label("last")
        query = (
            select(runs.c.failure_classification, runs.c.failure_error_type, start, amount, last, in_prod)
            .where(standing_failure(), runs.c.created_at >= since)
            .group_by(runs.c.failure_classification, runs.c.failure_error_type, start)
            .order_by(amount.desc(), last.desc())
            .limit(limit)
        )
        with self._store.asking() as conn:
            found = conn.execute(query).all()
        return [
            FailureCause(
                classification=FailureClassification(classification),
                error_type=error_type,
                message_start=mask_text(message or "", cut=len(message or "") >= CAUSE_CHARACTERS),
                count=count,
                last_failed_at=failed_at,
                in_prod=prod or 0,
            )
            for classification, error_type, message, count, failed_at, prod in found
        ]

    def count_failures(self) -> dict[FailureClassification, int]:
        """Return how many failures stand, by class."""
        found = select(runs.c.failure_classification, func.count()).where(standing_failure())
        query = by_index(found.group_by(runs.c.failure_classification), "ix_runs_failing_created")
        with self._store.asking() as conn:
            return {FailureClassification(word): count for word, count in conn.execute(query)}

    def load_runs(self, run_ids: Sequence[str]) -> list[RunSummary]:
        """Return the runs with these ids, in no particular order; unknown ids are left out."""
        query = select(*run_rows.SUMMARY_COLUMNS).where(runs.c.run_id.in_(run_ids))
        with self._store.asking() as conn:
            return [previews.run(row, self._store.codec) for row in conn.execute(query)]

    @asked_again
    def load_head(self, run_id: str) -> RunHead | None:
        """Return a run's row, metadata and decisions, or None; two statements."""
        with self._store.viewing() as conn:
            row = conn.execute(
                select(*run_rows.SUMMARY_COLUMNS, runs.c.metadata_json).where(runs.c.run_id == run_id)
            ).one_or_none()
            if row is None:
                return None
            decided = conn.execute(
                select(decisions).where(decisions.c.run_id == run_id).order_by(decisions.c.decision_id)
            ).all()
        return RunHead(
            summary=previews.run(row, self._store.codec),
            metadata=previews.metadata(self._store.codec, row.metadata_json),
            decisions=[previews.decision(r, self._store.codec) for r in decided],
        )

    def _search(self, wanted: RunFilter, names: Sequence[str] | None, stretch: Stretch) -> Select[Any]:
        if names is None:
            names = self.workflow_names()
        starts_with = self._store.starts_with
        with self._store.asking() as conn:
            begun = conn.execute(few_ids_query(wanted.search_text, starts_with)).scalar_one()
        return search_query(wanted, names, stretch, starts_with=starts_with, few_ids=begun <= FEW_IDS)

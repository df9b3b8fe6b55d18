"""The read side: what explorer, queue, overview and run page ask; none of it reads all steps of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, func, literal, select, text

from resume_engine.core.decisions import Decision
from resume_engine.core.errors import PayloadError
from resume_engine.core.masking import mask_json_text, mask_text
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import (
    COMPLETED_STATUSES,
    FailureClassification,
    StepKind,
    StepStatus,
)
from resume_engine.storage import previews, rows
from resume_engine.storage.derived_inputs import MARK, UNREAD, load_input_text
from resume_engine.storage.keyset import Cursor, Page, cut_page
from resume_engine.storage.payload_codec import LOCKED_JSON, PayloadCodec
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
from resume_engine.storage.schema import decisions, runs, status_is, step_records
from resume_engine.storage.sql_store import SqlCheckpointStore

PREVIEW_CHARACTERS = 2_000
LINE_CHARACTERS = 240

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
class StepView:
    """One attempt as pages show it: values cut to a preview, with their full sizes in characters."""

    sequence: int
    step_index: int
    step_name: str
    kind: StepKind
    status: StepStatus
    attempt: int
    started_at: datetime | None
    recorded_at: datetime
    duration_ms: int | None
    idempotency_key: str
    worker: str | None
    classification: FailureClassification | None
    classified_by: str | None
    error_type: str | None
    error_message: str | None
    error_traceback: str | None
    input_preview: str
    input_size: int
    output_preview: str | None
    output_size: int | None


@dataclass(frozen=True, kw_only=True)
class AttemptMark:
    """One attempt on one line of a list or as one mark of a picture: no values, the message cut."""

    sequence: int
    step_index: int
    step_name: str
    kind: StepKind
    status: StepStatus
    attempt: int
    started_at: datetime | None
    recorded_at: datetime
    duration_ms: int | None
    classification: FailureClassification | None
    error_type: str | None
    error_message: str | None


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
            found = [previews.run(row, self._store.codec) for row in conn.execute(query)]
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
        query = select(*rows.SUMMARY_COLUMNS).where(runs.c.run_id.in_(run_ids))
        with self._store.asking() as conn:
            return [previews.run(row, self._store.codec) for row in conn.execute(query)]

    def load_head(self, run_id: str) -> RunHead | None:
        """Return a run's row, metadata and decisions, or None; two statements."""
        with self._store.reading() as conn:
            row = conn.execute(
                select(*rows.SUMMARY_COLUMNS, runs.c.metadata_json).where(runs.c.run_id == run_id)
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

    def last_completed_index(self, run: RunSummary) -> int | None:
        """Return the highest index among completed workflow steps, or None."""
        if run.steps_completed == run.resume_from_index:  # no gaps: all before it and none behind it
            return run.resume_from_index - 1 if run.steps_completed else None
        query = select(func.max(step_records.c.step_index)).where(
            step_records.c.run_id == run.run_id,
            step_records.c.kind == StepKind.STEP.value,
            status_is(*COMPLETED_STATUSES),
        )
        with self._store.asking() as conn:
            return conn.execute(query).scalar()

    def list_steps(
        self, run_id: str, *, after: int = -1, limit: int = 50, only_failed: bool = False
    ) -> tuple[list[StepView], bool]:
        """Return the attempts behind sequence `after`, and whether there are more."""
        query = _behind(STEP_VIEW_COLUMNS, run_id, after, only_failed).limit(limit + 1)
        with self._store.asking() as conn:
            found = conn.execute(query).all()
        return [step_view_from_row(row, self._store.codec) for row in found[:limit]], len(found) > limit

    def load_step_view(self, run_id: str, sequence: int) -> StepView | None:
        """Return one attempt as pages show it, or None."""
        query = (
            select(*STEP_VIEW_COLUMNS)
            .where(step_records.c.run_id == run_id, step_records.c.sequence == sequence)
            .limit(1)
        )
        with self._store.asking() as conn:
            row = conn.execute(query).one_or_none()
            if row is None:
                return None
            view = step_view_from_row(row, self._store.codec)
            if not row.input_preview.startswith(MARK):
                return view
            text = self._derived_text(conn, run_id, sequence, row.input_preview)
        shown = mask_json_text(text[:PREVIEW_CHARACTERS])
        return replace(view, input_preview=shown, input_size=len(text))

    def _derived_text(self, conn: Connection, run_id: str, sequence: int, stored: str) -> str:
        try:
            return load_input_text(conn, self._store.codec, run_id, sequence, stored)
        except PayloadError:
            return LOCKED_JSON

    def load_step_json(self, run_id: str, sequence: int, which: str) -> str | None:
        """Return the recorded `input` or `output` of an attempt as JSON text, secrets masked, or None."""
        column = {"input": step_records.c.input_json, "output": step_records.c.output_json}[which]
        query = (
            select(column)
            .where(step_records.c.run_id == run_id, step_records.c.sequence == sequence)
            .limit(1)
        )
        with self._store.asking() as conn:
            text = conn.execute(query).scalar()
            if text is None:
                return None
            if which == "input":
                opened = load_input_text(conn, self._store.codec, run_id, sequence, text)
            else:
                opened = self._store.codec.unseal(text)
        return mask_json_text(opened)

    def list_attempts(self, run_id: str, *, latest: int) -> list[AttemptMark]:
        """Return the latest attempts, oldest first."""
        query = (
            select(*_ATTEMPT_COLUMNS)
            .where(step_records.c.run_id == run_id)
            .order_by(step_records.c.sequence.desc(), step_records.c.legacy_duplicate.desc())
            .limit(latest)
        )
        with self._store.asking() as conn:
            found = conn.execute(query).all()
        return [_attempt_from_row(row, self._store.codec) for row in reversed(found)]

    def page_of_attempts(
        self, run_id: str, *, after: int = -1, limit: int = 50, only_failed: bool = False
    ) -> tuple[list[AttemptMark], bool]:
        """Return the attempts behind sequence `after` without their values, and whether there are more."""
        query = _behind(_ATTEMPT_COLUMNS, run_id, after, only_failed).limit(limit + 1)
        with self._store.asking() as conn:
            found = conn.execute(query).all()
        return [_attempt_from_row(row, self._store.codec) for row in found[:limit]], len(found) > limit

    def _search(self, wanted: RunFilter, names: Sequence[str] | None, stretch: Stretch) -> Select[Any]:
        if names is None:
            names = self.workflow_names()
        starts_with = self._store.starts_with
        with self._store.asking() as conn:
            begun = conn.execute(few_ids_query(wanted.search_text, starts_with)).scalar_one()
        return search_query(wanted, names, stretch, starts_with=starts_with, few_ids=begun <= FEW_IDS)


_LINE_COLUMNS = (
    step_records.c.sequence,
    step_records.c.step_index,
    step_records.c.step_name,
    step_records.c.kind,
    step_records.c.status,
    step_records.c.attempt,
    step_records.c.started_at,
    step_records.c.timestamp,
    step_records.c.duration_ms,
    step_records.c.failure_classification,
    step_records.c.error_type,
)
_ATTEMPT_COLUMNS = (
    *_LINE_COLUMNS,
    previews.beginning(step_records.c.error_message, LINE_CHARACTERS).label("error_message"),
)
STEP_VIEW_COLUMNS = (
    *_LINE_COLUMNS,
    step_records.c.idempotency_key,
    step_records.c.worker,
    step_records.c.classified_by,
    step_records.c.error_message,
    step_records.c.error_traceback,
    previews.beginning(step_records.c.input_json, PREVIEW_CHARACTERS).label("input_preview"),
    func.length(step_records.c.input_json).label("input_size"),
    previews.beginning(step_records.c.output_json, PREVIEW_CHARACTERS).label("output_preview"),
    func.length(step_records.c.output_json).label("output_size"),
)


def _behind(columns: Sequence[Any], run_id: str, after: int, only_failed: bool) -> Select[Any]:
    query = (
        select(*columns)
        .where(step_records.c.run_id == run_id, step_records.c.sequence > after)
        .order_by(step_records.c.sequence, step_records.c.legacy_duplicate)
    )
    if not only_failed:
        return query
    query = query.where(status_is(StepStatus.FAILED))
    return query.with_hint(step_records, "INDEXED BY ix_step_records_failed", "sqlite")


def _attempt_from_row(row: Any, codec: PayloadCodec) -> AttemptMark:
    failure = row.failure_classification
    return AttemptMark(
        sequence=row.sequence,
        step_index=row.step_index,
        step_name=row.step_name,
        kind=StepKind(row.kind),
        status=StepStatus(row.status),
        attempt=row.attempt,
        started_at=row.started_at,
        recorded_at=row.timestamp,
        duration_ms=row.duration_ms,
        classification=FailureClassification(failure) if failure else None,
        error_type=row.error_type,
        error_message=previews.message(codec, row.error_message, LINE_CHARACTERS),
    )


def step_view_from_row(row: Any, codec: PayloadCodec) -> StepView:
    """Return an attempt as pages show it: values opened, cut and masked."""
    failure = row.failure_classification
    shown_input, input_size = UNREAD, len(UNREAD)
    if not row.input_preview.startswith(MARK):
        shown_input, input_size = previews.json_start(
            codec, row.input_preview, row.input_size, PREVIEW_CHARACTERS
        )
    shown_output, output_size = previews.json_start(
        codec, row.output_preview, row.output_size, PREVIEW_CHARACTERS
    )
    return StepView(
        sequence=row.sequence,
        step_index=row.step_index,
        step_name=row.step_name,
        kind=StepKind(row.kind),
        status=StepStatus(row.status),
        attempt=row.attempt,
        started_at=row.started_at,
        recorded_at=row.timestamp,
        duration_ms=row.duration_ms,
        idempotency_key=row.idempotency_key,
        worker=row.worker,
        classification=FailureClassification(failure) if failure else None,
        classified_by=row.classified_by,
        error_type=row.error_type,
        error_message=previews.message(codec, row.error_message),
        error_traceback=previews.message(codec, row.error_traceback),
        input_preview=shown_input,
        input_size=input_size,
        output_preview=shown_output,
        output_size=output_size,
    )

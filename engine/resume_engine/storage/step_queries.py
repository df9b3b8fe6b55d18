"""The attempts of one run as pages show them; none of it reads all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, func, select

from resume_engine.core.errors import PayloadError
from resume_engine.core.masking import mask_json_text
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import (
    COMPLETED_STATUSES,
    FailureClassification,
    StepKind,
    StepStatus,
)
from resume_engine.storage import previews
from resume_engine.storage.derived_inputs import MARK, UNREAD, load_input_text
from resume_engine.storage.payload_codec import LOCKED_JSON, PayloadCodec
from resume_engine.storage.schema import status_is, step_records
from resume_engine.storage.sql_store import SqlCheckpointStore

PREVIEW_CHARACTERS = 2_000
LINE_CHARACTERS = 240


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
class StepView(AttemptMark):
    """One attempt as pages show it: values cut to a preview, with their full sizes in characters."""

    idempotency_key: str
    worker: str | None
    classified_by: str | None
    error_traceback: str | None
    input_preview: str
    input_size: int
    output_preview: str | None
    output_size: int | None


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


class StepQueries:
    """Answer the questions of pages, API and command line about the attempts of a run."""

    def __init__(self, store: SqlCheckpointStore) -> None:
        self._store = store

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


def _line_of(row: Any) -> dict[str, Any]:
    """Return what is said of every attempt, but for its message."""
    failure = row.failure_classification
    return {
        "sequence": row.sequence,
        "step_index": row.step_index,
        "step_name": row.step_name,
        "kind": StepKind(row.kind),
        "status": StepStatus(row.status),
        "attempt": row.attempt,
        "started_at": row.started_at,
        "recorded_at": row.timestamp,
        "duration_ms": row.duration_ms,
        "classification": FailureClassification(failure) if failure else None,
        "error_type": row.error_type,
    }


def _attempt_from_row(row: Any, codec: PayloadCodec) -> AttemptMark:
    message = previews.message(codec, row.error_message, LINE_CHARACTERS)
    return AttemptMark(**_line_of(row), error_message=message)


def step_view_from_row(row: Any, codec: PayloadCodec) -> StepView:
    """Return an attempt as pages show it: values opened, cut and masked."""
    shown_input, input_size = UNREAD, len(UNREAD)
    if not row.input_preview.startswith(MARK):
        shown_input, input_size = previews.json_start(
            codec, row.input_preview, row.input_size, PREVIEW_CHARACTERS
        )
    shown_output, output_size = previews.json_start(
        codec, row.output_preview, row.output_size, PREVIEW_CHARACTERS
    )
    return StepView(
        **_line_of(row),
        error_message=previews.message(codec, row.error_message),
        idempotency_key=row.idempotency_key,
        worker=row.worker,
        classified_by=row.classified_by,
        error_traceback=previews.message(codec, row.error_traceback),
        input_preview=shown_input,
        input_size=input_size,
        output_preview=shown_output,
        output_size=output_size,
    )

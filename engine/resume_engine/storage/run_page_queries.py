"""What one run's page asks: everything but its steps in two statements, however many steps there are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import case, func, select

from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.decisions import Decision
from resume_engine.core.idempotency import canonical_json
from resume_engine.core.masking import mask_json_text
from resume_engine.storage import previews
from resume_engine.storage.driver import asked_again
from resume_engine.storage.gate_queries import Case, case_from_row, case_query, labelled, part
from resume_engine.storage.payload_codec import PayloadCodec, shown_json
from resume_engine.storage.schema import audit_events, decisions, runs, step_records
from resume_engine.storage.sql_store import SqlCheckpointStore

_EVENT = "event__"
TRACE_OUTPUT_CHARACTERS = 4_000
METADATA_CHARACTERS = 20_000

_TRACE_COLUMNS = (
    step_records.c.idempotency_key,
    step_records.c.input_hash,
    step_records.c.sequence,
    step_records.c.status,
    step_records.c.step_index,
    step_records.c.step_name,
)


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """A run with the evidence of its current failure and all decisions ever made about it.

    `case` holds the decisions about the current failure only, `resumed` the first resume after they opened
    the last gate. Large metadata is cut to its beginning,
    as text; `metadata_size` is its full size in characters.
    """

    case: Case
    decisions: Sequence[Decision]
    resumed: AuditEvent | None
    metadata_text: str
    metadata_size: int


class RunPageQueries:
    """Answer the questions of the page of one run."""

    def __init__(self, store: SqlCheckpointStore) -> None:
        self._store = store

    @asked_again
    def load(self, run_id: str) -> RunPage | None:
        """Return what the page shows beside the steps, or None; two statements."""
        query = (
            case_query(runs.c.failure_sequence)
            .add_columns(
                previews.beginning(runs.c.metadata_json, METADATA_CHARACTERS).label("metadata_text"),
                func.length(runs.c.metadata_json).label("metadata_size"),
            )
            .add_columns(*labelled(audit_events.c, _EVENT))
            .outerjoin(audit_events, audit_events.c.event_id == _first_resume())
            .where(runs.c.run_id == run_id)
            .limit(1)
        )
        decided = select(decisions).where(decisions.c.run_id == run_id).order_by(decisions.c.decision_id)
        codec = self._store.codec
        with self._store.viewing() as conn:
            row = conn.execute(query).one_or_none()
            if row is None:
                return None
            found = [previews.decision(r, codec) for r in conn.execute(decided)]
        text, size = previews.json_start(codec, row.metadata_text, row.metadata_size, METADATA_CHARACTERS)
        current = case_from_row(row, None, (), codec)
        mine = [decision for decision in found if decision.failure_key == current.failure_key]
        return RunPage(
            case=replace(current, decisions=mine),
            decisions=found,
            resumed=previews.event(part(row, _EVENT), codec) if row.event__event_id is not None else None,
            metadata_text=text,
            metadata_size=size,
        )

    def trace_start(self, run_id: str, *, limit: int) -> list[str]:
        """Return the first lines of the audit trace behind its head.

        An output too large for a page is left out of its line, which then says so and is no trace line.
        """
        size = func.length(step_records.c.output_json)
        small = case((size <= TRACE_OUTPUT_CHARACTERS, step_records.c.output_json), else_=None)
        query = (
            select(*_TRACE_COLUMNS, small.label("output_text"), size.label("output_size"))
            .where(step_records.c.run_id == run_id)
            .order_by(step_records.c.sequence, step_records.c.legacy_duplicate)
            .limit(limit)
        )
        with self._store.asking() as conn:
            return [_trace_line(row, self._store.codec) for row in conn.execute(query)]


def _first_resume() -> Any:
    return (
        select(audit_events.c.event_id)
        .where(audit_events.c.run_id == runs.c.run_id, audit_events.c.created_at >= runs.c.cleared_at)
        .where(audit_events.c.event_type == EventType.RUN_RESUMED.value)
        .order_by(audit_events.c.event_id)
        .limit(1)
        .correlate(runs)
        .scalar_subquery()
    )


def _trace_line(row: Any, codec: PayloadCodec) -> str:
    output = json.loads(shown_json(codec, row.output_text)) if row.output_text is not None else None
    cut = row.output_text is None and row.output_size is not None
    line = canonical_json(
        {
            "idempotency_key": row.idempotency_key,
            "input_hash": row.input_hash,
            "output_data": f"({row.output_size:,} characters, in the download)" if cut else output,
            "sequence": row.sequence,
            "status": row.status,
            "step_index": row.step_index,
            "step_name": row.step_name,
        }
    )
    return mask_json_text(line)

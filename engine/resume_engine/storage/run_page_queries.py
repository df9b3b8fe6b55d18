"""What one run's page asks: everything but its steps in two statements, however many steps there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import func, select

from resume_engine.core.decisions import Decision
from resume_engine.storage import rows
from resume_engine.storage.gate_queries import Case, case_from_row, case_query
from resume_engine.storage.run_queries import PREVIEW_CHARACTERS
from resume_engine.storage.schema import decisions, runs
from resume_engine.storage.sql_store import SqlCheckpointStore


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """A run with the evidence of its current failure and all decisions ever made about it.

    `case` holds the decisions about the current failure only. Large metadata is cut to its beginning,
    as text; `metadata_size` is its full size in characters.
    """

    case: Case
    decisions: Sequence[Decision]
    metadata_text: str
    metadata_size: int


class RunPageQueries:
    """Answer the questions of the page of one run."""

    def __init__(self, store: SqlCheckpointStore) -> None:
        self._store = store

    def load(self, run_id: str) -> RunPage | None:
        """Return what the page shows beside the steps, or None; two statements."""
        query = (
            case_query(runs.c.failure_sequence)
            .add_columns(
                func.substr(runs.c.metadata_json, 1, PREVIEW_CHARACTERS * 10).label("metadata_text"),
                func.length(runs.c.metadata_json).label("metadata_size"),
            )
            .where(runs.c.run_id == run_id)
            .limit(1)
        )
        decided = select(decisions).where(decisions.c.run_id == run_id).order_by(decisions.c.decision_id)
        with self._store.reading() as conn:
            row = conn.execute(query).one_or_none()
            if row is None:
                return None
            found = [rows.decision_from_row(r) for r in conn.execute(decided)]
        case = case_from_row(row, None, ())
        mine = [decision for decision in found if decision.failure_key == case.failure_key]
        return RunPage(
            case=replace(case, decisions=mine),
            decisions=found,
            metadata_text=row.metadata_text,
            metadata_size=row.metadata_size,
        )

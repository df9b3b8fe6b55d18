"""How long failures waited for the decisions that were made about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import String, and_, cast, select

from resume_engine.core.step_record import StepStatus
from resume_engine.storage.schema import decisions, status_is, step_records
from resume_engine.storage.sql_store import SqlCheckpointStore


@dataclass(frozen=True)
class DecisionWait:
    """One decision: its kind, and the seconds from the failure to it."""

    kind: str
    seconds: float


def decision_waits(store: SqlCheckpointStore, since: datetime, *, limit: int) -> Sequence[DecisionWait]:
    """Return the newest decisions made since then with their waits; one statement."""
    newest = (
        select(decisions.c.run_id, decisions.c.failure_key, decisions.c.kind, decisions.c.decided_at)
        .where(decisions.c.decided_at >= since)
        .order_by(decisions.c.decided_at.desc())
        .limit(limit)
        .subquery()
    )
    key = cast(step_records.c.step_index, String) + ":" + cast(step_records.c.sequence, String)
    # Out of the index of failed attempts: a run has few of them, however many steps it has.
    failure = and_(
        step_records.c.run_id == newest.c.run_id, status_is(StepStatus.FAILED), key == newest.c.failure_key
    )
    query = select(newest.c.kind, newest.c.decided_at, step_records.c.timestamp).select_from(
        newest.join(step_records, failure)
    )
    with store.asking() as conn:
        return [
            DecisionWait(kind, max(0.0, (decided_at - failed_at).total_seconds()))
            for kind, decided_at, failed_at in conn.execute(query)
        ]

"""Gates that nobody passed in time are closed again, so that they stand in the queue of those who decide.

Who resumes or decides closes them as well; without this a run that nobody asks for would look cleared.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import and_, or_, select, tuple_

from resume_engine.core import clock
from resume_engine.core.actor import ENGINE_ACTOR
from resume_engine.core.decision_end import UNUSED_STATUSES
from resume_engine.core.gate_closing import closed_in_time
from resume_engine.core.run import RunStatus
from resume_engine.core.run_summary import RunSummary
from resume_engine.storage import run_rows
from resume_engine.storage.run_list import by_index
from resume_engine.storage.schema import runs
from resume_engine.storage.sql_store import SqlCheckpointStore

_RUNS_PER_FETCH = 100


def close_ended(store: SqlCheckpointStore) -> None:
    """Close the gates whose decisions have ended.

    Any number of processes may do so at once: of each run one of them writes the change and its event.
    """
    at = clock.utc_now()
    last: tuple[datetime, str] | None = None
    while True:
        found = _ended(store, at, last)
        for run in found:
            closed_in_time(store, run, ENGINE_ACTOR)
        if len(found) < _RUNS_PER_FETCH:
            return
        last = (found[-1].cleared_until or at, found[-1].run_id)


def _ended(store: SqlCheckpointStore, at: datetime, last: tuple[datetime, str] | None) -> list[RunSummary]:
    query = (
        select(*run_rows.SUMMARY_COLUMNS)
        .where(runs.c.cleared_until.is_not(None), runs.c.cleared_until <= at)
        .where(
            or_(
                runs.c.status.in_([status.value for status in UNUSED_STATUSES]),
                and_(runs.c.status == RunStatus.RUNNING.value, runs.c.lease_owner.is_(None)),
            )
        )
        .order_by(runs.c.cleared_until, runs.c.run_id)
        .limit(_RUNS_PER_FETCH)
    )
    if last is not None:
        query = query.where(tuple_(runs.c.cleared_until, runs.c.run_id) > last)
    with store.asking() as conn:
        found = conn.execute(by_index(query, "ix_runs_cleared_until"))
        return [run_rows.summary_from_row(row, store.codec) for row in found]

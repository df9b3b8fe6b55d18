"""Removing runs that were finished long ago; what is on the audit stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, delete, func, literal, or_, select, true, tuple_

from resume_engine.core.actor import Actor
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.clock import utc_now
from resume_engine.core.run import FINISHED_STATUSES, RunStatus
from resume_engine.storage.audit_log import append_in_tx
from resume_engine.storage.forwarding_marks import is_here_only
from resume_engine.storage.schema import decisions, forwarded_runs, runs, step_records
from resume_engine.storage.sql_store import SqlCheckpointStore

RUNS_PER_BATCH = 500
RECORDS_PER_BATCH = 20_000
"""Few enough that executors do not wait long for their turn behind a batch; a run is never torn apart."""

_Position = tuple[datetime, str]


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """What one batch removed, or would remove."""

    heads: tuple[tuple[str, int, str | None], ...]  # run id, entries of its chain, hash of the last one
    step_records: int
    decisions: int

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Return the ids of the runs."""
        return tuple(run_id for run_id, _, _ in self.heads)


def collect(
    store: SqlCheckpointStore,
    finished_before: datetime,
    *,
    actor: Actor,
    dry_run: bool = False,
    unforwarded: bool = False,
) -> Iterator[Garbage]:
    """Remove the runs that were completed or cancelled before a moment; yield what each batch took.

    A run with a closed gate or a live lease is never taken, and one that a control plane is to get and has
    not got as it is only if `unforwarded`. Each batch is a transaction of its own, with one `run.collected`
    event; the other events of the runs stay. With `dry_run` nothing is written.
    """
    store.refuse_if_locked()
    for status in sorted(FINISHED_STATUSES):
        position: _Position | None = None
        while True:
            with store.reading() if dry_run else store.writing() as conn:
                query = _finished(store, status, finished_before, position, unforwarded)
                found = conn.execute(query if dry_run else query.with_for_update(skip_locked=True)).all()
                batch = _within_limits(found)
                if not batch:
                    break
                yielded = _taken_in_tx(conn, batch, dry_run)
                if not dry_run:
                    event = _event(actor, finished_before, yielded)
                    append_in_tx(conn, event, store.codec)
            yield yielded
            position = (batch[-1].created_at, batch[-1].run_id)


def count_unforwarded(store: SqlCheckpointStore, finished_before: datetime) -> int:
    """Return how many finished runs are kept because the control plane has not got them yet."""
    query = (
        select(func.count())
        .select_from(runs)
        .where(runs.c.status.in_([status.value for status in FINISHED_STATUSES]), is_here_only())
        .where(func.coalesce(runs.c.finished_at, runs.c.updated_at) < finished_before)
    )
    with store.asking() as conn:
        found: int = conn.execute(query).scalar_one()
    return found


def _finished(
    store: SqlCheckpointStore,
    status: RunStatus,
    before: datetime,
    position: _Position | None,
    unforwarded: bool,
) -> Select[Any]:
    # A run was created before it was finished: that condition lets the index of runs by state serve.
    condition = true() if unforwarded else ~is_here_only()
    query = (
        select(runs.c.run_id, runs.c.created_at, runs.c.next_sequence, runs.c.chain_seq, runs.c.chain_head)
        .where(runs.c.status == status.value, runs.c.blocked_by.is_(None), runs.c.created_at < before)
        .where(func.coalesce(runs.c.finished_at, runs.c.updated_at) < before)
        .where(or_(runs.c.lease_owner.is_(None), runs.c.lease_expires_at <= store.database_now()), condition)
        .order_by(runs.c.created_at, runs.c.run_id)
        .limit(RUNS_PER_BATCH)
    )
    if position is not None:
        created_at = literal(position[0], runs.c.created_at.type)
        query = query.where(
            tuple_(runs.c.created_at, runs.c.run_id) > tuple_(created_at, literal(position[1]))
        )
    return query


def _within_limits(found: Sequence[Any]) -> list[Any]:
    batch: list[Any] = []
    records = 0
    for row in found:
        records += row.next_sequence
        if batch and records > RECORDS_PER_BATCH:
            break
        batch.append(row)
    return batch


def _taken_in_tx(conn: Connection, batch: Sequence[Any], dry_run: bool) -> Garbage:
    run_ids = [row.run_id for row in batch]
    heads = tuple((row.run_id, row.chain_seq, row.chain_head) for row in batch)
    taken = {}
    # The guards let records go once their run has gone.
    for table in (runs, step_records, decisions, forwarded_runs):
        theirs: ColumnElement[bool] = table.c.run_id.in_(run_ids)
        if dry_run:
            counted = select(func.count()).select_from(table).where(theirs)
            taken[table.name] = conn.execute(counted).scalar_one()
        else:
            taken[table.name] = conn.execute(delete(table).where(theirs)).rowcount
    return Garbage(heads=heads, step_records=taken["step_records"], decisions=taken["decisions"])


def _event(actor: Actor, finished_before: datetime, garbage: Garbage) -> AuditEvent:
    return AuditEvent.by(
        actor,
        EventType.RUN_COLLECTED,
        utc_now(),
        payload={
            "message": f"runs: {len(garbage.run_ids)}, step records: {garbage.step_records}",
            "runs": len(garbage.run_ids),
            "step_records": garbage.step_records,
            "decisions": garbage.decisions,
            "finished_before": finished_before.isoformat(),
            "run_ids": list(garbage.run_ids),
            # What is left of their chains is verified against these.
            "chains": [[seq, head] for _, seq, head in garbage.heads],
        },
    )

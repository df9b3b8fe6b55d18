"""How far each run was forwarded to a control plane, kept beside the runs so that a restart goes on there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from resume_engine.core import clock
from resume_engine.core.run import RunStatus
from resume_engine.storage.schema import control_planes, forwarded_runs, runs
from resume_engine.storage.sql_store import SqlCheckpointStore

ADDRESS_MAX_CHARACTERS = 2_000
_RUNS_PER_ROUND = 200


@dataclass
class Mark:
    """How far one run was forwarded."""

    run_id: str
    records: int = 0
    version: int = -1
    conflict: str | None = None


class ForwardingMarks:
    """Read and write the marks of one database."""

    def __init__(self, store: SqlCheckpointStore) -> None:
        self._store = store

    def begin(self, address: str) -> None:
        """Write down that the runs of this database are forwarded: what is not there yet is kept here."""
        with self._store.asking() as conn:
            known = conn.execute(select(control_planes.c.address)).scalars().all()
        if address[:ADDRESS_MAX_CHARACTERS] in known:
            return
        try:
            with self._store.writing() as conn:
                values = {"address": address[:ADDRESS_MAX_CHARACTERS], "since": clock.utc_now()}
                conn.execute(insert(control_planes).values(values))
        except IntegrityError:
            pass  # another process began at the same moment

    def load(self, run_id: str) -> Mark:
        """Return the mark of a run; a new one when nothing of it was forwarded."""
        with self._store.asking() as conn:
            row = conn.execute(select(forwarded_runs).where(forwarded_runs.c.run_id == run_id)).one_or_none()
        if row is None:
            return Mark(run_id)
        return Mark(row.run_id, row.records, row.version, self._opened(row.conflict))

    def save(self, mark: Mark) -> None:
        """Write a mark."""
        values: dict[str, Any] = {
            "records": mark.records,
            "version": mark.version,
            # What the control plane answered may tell of a failure's message.
            "conflict": None if mark.conflict is None else self._store.codec.encode_text(mark.conflict),
        }
        change = update(forwarded_runs).where(forwarded_runs.c.run_id == mark.run_id).values(values)
        try:
            with self._store.writing() as conn:
                if conn.execute(change).rowcount == 0:
                    conn.execute(insert(forwarded_runs).values(run_id=mark.run_id, **values))
        except IntegrityError:  # another process forwards this database too, and was first
            with self._store.writing() as conn:
                conn.execute(change)

    def conflicts(self) -> Mapping[str, str]:
        """Return why runs are no longer forwarded, by run id."""
        query = select(forwarded_runs.c.run_id, forwarded_runs.c.conflict).where(
            forwarded_runs.c.conflict.is_not(None)
        )
        with self._store.asking() as conn:
            return {row.run_id: self._opened(row.conflict) or "" for row in conn.execute(query)}

    def _opened(self, conflict: str | None) -> str | None:
        return None if conflict is None else self._store.codec.decode_text(conflict)

    def waiting(self) -> Sequence[str]:
        """Return runs to look after, oldest first: not all there, or waiting for what people decide there."""
        undecided = or_(runs.c.blocked_by.is_not(None), runs.c.status == RunStatus.FAILED.value)
        no_conflict = forwarded_runs.c.conflict.is_(None)
        query = _joined(runs.c.run_id).where(and_(no_conflict, or_(_is_behind(), undecided)))
        query = query.order_by(runs.c.created_at, runs.c.run_id).limit(_RUNS_PER_ROUND)
        with self._store.asking() as conn:
            return list(conn.execute(query).scalars())

    def behind(self) -> Mapping[str, tuple[int, int]]:
        """Return the number of records here and there of each run that is not all there."""
        there = func.coalesce(forwarded_runs.c.records, 0).label("there")
        query = _joined(runs.c.run_id, runs.c.next_sequence, there).where(_is_behind())
        with self._store.asking() as conn:
            return {row.run_id: (row.next_sequence, row.there) for row in conn.execute(query)}


def _joined(*columns: Any) -> Select[Any]:
    return select(*columns).select_from(
        runs.outerjoin(forwarded_runs, forwarded_runs.c.run_id == runs.c.run_id)
    )


def _is_behind() -> ColumnElement[bool]:
    return func.coalesce(forwarded_runs.c.version, -1) < runs.c.version


def is_here_only() -> ColumnElement[bool]:
    """Return the condition that a run should be on a control plane, and is not there as it stands here."""
    there = select(forwarded_runs.c.run_id).where(
        forwarded_runs.c.run_id == runs.c.run_id, forwarded_runs.c.version >= runs.c.version
    )
    return and_(exists(select(control_planes.c.address)), ~exists(there))

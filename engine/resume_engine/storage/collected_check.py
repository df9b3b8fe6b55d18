"""Check what is left of runs that were collected: their events, and what sealed them."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, func, literal, select

from resume_engine.core.audit import EventType
from resume_engine.core.audit_chain import CONTROL, entry_hash
from resume_engine.core.chain_report import ChainReport, Finding
from resume_engine.core.errors import PayloadLockedError
from resume_engine.storage.chain_reader import StoredEntry
from resume_engine.storage.chain_walk import UNREADABLE
from resume_engine.storage.rows import AnyRow
from resume_engine.storage.schema import audit_checkpoint_leaves, audit_events, runs
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.table_base import as_stored

_leaves = audit_checkpoint_leaves.c


class CollectedCheck:
    """Take in the control stream, then say which runs are gone without an event of it that tells."""

    def __init__(self, store: SqlCheckpointStore, report: ChainReport) -> None:
        self._store, self._report = store, report
        self._ends: dict[str, tuple[int, str | None]] = {}
        self._is_locked = False

    def take(self, entry: StoredEntry) -> None:
        """Note the runs that an entry of the control stream tells of."""
        if entry.row.event_type != EventType.RUN_COLLECTED.value:
            return
        try:
            payload = self._store.codec.decode(entry.row.payload_json)
            chains = payload.get("chains", [])
            self._ends |= {
                run_id: (seq, head) for run_id, (seq, head) in zip(payload["run_ids"], chains, strict=True)
            }
        except PayloadLockedError:
            self._is_locked = True
        except UNREADABLE:
            pass  # the walk says what is wrong with it

    def check(self, take_newer: Callable[[], None]) -> None:
        """Check what is left; `take_newer` takes in the entries that were written since."""
        with self._store.reading() as conn:
            gone = self._unknown_seals(conn)
            gone = self._unknown_events(conn) | gone
        if not gone or self._is_locked:
            return  # whether one that is gone was collected cannot be told: the walk counts what is locked
        take_newer()  # runs are collected while others are verified
        for stream, seq in gone.items():
            if not self._covers(stream, seq):
                problem = "the whole run was taken out: no event says that it was collected"
                problem = f"{problem} (entries up to #{seq} are known)"
                self._report.add(Finding(stream=stream, seq=1, problem=problem))

    def _covers(self, stream: str, seq: int) -> bool:
        return stream in self._ends and self._ends[stream][0] >= seq

    def _unknown_seals(self, conn: Connection) -> dict[str, int]:
        is_gone = ~select(literal(1)).where(runs.c.run_id == _leaves.stream).exists()
        ends = select(_leaves.stream, func.max(_leaves.chain_seq).label("seq"))
        ends = ends.where(is_gone, _leaves.stream != CONTROL).group_by(_leaves.stream)
        found = conn.execution_options(yield_per=500).execute(ends)
        return {row.stream: row.seq for row in found if not self._covers(row.stream, row.seq)}

    def _unknown_events(self, conn: Connection) -> dict[str, int]:
        is_gone = ~select(literal(1)).where(runs.c.run_id == audit_events.c.stream).exists()
        left = select(*as_stored(audit_events.c)).where(is_gone, audit_events.c.stream != CONTROL)
        left = left.order_by(audit_events.c.stream, audit_events.c.chain_seq)
        unknown: dict[str, int] = {}
        for row in conn.execution_options(yield_per=500).execute(left):
            if row.stream in self._ends:
                self._check_left(row)
            else:
                unknown.setdefault(row.stream, row.chain_seq)
        return unknown

    def _check_left(self, row: AnyRow) -> None:
        self._report.entries += 1
        entry = StoredEntry(row, is_step=False)
        try:
            header = entry.header(row.stream, row.chain_seq, row.prev_hash, self._store.codec)
        except PayloadLockedError:
            self._report.locked += 1
            return
        except UNREADABLE as problem:
            self._report.add(
                Finding(stream=row.stream, seq=row.chain_seq, problem=f"cannot be read: {problem}")
            )
            return
        seq, head = self._ends[row.stream]
        expected = entry_hash(header)
        if expected != row.chain_hash or (row.chain_seq == seq and row.chain_hash != head):
            self._report.add(
                Finding(
                    stream=row.stream,
                    seq=row.chain_seq,
                    problem="it is not what was recorded",
                    expected=expected,
                    found=row.chain_hash,
                )
            )

"""Verify the audit of a database: every stream, every checkpoint, and each against the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Select, func, literal, select

from resume_engine.core.audit import EventType
from resume_engine.core.audit_chain import CONTROL
from resume_engine.core.chain_report import ChainReport, Finding
from resume_engine.core.checkpoint import Checkpoint
from resume_engine.core.errors import RunNotFoundError
from resume_engine.core.merkle import root_of
from resume_engine.storage.chain_reader import StoredEntry, entries_of_many, iter_entries, iter_events
from resume_engine.storage.chain_walk import UNREADABLE, ChainWalk, walk
from resume_engine.storage.collected_check import CollectedCheck
from resume_engine.storage.decision_check import COLUMNS as DECISION_COLUMNS
from resume_engine.storage.decision_check import DecisionCheck
from resume_engine.storage.rows import AnyRow
from resume_engine.storage.run_check import COLUMNS, RunCheck
from resume_engine.storage.schema import (
    audit_checkpoint_leaves,
    audit_events,
    audit_streams,
    decisions,
    runs,
    step_records,
)
from resume_engine.storage.sealing import iter_checkpoints, leaves_of
from resume_engine.storage.signing import Signer
from resume_engine.storage.sql_store import SqlCheckpointStore

Progress = Callable[[int], None]
_leaves = audit_checkpoint_leaves.c
_RUNS_PER_FETCH = 200
_NEVER = datetime.min.replace(tzinfo=UTC)
_ENTRIES_AT_ONCE = 2_000


class ChainVerifier:
    """Look at everything once; a batch of runs is read in one moment, a long run by itself.

    `key` checks signatures, `anchors` are checkpoints that were kept outside, `since` leaves out the
    checkpoints before that one and the runs that none of the later ones sealed.
    """

    def __init__(
        self,
        store: SqlCheckpointStore,
        *,
        key: Signer,
        anchors: Iterable[Checkpoint] = (),
        since: int = 0,
        progress: Progress = lambda _: None,
    ) -> None:
        self._store, self._key, self._since, self._progress = store, key, since, progress
        self._anchors = {anchor.number: anchor for anchor in anchors}
        self.report = ChainReport()
        self._collected = CollectedCheck(store, self.report)
        self._chain_started: datetime | None = None
        self._control: ChainWalk | None = None  # where the walk along a control stream that is whole stands

    def verify_all(self) -> ChainReport:
        """Verify every stream and every checkpoint."""
        self._check_checkpoints()
        with self._store.reading() as conn:
            self._check_strays(conn)
        for run_ids in self._batches(None):
            self._check_runs(run_ids)
        self._check_control()
        with self._reading("(none)"):
            self._collected.check(self._walk_on)
        return self.report

    def verify_run(self, run_id: str) -> ChainReport:
        """Verify the stream of one run against itself and the checkpoints that sealed it."""
        found = list(self._batches(run_id))
        if not found:
            raise RunNotFoundError(run_id)
        for run_ids in found:
            self._check_runs(run_ids)
        with self._store.reading() as conn:
            sealing = _leaves.checkpoint_id.label("number")
            numbers = conn.execute(select(sealing).where(_leaves.stream == run_id)).scalars().all()
        self._check_checkpoints(set(numbers))
        return self.report

    # Checkpoints

    def _check_checkpoints(self, only: set[int] | None = None) -> None:
        previous: Checkpoint | None = None
        unchecked = 0
        with self._store.reading() as conn:
            for made, stored in iter_checkpoints(conn, self._since):
                with self._reading("checkpoint", made.number):
                    self._check_place(made, stored, previous)
                    if only is None or made.number in only:
                        self._check_root(conn, made)
                        unchecked += self._check_signature(made) is None
                previous = made
        if previous is not None:
            self.report.checkpoint = previous.number
        else:
            self.report.doubts.append("there is no checkpoint: run `resume-engine audit seal`")
        if unchecked:
            self.report.doubts.append(
                f"{unchecked} checkpoints carry no signature of the key given: give the right one with --key"
            )
        self._check_anchors(previous.number if previous else 0)

    def _check_place(self, made: Checkpoint, stored: str, previous: Checkpoint | None) -> None:
        number = made.number
        follows = previous is None or (number == previous.number + 1 and made.previous_hash == previous.hash)
        if not follows or (previous is None and not self._since and number != 1):
            self._bad_checkpoint(number, "a checkpoint before it is missing or was changed")
        if stored != made.hash:
            self._bad_checkpoint(number, "it is not what was signed", made.hash, stored)

    def _check_root(self, conn: Connection, made: Checkpoint) -> None:
        root = root_of(leaf.hash for leaf in leaves_of(conn, made.number)).hex()
        if root != made.root:
            self._bad_checkpoint(made.number, "its leaves were changed", made.root, root)
        anchor = self._anchors.get(made.number)
        if anchor is not None and anchor.hash != made.hash:
            self._bad_checkpoint(made.number, "it is not the one kept outside", anchor.hash, made.hash)

    def _check_signature(self, made: Checkpoint) -> bool | None:
        signed = self._key.is_signed(made)
        if signed is False:
            self._bad_checkpoint(made.number, "its signature is wrong")
        return signed

    def _check_anchors(self, last: int) -> None:
        for number in sorted(self._anchors):
            if number > last:
                self._bad_checkpoint(number, "it was kept outside, and is not in the database any more")
                return

    def _bad_checkpoint(
        self, number: int, problem: str, expected: str | None = None, found: str | None = None
    ) -> None:
        self.report.add(
            Finding(stream="checkpoint", seq=number, problem=problem, expected=expected, found=found)
        )

    # Runs

    def _batches(self, run_id: str | None) -> Iterator[list[str]]:
        last = ""
        while True:
            query = self._runs_behind(last, run_id)
            with self._store.reading() as conn:
                found = conn.execute(query).all()
            for part in _parts(found):
                yield [row.run_id for row in part]
            if run_id is not None or len(found) < _RUNS_PER_FETCH:
                return
            last = found[-1].run_id

    def _runs_behind(self, last: str, run_id: str | None) -> Select[Any]:
        query = select(runs.c.run_id, runs.c.chain_seq).order_by(runs.c.run_id).limit(_RUNS_PER_FETCH)
        if run_id is not None:
            return query.where(runs.c.run_id == run_id)
        if self._since:
            moved = select(_leaves.stream).where(_leaves.checkpoint_id >= self._since)
            query = query.where(runs.c.run_id.in_(moved))
        return query.where(runs.c.run_id > last)

    def _check_runs(self, run_ids: Sequence[str]) -> None:
        with self._store.reading() as conn:
            found = conn.execute(select(*COLUMNS).where(runs.c.run_id.in_(run_ids))).all()
            sealed = _seals(conn, run_ids)
            decided = _decided(conn, run_ids)
            is_long = len(found) == 1 and _length(found[0]) > _ENTRIES_AT_ONCE
            entries = {} if is_long else entries_of_many(conn, run_ids)
            for run in found:
                own = iter_entries(conn, run.run_id) if is_long else entries.get(run.run_id, [])
                with self._reading(run.run_id):
                    self._check_run(conn, run, own, sealed[run.run_id], decided[run.run_id])
        self._progress(self.report.entries)

    def _check_run(
        self,
        conn: Connection,
        run: AnyRow,
        entries: Iterable[StoredEntry],
        sealed: Mapping[int, str],
        decided: Sequence[AnyRow],
    ) -> None:
        told, row = DecisionCheck(self._store.codec), RunCheck(self._store.codec)
        walked, finding = walk(run.run_id, _noting(entries, told, row), self._store.codec, sealed)
        finding = finding or walked.end(run.chain_seq, run.chain_head)
        self._note(walked, finding, max(sealed, default=0))
        problem = None if finding is not None else told.problem(decided) or row.problem(run)
        if walked.seq == 0 and finding is None and not self._is_older(conn, run):
            problem = "it has no entry: nothing tells that anybody started it"
        if problem is not None:
            self.report.add(Finding(stream=run.run_id, seq=None, problem=problem))

    def _is_older(self, conn: Connection, run: AnyRow) -> bool:
        """Return whether a run was there before there was a chain: one of those may have no entry."""
        if self._chain_started is None:
            is_start = audit_events.c.event_type == EventType.AUDIT_CHAIN_STARTED.value
            query = select(func.min(audit_events.c.created_at)).where(audit_events.c.stream == CONTROL)
            self._chain_started = conn.execute(query.where(is_start)).scalar() or _NEVER
        return bool(run.created_at < self._chain_started)

    @contextmanager
    def _reading(self, stream: str, seq: int | None = None) -> Iterator[None]:
        """Let what cannot be read be a finding, and everything else be verified all the same."""
        try:
            yield
        except UNREADABLE as problem:
            self.report.add(
                Finding(stream=stream, seq=seq, problem=f"something in it cannot be read: {problem!r:.80}")
            )

    def _note(self, walked: ChainWalk, finding: Finding | None, sealed: int) -> None:
        self.report.streams += 1
        self.report.entries += walked.seq
        self.report.locked += walked.locked
        if finding is not None:
            self.report.add(finding)
        else:
            self.report.unsealed += walked.seq - sealed

    # Everything else

    def _check_strays(self, conn: Connection) -> None:
        """Find rows that stand in no chain, and records without a run."""
        no_run = ~select(literal(1)).where(runs.c.run_id == step_records.c.run_id).exists()
        strays = (
            (select(audit_events.c.event_id).where(audit_events.c.stream.is_(None)), "event"),
            (select(step_records.c.id).where(no_run), "step record of a run that is not there"),
        )
        for query, what in strays:
            found = conn.execute(query.limit(1)).scalar()
            if found is not None:
                self.report.add(
                    Finding(
                        stream="(none)", seq=None, problem=f"the {what} with id {found} was put in by hand"
                    )
                )

    def _check_control(self) -> None:
        with self._reading(CONTROL), self._store.reading() as conn:
            sealed = _seals(conn, [CONTROL])[CONTROL]
            query = select(audit_streams).where(audit_streams.c.stream == CONTROL)
            end = conn.execute(query).one_or_none()
            entries = self._noting_collected(iter_entries(conn, CONTROL))
            walked, finding = walk(CONTROL, entries, self._store.codec, sealed)
            seq, head = (end.chain_seq, end.chain_head or None) if end else (0, None)
            finding = finding or walked.end(seq, head)
            self._control = walked if finding is None else None
            self._note(walked, finding, max(sealed, default=0))

    def _noting_collected(self, entries: Iterable[StoredEntry]) -> Iterator[StoredEntry]:
        for entry in entries:
            self._collected.take(entry)
            yield entry

    def _walk_on(self) -> None:
        """Go on along the control stream, to what was written since it was walked."""
        if self._control is None:
            return
        with self._store.reading() as conn:
            for entry in self._noting_collected(iter_events(conn, CONTROL, after=self._control.seq)):
                finding = self._control.take(entry)
                if finding is not None:
                    self.report.add(finding)
                    return


def _parts(found: Sequence[AnyRow]) -> Iterator[list[AnyRow]]:
    part: list[AnyRow] = []
    size = 0
    for row in found:
        if part and size + _length(row) > _ENTRIES_AT_ONCE:
            yield part
            part, size = [], 0
        part.append(row)
        size += _length(row)
    if part:
        yield part


def _length(run: AnyRow) -> int:
    return run.chain_seq if isinstance(run.chain_seq, int) else 0


def _seals(conn: Connection, streams: Sequence[str]) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for row in conn.execute(select(audit_checkpoint_leaves).where(_leaves.stream.in_(streams))):
        found[row.stream][row.chain_seq] = row.chain_head
    return found


def _decided(conn: Connection, run_ids: Sequence[str]) -> dict[str, list[AnyRow]]:
    found: dict[str, list[AnyRow]] = defaultdict(list)
    query = select(*DECISION_COLUMNS).where(decisions.c.run_id.in_(run_ids))
    for row in conn.execute(query.order_by(decisions.c.ordinal, decisions.c.decision_id)):
        found[row.run_id].append(row)
    return found


def _noting(entries: Iterable[StoredEntry], told: DecisionCheck, row: RunCheck) -> Iterator[StoredEntry]:
    for entry in entries:
        yield entry  # the walk says what is wrong with it, and does not go on then
        row.take(entry, None if entry.is_step else told.take(entry.row))

"""Write checkpoints: seal the streams of the audit that moved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Select, func, insert, literal, select, union, union_all
from sqlalchemy.exc import IntegrityError

from resume_engine.core.checkpoint import Checkpoint, Leaf
from resume_engine.core.clock import utc_now
from resume_engine.core.merkle import root_of
from resume_engine.storage.schema import (
    audit_checkpoint_leaves,
    audit_checkpoints,
    audit_events,
    audit_streams,
    runs,
    step_records,
)
from resume_engine.storage.signing import Signer
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.table_base import as_stored

_leaves = audit_checkpoint_leaves.c
OVERLAP = 5_000
"""Ids are given out before they are committed: so many of those seen before are looked at again."""


class Sealer:
    """Seal again and again; after the first time only what was written since is looked at."""

    def __init__(self, store: SqlCheckpointStore, signer: Signer) -> None:
        self.store, self.signer = store, signer
        self._seen: tuple[int, int] | None = None

    def seal(self, *, everything: bool = False, leave_fewer_than: int = 1) -> Checkpoint | None:
        """Write a checkpoint; None when nothing moved, or when somebody else is writing the same one."""
        with self.store.reading() as conn:
            last = _last_ids(conn)
        since = None if everything else self._seen
        if since is not None and sum(last) - sum(since) < leave_fewer_than:
            return None
        try:
            found = self._seal(since)
        except IntegrityError:
            return None  # of two sealers at once the other one wrote it
        self._seen = last
        return found

    def _seal(self, since: tuple[int, int] | None) -> Checkpoint | None:
        with self.store.writing() as conn:
            previous = latest(conn)
            number = previous.number + 1 if previous else 1
            names = list(audit_checkpoint_leaves.c.keys())
            conn.execute(insert(audit_checkpoint_leaves).from_select(names, _moved(number, since)))
            totals = select(func.count(), func.coalesce(func.sum(_leaves.chain_seq), 0))
            streams, entries = conn.execute(totals.where(_leaves.checkpoint_id == number)).one()
            if not streams:
                return None
            made = Checkpoint(
                number=number,
                created_at=utc_now(),
                streams=streams,
                entries=entries,
                root=root_of(leaf.hash for leaf in leaves_of(conn, number)).hex(),
                previous_hash=previous.hash if previous else None,
                key_id=self.signer.key_id,
                algorithm=self.signer.algorithm,
            )
            signature = self.signer.sign(made.message)
            conn.execute(insert(audit_checkpoints).values(_values(made, signature)))
            return from_row(
                conn.execute(_by_number().where(audit_checkpoints.c.checkpoint_id == number)).one()
            )


def seal(store: SqlCheckpointStore, signer: Signer) -> Checkpoint | None:
    """Write a checkpoint of everything that moved; None when nothing did."""
    return Sealer(store, signer).seal(everything=True)


def latest(conn: Connection) -> Checkpoint | None:
    """Return the newest checkpoint."""
    row = conn.execute(_by_number().order_by(audit_checkpoints.c.checkpoint_id.desc()).limit(1)).one_or_none()
    return None if row is None else from_row(row)


def iter_checkpoints(conn: Connection, since: int = 0) -> Iterator[tuple[Checkpoint, str]]:
    """Yield checkpoints from `since` on, each with its hash as stored."""
    while True:
        query = _by_number().where(audit_checkpoints.c.checkpoint_id >= since)
        rows = conn.execute(query.order_by(audit_checkpoints.c.checkpoint_id).limit(200)).all()
        yield from ((from_row(row), row.hash) for row in rows)
        if len(rows) < 200:
            return
        since = rows[-1].checkpoint_id + 1


def leaves_of(conn: Connection, number: int) -> Iterator[Leaf]:
    """Yield the leaves of a checkpoint by stream, in the order of the bytes of its name."""
    name: Any = _leaves.stream
    ordered = name.collate("C") if conn.dialect.name == "postgresql" else name
    last = ""
    while True:
        query = select(audit_checkpoint_leaves).where(_leaves.checkpoint_id == number, ordered > last)
        rows = conn.execute(query.order_by(ordered).limit(1_000)).all()
        yield from (Leaf(stream=row.stream, seq=row.chain_seq, head=row.chain_head) for row in rows)
        if len(rows) < 1_000:
            return
        last = rows[-1].stream


def last_leaf(conn: Connection, stream: str) -> tuple[int, Leaf] | None:
    """Return the newest leaf of a stream, with the number of its checkpoint."""
    query = select(audit_checkpoint_leaves).where(_leaves.stream == stream)
    row = conn.execute(query.order_by(_leaves.checkpoint_id.desc()).limit(1)).one_or_none()
    return (
        None
        if row is None
        else (row.checkpoint_id, Leaf(stream=stream, seq=row.chain_seq, head=row.chain_head))
    )


def from_row(row: Any) -> Checkpoint:
    """Return the checkpoint held by a row."""
    return Checkpoint(
        number=row.checkpoint_id,
        created_at=row.created_at,
        streams=row.streams,
        entries=row.entries,
        root=row.root,
        previous_hash=row.previous_hash,
        key_id=row.key_id,
        algorithm=row.algorithm,
        signature=row.signature,
    )


def _values(made: Checkpoint, signature: str) -> dict[str, Any]:
    return {
        "checkpoint_id": made.number,
        "created_at": made.created_at,
        "streams": made.streams,
        "entries": made.entries,
        "root": made.root,
        "previous_hash": made.previous_hash,
        "hash": made.hash,
        "key_id": made.key_id,
        "algorithm": made.algorithm,
        "signature": signature,
    }


def _by_number() -> Select[Any]:
    return select(*as_stored(audit_checkpoints.c))


def _last_ids(conn: Connection) -> tuple[int, int]:
    query = select(func.max(step_records.c.id).label("n")), select(func.max(audit_events.c.event_id))
    step, event = (conn.execute(part).scalar() or 0 for part in query)
    return step, event


def _moved(number: int, since: tuple[int, int] | None) -> Select[Any]:
    """Return the leaves of a new checkpoint: streams that are longer than any checkpoint says."""
    own = select(literal(number), runs.c.run_id, runs.c.chain_seq, runs.c.chain_head).where(
        runs.c.chain_seq > 0,
        ~select(literal(1))
        .where(_leaves.stream == runs.c.run_id, _leaves.chain_seq >= runs.c.chain_seq)
        .exists(),
    )
    if since is not None:
        records = select(step_records.c.run_id).where(step_records.c.id > since[0] - OVERLAP)
        events = select(audit_events.c.stream).where(audit_events.c.event_id > since[1] - OVERLAP)
        own = own.where(runs.c.run_id.in_(union(records, events)))
    streams = audit_streams.c
    other = select(literal(number), streams.stream, streams.chain_seq, streams.chain_head).where(
        streams.chain_seq > 0,
        ~select(literal(1))
        .where(_leaves.stream == streams.stream, _leaves.chain_seq >= streams.chain_seq)
        .exists(),
    )
    return union_all(own, other)  # type: ignore[return-value]  # what from_select takes as well

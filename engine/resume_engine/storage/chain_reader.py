"""Entries of the audit as the database holds them, in the order of their chain."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, tuple_

from resume_engine.core.audit_chain import Header, digest, event_header, step_header
from resume_engine.core.errors import PayloadLockedError
from resume_engine.core.payload import is_hash_of, storable
from resume_engine.core.step_record import FailureClassification, StepRecord, StepStatus
from resume_engine.storage.audit_rows import event_of
from resume_engine.storage.derived_inputs import MARK
from resume_engine.storage.payload_codec import LockedText, PayloadCodec
from resume_engine.storage.rows import AnyRow
from resume_engine.storage.schema import audit_events, step_records
from resume_engine.storage.table_base import as_stored

ROWS_PER_FETCH = 500
EVENT_BODIES = ("payload", "note")
STEP_BODIES = ("input", "output", "error_message", "error_traceback")
# What is no moment is a finding of its run: it must not keep the others from being read.
_EVENT, _STEP = as_stored(audit_events.c), as_stored(step_records.c)
_COLUMN = {"payload": "payload_json", "input": "input_json", "output": "output_json"}
_TEXTS = ("note", "error_message", "error_traceback")


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """A row of the audit with its place in a chain; a row that was put in by hand may have none."""

    row: AnyRow
    is_step: bool

    @property
    def seq(self) -> int | None:
        """Return its number in its stream."""
        number: int | None = self.row.chain_seq
        return number

    @property
    def hash(self) -> str | None:
        """Return its hash as stored."""
        found: str | None = self.row.chain_hash
        return found

    @property
    def order(self) -> tuple[bool, int]:
        """Return what sorts entries of a stream; those without a number come last."""
        return (False, self.seq) if isinstance(self.seq, int) else (True, 0)

    def header(self, stream: str, seq: int, prev: str | None, codec: PayloadCodec) -> Header:
        """Return the header of what the row says now, at this place.

        Raises `PayloadLockedError` when a payload is sealed with a key that is not here, another
        `PayloadError` or ValueError when the row cannot be read.
        """
        if self.is_step:
            return _step_header(self.row, stream, seq, prev, codec)
        return _event_header(self.row, stream, seq, prev, codec)

    def bodies(self, codec: PayloadCodec) -> dict[str, str]:
        """Return the texts that the header holds digests of."""
        names = STEP_BODIES if self.is_step else EVENT_BODIES
        found = {name: opened(codec, name, getattr(self.row, _COLUMN.get(name, name))) for name in names}
        return {
            name: storable(text) if name in _TEXTS else text
            for name, text in found.items()
            if text is not None
        }


def opened(codec: PayloadCodec, name: str, stored: str | None) -> str | None:
    """Return a stored body as it was before it was sealed."""
    if stored is None:
        return None
    if name not in _TEXTS:
        return codec.unseal(stored)
    text = codec.decode_text(stored)
    if isinstance(text, LockedText):
        codec.unseal(stored)  # says which key is missing, or that the text is damaged
        raise PayloadLockedError("it needs a key that is not here")
    return text


def _step_header(row: AnyRow, stream: str, seq: int, prev: str | None, codec: PayloadCodec) -> Header:
    failure = row.failure_classification
    record = StepRecord(
        step_name=row.step_name,
        step_index=row.step_index,
        input_data={},
        input_hash=row.input_hash,
        output_data=None,
        status=StepStatus(row.status),
        idempotency_key=row.idempotency_key,
        timestamp=row.timestamp,
        failure_classification=FailureClassification(failure) if failure else None,
        error_message=opened(codec, "error_message", row.error_message),
        sequence=row.sequence,
        attempt=row.attempt,
        started_at=row.started_at,
        duration_ms=row.duration_ms,
        error_type=row.error_type,
        error_traceback=opened(codec, "error_traceback", row.error_traceback),
        classified_by=row.classified_by,
        worker=row.worker,
    )
    return step_header(
        stream,
        seq,
        prev,
        record,
        input_digest=_input_digest(row, codec),
        output_digest=digest(opened(codec, "output", row.output_json)),
        duplicate=row.legacy_duplicate,
    )


def _input_digest(row: AnyRow, codec: PayloadCodec) -> str | None:
    if row.input_json.startswith(MARK):
        return None  # it follows from the record, and so its hash covers it
    given = codec.unseal(row.input_json)
    return None if is_hash_of(row.input_hash, given) else digest(given)


def _event_header(row: AnyRow, stream: str, seq: int, prev: str | None, codec: PayloadCodec) -> Header:
    event = event_of(row, note=opened(codec, "note", row.note), payload={})  # its digest is enough
    return event_header(stream, seq, prev, event, payload_digest=digest(codec.unseal(row.payload_json)))


def entries_of_many(conn: Connection, streams: Sequence[str]) -> dict[str, list[StoredEntry]]:
    """Return all entries of some short streams of runs, each in its order."""
    found: dict[str, list[StoredEntry]] = defaultdict(list)
    for row in conn.execute(select(*_EVENT).where(audit_events.c.stream.in_(streams))):
        found[row.stream].append(StoredEntry(row, is_step=False))
    for row in conn.execute(select(*_STEP).where(step_records.c.run_id.in_(streams))):
        found[row.run_id].append(StoredEntry(row, is_step=True))
    for entries in found.values():
        entries.sort(key=lambda entry: entry.order)
    return found


def iter_entries(conn: Connection, stream: str) -> Iterator[StoredEntry]:
    """Yield the entries of a stream in their order, a few hundred in memory at a time."""
    return heapq.merge(iter_events(conn, stream), iter_steps(conn, stream), key=lambda entry: entry.order)


def iter_events(
    conn: Connection, stream: str, *, only_about: str | None = None, after: int = -1
) -> Iterator[StoredEntry]:
    """Yield the events of a stream behind one in their order, only those about one run if asked."""
    last = after
    while True:
        query = select(*_EVENT).where(audit_events.c.stream == stream, audit_events.c.chain_seq > last)
        if only_about is not None:
            query = query.where(audit_events.c.run_id == only_about)
        rows = conn.execute(query.order_by(audit_events.c.chain_seq).limit(ROWS_PER_FETCH)).all()
        yield from (StoredEntry(row, is_step=False) for row in rows)
        if len(rows) < ROWS_PER_FETCH:
            return
        last = rows[-1].chain_seq


def iter_steps(conn: Connection, stream: str) -> Iterator[StoredEntry]:
    """Yield step records by sequence: they were chained in that order."""
    at = tuple_(step_records.c.sequence, step_records.c.legacy_duplicate)
    last: tuple[Any, Any] = (-1, -1)
    while True:
        query = select(*_STEP).where(step_records.c.run_id == stream, at > last)
        query = query.order_by(step_records.c.sequence, step_records.c.legacy_duplicate)
        rows = conn.execute(query.limit(ROWS_PER_FETCH)).all()
        yield from (StoredEntry(row, is_step=True) for row in rows)
        if len(rows) < ROWS_PER_FETCH:
            return
        last = (rows[-1].sequence, rows[-1].legacy_duplicate)

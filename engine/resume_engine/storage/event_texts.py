"""The events of a run as JSON text, those of recorded steps among them: their rows without the payloads.

A run of thousands of steps has as many such events; none of them is made into an object to be written again.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Sequence
from json.encoder import encode_basestring_ascii as quoted
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import literal, select, tuple_

from resume_engine.core.actor import Channel
from resume_engine.core.audit import EventType
from resume_engine.core.permissions import Role
from resume_engine.storage import previews
from resume_engine.storage.audit_queries import AuditQueries, EventFilter
from resume_engine.storage.driver import asked_again
from resume_engine.storage.payload_codec import PayloadCodec
from resume_engine.storage.run_reader import steps_of
from resume_engine.storage.schema import step_records
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.step_texts import moment_text, string_text

_ROWS_PER_FETCH = 2_000


class _Row(NamedTuple):
    sequence: int
    legacy_duplicate: int
    step_name: str
    step_index: int
    status: str
    attempt: int
    idempotency_key: str
    input_hash: str
    failure_classification: str | None
    error_message: str | None
    worker: str | None
    timestamp: Any


_COLUMNS = tuple(step_records.c[name] for name in _Row._fields)


def event_texts(store: SqlCheckpointStore, run_id: str) -> Iterator[str]:
    """Yield all events of a run by time, secrets masked: what `AuditQueries.stream_run` gives, as JSON."""
    stored = (event.to_dict() for event in AuditQueries(store).stream(EventFilter(run_id=run_id)))
    of_run = ((json.dumps(event["created_at"]), json.dumps(event)) for event in stored)
    of_steps = (_timed(run_id, row, store.codec) for row in _rows(store, run_id))
    # Moments are written alike and in UTC, so that their texts are in the order of time.
    for _, text in heapq.merge(of_run, of_steps, key=itemgetter(0)):
        yield text


def _rows(store: SqlCheckpointStore, run_id: str) -> Iterator[_Row]:
    position = (-1, -1)
    while True:
        found = _fetch(store, run_id, position)
        yield from found
        if len(found) < _ROWS_PER_FETCH:
            return
        position = (found[-1].sequence, found[-1].legacy_duplicate)


@asked_again
def _fetch(store: SqlCheckpointStore, run_id: str, position: tuple[int, int]) -> list[_Row]:
    place = tuple_(step_records.c.sequence, step_records.c.legacy_duplicate)
    query = (
        steps_of(run_id, select(*_COLUMNS))
        .where(place > tuple_(*map(literal, position)))
        .limit(_ROWS_PER_FETCH)
    )
    with store.asking() as conn:
        found: Sequence[Any] = conn.execute(query).cursor.fetchall()
    return list(map(_Row._make, found))


def _timed(run_id: str, row: _Row, codec: PayloadCodec) -> tuple[str, str]:
    """Return the time and text of a record's event; a test holds it together with `core.audit.step_event`."""
    moment, failure = moment_text(row.timestamp), row.failure_classification
    key = f'"{row.step_index}:{row.sequence}"' if failure else "null"
    error = string_text(previews.message(codec, row.error_message))
    return moment, (
        f'{{"event_id": null, "event_type": "{EventType.STEP_RECORDED}", '
        f'"actor": {quoted(row.worker or "engine")}, "role": "{Role.RUNNER}", '
        f'"channel": "{Channel.LIBRARY}", "run_id": {quoted(run_id)}, "failure_key": {key}, "note": null, '
        f'"payload": {{"step_name": {quoted(row.step_name)}, "step_index": {row.step_index}, '
        f'"sequence": {row.sequence}, "status": {quoted(row.status)}, "attempt": {row.attempt}, '
        f'"idempotency_key": {quoted(row.idempotency_key)}, "input_hash": {quoted(row.input_hash)}, '
        f'"failure_classification": {string_text(failure)}, "error_message": {error}}}, '
        f'"created_at": {moment}}}'
    )

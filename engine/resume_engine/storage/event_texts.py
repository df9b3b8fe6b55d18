"""The events of a run as JSON text, those of recorded steps among them: their rows without the payloads.

A run of thousands of steps has as many such events; none of them is made into an object to be written again.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Sequence
from itertools import repeat
from json.encoder import encode_basestring_ascii as quoted
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import literal, select, tuple_

from resume_engine.core.actor import Channel
from resume_engine.core.audit import EventType
from resume_engine.core.permissions import Role
from resume_engine.storage import previews
from resume_engine.storage.audit_queries import AuditQueries, EventFilter
from resume_engine.storage.moment_texts import StoredMoment, moment_texts
from resume_engine.storage.payload_codec import PayloadCodec
from resume_engine.storage.run_reader import steps_of
from resume_engine.storage.schema import step_records
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.step_texts import string_texts

_ROWS_PER_FETCH = 2_000


class _Columns(NamedTuple):
    sequence: Sequence[int]
    legacy_duplicate: Sequence[int]
    step_name: Sequence[str]
    step_index: Sequence[int]
    status: Sequence[str]
    attempt: Sequence[int]
    idempotency_key: Sequence[str]
    input_hash: Sequence[str]
    failure_classification: Sequence[str | None]
    error_message: Sequence[str | None]
    worker: Sequence[str | None]
    timestamp: Sequence[str]


_COLUMNS = tuple(
    StoredMoment(step_records.c[name]) if name == "timestamp" else step_records.c[name]
    for name in _Columns._fields
)
_EVENT = (
    f'{{"event_id": null, "event_type": "{EventType.STEP_RECORDED}", "actor": %s, "role": "{Role.RUNNER}", '
    f'"channel": "{Channel.LIBRARY}", "run_id": %s, "failure_key": %s, "note": null, '
    '"payload": {"step_name": %s, "step_index": %s, "sequence": %s, "status": %s, "attempt": %s, '
    '"idempotency_key": %s, "input_hash": %s, "failure_classification": %s, "error_message": %s}, '
    '"created_at": %s}'
)
"""A test holds it together with `core.audit.step_event`."""


def event_texts(store: SqlCheckpointStore, run_id: str) -> Iterator[str]:
    """Yield all events of a run by time, secrets masked: what `AuditQueries.stream_run` gives, as JSON."""
    stored = (event.to_dict() for event in AuditQueries(store).stream(EventFilter(run_id=run_id)))
    of_run = ((json.dumps(event["created_at"]), json.dumps(event)) for event in stored)
    # Moments are written alike and in UTC, so that their texts are in the order of time.
    for _, text in heapq.merge(of_run, _of_steps(store, run_id), key=itemgetter(0)):
        yield text


def _of_steps(store: SqlCheckpointStore, run_id: str) -> Iterator[tuple[str, str]]:
    position = (-1, -1)
    while True:
        found = _fetch(store, run_id, position)
        if found:
            yield from _timed(run_id, _Columns(*zip(*found, strict=True)), store.codec)
        if len(found) < _ROWS_PER_FETCH:
            return
        position = found[-1][:2]


def _fetch(store: SqlCheckpointStore, run_id: str, position: tuple[int, int]) -> Sequence[Any]:
    place = tuple_(step_records.c.sequence, step_records.c.legacy_duplicate)
    query = (
        steps_of(run_id, select(*_COLUMNS))
        .where(place > tuple_(*map(literal, position)))
        .limit(_ROWS_PER_FETCH)
    )
    with store.asking() as conn:
        found: Sequence[Any] = conn.execute(query).cursor.fetchall()
    return found


def _timed(run_id: str, steps: _Columns, codec: PayloadCodec) -> Iterator[tuple[str, str]]:
    """Yield the time and text of the events that records stand for."""
    moments = moment_texts(steps.timestamp)
    values = (
        (quoted(worker or "engine") for worker in steps.worker),
        repeat(quoted(run_id), len(moments)),
        map(_failure_key, steps.step_index, steps.sequence, steps.failure_classification),
        map(quoted, steps.step_name),
        steps.step_index,
        steps.sequence,
        map(quoted, steps.status),
        steps.attempt,
        map(quoted, steps.idempotency_key),
        map(quoted, steps.input_hash),
        string_texts(steps.failure_classification),
        string_texts(previews.message(codec, text) for text in steps.error_message),
        moments,
    )
    for moment, event in zip(moments, zip(*values, strict=True), strict=True):
        yield moment, _EVENT % event


def _failure_key(step_index: int, sequence: int, failure: str | None) -> str:
    return f'"{step_index}:{sequence}"' if failure else "null"

"""Seal a whole database with the newest key: what lay in the clear, and what older keys sealed.

It works in batches, each in its own transaction, and looks for what the newest key has not sealed: after an
interruption it goes on where it stopped, and rows written meanwhile are sealed already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, not_, or_, select, update
from sqlalchemy.sql.schema import Column, Table

from resume_engine.core.errors import InvalidValueError
from resume_engine.storage import audit_rows
from resume_engine.storage.derived_inputs import MARK, is_stored
from resume_engine.storage.encryption import KEYS_VARIABLE, EncryptedCodec
from resume_engine.storage.payload_codec import PLAIN, is_sealed
from resume_engine.storage.schema import audit_events, decisions, forwarded_runs, runs, step_records
from resume_engine.storage.sql_store import SqlCheckpointStore

ROWS_PER_BATCH = 500


@dataclass(frozen=True)
class _Sealed:
    """A table with its key and the columns that are sealed: payloads as JSON, and texts."""

    table: Table
    key: Column[Any]
    payloads: tuple[Column[Any], ...]
    texts: tuple[Column[Any], ...]
    which: ColumnElement[bool] | None = None

    @property
    def columns(self) -> tuple[Column[Any], ...]:
        return (*self.payloads, *self.texts)


_kept_plain = or_(*(audit_events.c.event_type.startswith(kind) for kind in audit_rows.PLAIN_EVENTS))
_TABLES = (
    _Sealed(
        runs, runs.c.run_id, (runs.c.metadata_json, runs.c.initial_input_json), (runs.c.failure_message,)
    ),
    _Sealed(
        step_records,
        step_records.c.id,
        (step_records.c.input_json, step_records.c.output_json),
        (step_records.c.error_message, step_records.c.error_traceback),
    ),
    _Sealed(decisions, decisions.c.decision_id, (decisions.c.result_json,), (decisions.c.note,)),
    _Sealed(forwarded_runs, forwarded_runs.c.run_id, (), (forwarded_runs.c.conflict,)),
    _Sealed(
        audit_events,
        audit_events.c.event_id,
        (audit_events.c.payload_json,),
        (audit_events.c.note,),
        not_(_kept_plain),
    ),
)
"""Everything that can hold data of users; a test compares it with the schema."""


def rotate_keys(store: SqlCheckpointStore, progress: Callable[[str, int], None] | None = None) -> int:
    """Seal everything with the newest key and return how many rows were changed.

    Raises `PayloadLockedError` when something was sealed with a key that is not among those given.
    """
    codec = _codec_of(store)
    changed = 0
    for sealed in _TABLES:
        for count in _rotate_table(store, sealed, codec):
            changed += count
            if progress is not None:
                progress(sealed.table.name, count)
    return changed


def count_unsealed(store: SqlCheckpointStore) -> int:
    """Return how many rows hold something that is not sealed with the newest key."""
    codec = _codec_of(store)
    with store.reading() as conn:
        return sum(_count(conn, sealed, codec) for sealed in _TABLES)


def _codec_of(store: SqlCheckpointStore) -> EncryptedCodec:
    if not isinstance(store.codec, EncryptedCodec):
        raise InvalidValueError(KEYS_VARIABLE, "set it to the new key and the old ones, separated by commas")
    return store.codec


def _count(conn: Connection, sealed: _Sealed, codec: EncryptedCodec) -> int:
    query = select(func.count()).select_from(sealed.table).where(_left(sealed, codec))
    return int(conn.execute(query).scalar_one())


def _left(sealed: _Sealed, codec: EncryptedCodec) -> ColumnElement[bool]:
    """Return the rows with something that is not sealed with the newest key."""
    mark = codec.mark
    kept = [and_(c.is_not(None), c != "", func.substr(c, 1, len(mark)) != mark) for c in sealed.columns]
    for at, column in enumerate(sealed.columns):
        if column is step_records.c.input_json:
            kept[at] = and_(kept[at], is_stored(column))
    columns = or_(*kept)
    return columns if sealed.which is None else and_(columns, sealed.which)


def _rotate_table(store: SqlCheckpointStore, sealed: _Sealed, codec: EncryptedCodec) -> Iterator[int]:
    last: Any = None
    while True:
        query = select(sealed.key.label("row_key"), *sealed.columns).where(_left(sealed, codec))
        if last is not None:
            query = query.where(sealed.key > last)
        with store.writing() as conn:
            found = conn.execute(query.order_by(sealed.key).limit(ROWS_PER_BATCH).with_for_update()).all()
            for row in found:
                values = dict(_sealed_values(sealed, row, codec))
                conn.execute(update(sealed.table).where(sealed.key == row.row_key).values(values))
        if not found:
            return
        last = found[-1].row_key
        yield len(found)


def _sealed_values(sealed: _Sealed, row: Any, codec: EncryptedCodec) -> Iterator[tuple[str, str]]:
    for column in sealed.columns:
        stored = getattr(row, column.name)
        if not stored or stored.startswith(codec.mark):
            continue
        if column is step_records.c.input_json and stored.startswith(MARK):
            continue  # there is nothing of the input in it
        is_plain_text = any(column is text for text in sealed.texts) and not is_sealed(stored)
        yield column.name, codec.seal(PLAIN.decode_text(stored) if is_plain_text else codec.unseal(stored))

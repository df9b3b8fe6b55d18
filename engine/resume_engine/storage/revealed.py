"""Single values as they are recorded, secrets and all; whoever asks records the look as an audit event."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import Select, select

from resume_engine.core.errors import PayloadLockedError
from resume_engine.storage.derived_inputs import load_input_text
from resume_engine.storage.driver import asked_again
from resume_engine.storage.payload_codec import LockedText
from resume_engine.storage.schema import runs, step_records
from resume_engine.storage.sql_store import SqlCheckpointStore


class Field(StrEnum):
    """What can be revealed of a run (`metadata`) or of one recorded attempt."""

    INPUT = "input"
    OUTPUT = "output"
    ERROR = "error"
    TRACEBACK = "traceback"
    METADATA = "metadata"

    @property
    def is_json(self) -> bool:
        """Return whether the value is JSON text."""
        return self in (Field.INPUT, Field.OUTPUT, Field.METADATA)


_COLUMNS: dict[Field, Any] = {
    Field.INPUT: step_records.c.input_json,
    Field.OUTPUT: step_records.c.output_json,
    Field.ERROR: step_records.c.error_message,
    Field.TRACEBACK: step_records.c.error_traceback,
    Field.METADATA: runs.c.metadata_json,
}


@asked_again
def load_revealed(store: SqlCheckpointStore, run_id: str, field: Field, sequence: int | None) -> str | None:
    """Return a recorded value as it is, None when there is none; raise a `PayloadError` if it is locked."""
    with store.viewing() as conn:
        text = conn.execute(_query(run_id, field, sequence)).scalar()
        if text is None:
            return None
        if field is Field.INPUT and sequence is not None:
            return load_input_text(conn, store.codec, run_id, sequence, text)
    if field.is_json:
        return store.codec.unseal(text)
    opened = store.codec.decode_text(text)
    if isinstance(opened, LockedText):
        raise PayloadLockedError("its key is not here")
    return opened


def _query(run_id: str, field: Field, sequence: int | None) -> Select[Any]:
    if field is Field.METADATA:
        return select(runs.c.metadata_json).where(runs.c.run_id == run_id)
    return (
        select(_COLUMNS[field])
        .where(step_records.c.run_id == run_id, step_records.c.sequence == sequence)
        .order_by(step_records.c.legacy_duplicate)
        .limit(1)
    )

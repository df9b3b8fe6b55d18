"""Append a completed step with as little work as a database allows.

Nearly every write of a workflow is this one: a record that completed, and the counters of its run. It goes
straight to the driver with statements compiled once; every other change takes the general path of
`sql_store.commit`. Both write the same rows, which a test holds together.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.engine.interfaces import Dialect

from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.storage import rows
from resume_engine.storage.payload_codec import PayloadCodec
from resume_engine.storage.schema import UtcDateTime

_MOVED = (
    "updated_at",
    "version",
    "change_id",
    "steps_completed",
    "next_sequence",
    "resume_from_index",
    "in_flight_json",
    "takeovers",
)
_RECORDED = (
    "run_id",
    "step_name",
    "step_index",
    "input_json",
    "input_hash",
    "output_json",
    "status",
    "idempotency_key",
    "timestamp",
    "sequence",
    "kind",
    "attempt",
    "started_at",
    "duration_ms",
    "classified_by",
    "worker",
)
"""What a completed step fills; the columns of failures stay empty."""


def is_plain(change: RunChange, after: RunSummary) -> bool:
    """Return whether a change does nothing but append a completed step to a run that goes on."""
    before = change.before
    return (
        change.record is not None
        and change.record.is_completed
        and not (change.events or change.decisions)
        and change.initial_input is None
        and change.metadata is None
        and change.workflow is None
        and change.lease_seconds is not None
        and before.failure is None
        and after.failure is None
        and before.status is after.status
        and not after.blocked_by
        and before.cleared_by is after.cleared_by
        and before.retry_at is None
        and after.retry_at is None
        and before.lease_owner == after.lease_owner
        and before.lease_token == after.lease_token
        and before.steps_total == after.steps_total
        and before.finished_at is after.finished_at
    )


class PlainAppend:
    """Hold the statements of one dialect; `parameters` gives their values in order."""

    def __init__(self, dialect: Dialect, *, placeholder: str, lease_end: str) -> None:
        """Compile for a dialect; `lease_end` is the SQL for "so many seconds from now"."""
        self._convert = _date_converter(dialect)
        moved = ", ".join(
            [*(f"{name} = {placeholder}" for name in _MOVED), f"lease_expires_at = {lease_end}"]
        )
        self.update = f"UPDATE runs SET {moved} WHERE run_id = {placeholder} AND version = {placeholder}"
        columns = ", ".join(f'"{name}"' for name in _RECORDED)
        values = ", ".join(placeholder for _ in _RECORDED)
        self.insert = f"INSERT INTO step_records ({columns}) VALUES ({values})"
        # One statement, hence one round trip and one commit; it inserts nothing when the run moved on.
        self.both = (
            f"WITH moved AS ({self.update} RETURNING run_id) "
            f"INSERT INTO step_records ({columns}) SELECT {values} FROM moved"
        )

    def update_values(self, change: RunChange, after: RunSummary, lease_end: Any) -> list[Any]:
        """Return the values of `update`, in order; `lease_end` is what its placeholder stands for."""
        return [
            self._convert(after.updated_at),
            after.version,
            after.change_id,
            after.steps_completed,
            after.next_sequence,
            after.resume_from_index,
            rows.in_flight_text(after.in_flight),
            after.takeovers,
            lease_end,
            after.run_id,
            change.before.version,
        ]

    def moment(self, moment: datetime) -> Any:
        """Return a moment as the driver takes it."""
        return self._convert(moment)

    def insert_values(self, run_id: str, change: RunChange, codec: PayloadCodec) -> list[Any]:
        """Return the values of `insert`, in order."""
        record = change.record
        assert record is not None  # is_plain was asked before
        return [
            run_id,
            record.step_name,
            record.step_index,
            rows.input_column(record, codec),
            record.input_hash,
            rows.output_column(record, codec),
            record.status.value,
            record.idempotency_key,
            self._convert(record.timestamp),
            record.sequence,
            record.kind.value,
            record.attempt,
            self._convert(record.started_at),
            record.duration_ms,
            record.classified_by,
            record.worker,
        ]


def _date_converter(dialect: Dialect) -> Any:
    """Return the function that turns a moment into what SQLAlchemy would hand to the driver."""
    kind = UtcDateTime()
    process = kind.dialect_impl(dialect).bind_processor(dialect)

    def convert(moment: datetime | None) -> Any:
        if moment is None:
            return None
        return process(moment) if process is not None else moment

    return convert

"""Append a completed step with as little work as a database allows.

Nearly every write of a workflow is this one: a record that completed, and the counters of its run. It goes
straight to the driver with statements made once; every other change takes the general path of
`SqlCheckpointStore.commit`. Both write the same rows, which a test holds together.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from operator import itemgetter
from typing import Any

from resume_engine.core.clock import utc_text
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import StepKind, StepStatus
from resume_engine.storage import run_rows, step_rows
from resume_engine.storage.payload_codec import PayloadCodec

# Column -> the value of `values` it takes, or what it is counted to.
_MOVED = {
    "updated_at": "at",
    "change_id": "change_id",
    "resume_from_index": "resume_from_index",
    "in_flight_json": "in_flight",
    "lease_expires_at": "lease_end",
    "chain_seq": "chain_seq",
    "chain_head": "chain_head",
}
_COUNTED = ("version", "steps_completed", "next_sequence")
_RECORDED = {
    "run_id": "run_id",
    "step_name": "step_name",
    "step_index": "step_index",
    "input_json": "input",
    "input_hash": "input_hash",
    "output_json": "output",
    "idempotency_key": "key",
    "timestamp": "at",
    "sequence": "sequence",
    "attempt": "attempt",
    "started_at": "started_at",
    "duration_ms": "duration_ms",
    "worker": "worker",
    "chain_seq": "chain_seq",
    "chain_hash": "chain_head",
}
"""What a completed step fills; the columns of failures stay empty."""
_CONSTANT = {"status": StepStatus.COMPLETED.value, "kind": StepKind.STEP.value}
_FENCE = {"run_id": "run_id", "version": "version"}


def is_plain(change: RunChange, after: RunSummary) -> bool:
    """Return whether a change does nothing but append a completed step to a run that goes on."""
    before, record = change.before, change.record
    return (
        record is not None
        and record.status is StepStatus.COMPLETED
        and record.kind is StepKind.STEP
        and record.classified_by is None
        and not (change.events or change.decisions)
        and change.initial_input is None
        and change.metadata is None
        and change.workflow is None
        and change.lease_seconds is not None
        and record.timestamp == after.updated_at
        and record.sequence == before.next_sequence
        and after.next_sequence == before.next_sequence + 1
        and after.steps_completed == before.steps_completed + 1
        and before.failure is None
        and after.failure is None
        and before.status is after.status
        and not after.blocked_by
        and before.cleared_by is after.cleared_by
        and before.cleared_until is after.cleared_until
        and before.retry_at is None
        and after.retry_at is None
        and before.takeovers == after.takeovers
        and before.lease_owner == after.lease_owner
        and before.lease_token == after.lease_token
        and before.steps_total == after.steps_total
        and before.finished_at is after.finished_at
    )


Values = dict[str, Any]


def values(
    change: RunChange,
    after: RunSummary,
    codec: PayloadCodec,
    moment: Callable[[datetime], str],
) -> Values:
    """Return what the statements take, by name, all but `lease_end`: what that is differs."""
    record = change.record
    assert record is not None  # is_plain was asked before
    return {
        "run_id": after.run_id,
        "version": change.before.version,
        "at": moment(record.timestamp),
        "change_id": after.change_id,
        "resume_from_index": after.resume_from_index,
        "in_flight": run_rows.in_flight_text(after.in_flight),
        "step_name": record.step_name,
        "step_index": record.step_index,
        "input": step_rows.input_column(record, codec),
        "input_hash": record.input_hash,
        "output": step_rows.output_column(record, codec),
        "key": record.idempotency_key,
        "sequence": record.sequence,
        "attempt": record.attempt,
        "started_at": None if record.started_at is None else moment(record.started_at),
        "duration_ms": record.duration_ms,
        "worker": record.worker,
        "chain_seq": after.chain_seq,
        "chain_head": after.chain_head,  # the record is the last entry of its run's chain
    }


def sqlite_moment(moment: datetime) -> str:
    """Return a moment as the SQLite schema keeps it: UTC without a zone."""
    text = utc_text(moment)
    return f"{text[:10]} {text[11:26]}"


class TwoStatements:
    """An update and an insert, each with its values in order, for a driver that counts places."""

    def __init__(self) -> None:
        self.update = f"UPDATE runs SET {_assignments(_place)} WHERE {_fence(_place)}"
        self.update_values = itemgetter(*_MOVED.values(), *_FENCE.values())
        self.insert = _insert(_place, "VALUES ({})")
        self.insert_values = itemgetter(*_RECORDED.values())


class PreparedStatement:
    """Both in one statement, prepared once a connection: one round trip, one commit, and no planning.

    It inserts nothing when the run moved on.
    """

    name = "append_step"

    def __init__(self, *, lease_end: str) -> None:
        """Write it down; `lease_end` is the SQL for "so many milliseconds from now"."""
        order: list[str] = []

        def place(name: str, at: Callable[[str], str]) -> str:
            found = f"{at(name)}::bigint" if name in _NUMBERS else at(name)
            return lease_end.format(found) if name == "lease_end" else found

        def numbered(name: str) -> str:
            if name not in order:
                order.append(name)
            return f"${order.index(name) + 1}"

        both = _both(lambda name: place(name, numbered))
        self.prepare = f"PREPARE {self.name} AS {both}"
        self.execute = f"EXECUTE {self.name} ({', '.join(f'%({name})s' for name in order)})"
        self.unprepared = _both(lambda name: place(name, lambda given: f"%({given})s"))


_NUMBERS = frozenset(
    {
        "version",
        "resume_from_index",
        "lease_end",
        "step_index",
        "sequence",
        "attempt",
        "duration_ms",
        "chain_seq",
    }
)


def literals(given: Values, quote: Callable[[str], str]) -> Values:
    """Return values as SQL; `quote` writes every text that is not plain.

    To quote a value costs the driver more than to send it. Between two quotes nothing but a quote or a
    backslash means anything to PostgreSQL, so in UTF-8 a text without them stands for itself.
    """
    written: Values = {}
    for name, value in given.items():
        if value is None:
            written[name] = "NULL"
        elif name in _NUMBERS:
            written[name] = int(value)
        elif type(value) is not str or "'" in value or "\\" in value or "\0" in value:
            written[name] = quote(value)
        else:
            written[name] = f"'{value}'"
    return written


def _both(place: Callable[[str], str]) -> str:
    moved = f"UPDATE runs SET {_assignments(place)} WHERE {_fence(place)} RETURNING run_id"
    return f"WITH moved AS ({moved}) {_insert(place, 'SELECT {} FROM moved')}"


def _place(_: str) -> str:
    return "?"


def _assignments(place: Callable[[str], str]) -> str:
    moved = [f"{column} = {place(name)}" for column, name in _MOVED.items()]
    return ", ".join([*moved, *(f"{column} = {column} + 1" for column in _COUNTED)])


def _fence(place: Callable[[str], str]) -> str:
    return " AND ".join(f"{column} = {place(name)}" for column, name in _FENCE.items())


def _insert(place: Callable[[str], str], form: str) -> str:
    columns = ", ".join(f'"{name}"' for name in (*_RECORDED, *_CONSTANT))
    given = ", ".join(
        [*(place(name) for name in _RECORDED.values()), *(f"'{c}'" for c in _CONSTANT.values())]
    )
    return f"INSERT INTO step_records ({columns}) {form.format(given)}"

"""Rows of step records to records and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import case

from resume_engine.core.audit_chain import Link
from resume_engine.core.codec import loads_many
from resume_engine.core.step_record import FailureClassification, StepOutput, StepRecord, StepStatus
from resume_engine.storage import rows
from resume_engine.storage.derived_inputs import RunInputs, mark_of
from resume_engine.storage.payload_codec import PayloadCodec
from resume_engine.storage.schema import step_records

OUTPUT_COLUMNS = (
    step_records.c.sequence,
    step_records.c.legacy_duplicate,
    step_records.c.step_index,
    step_records.c.step_name,
    step_records.c.output_json,
    case((step_records.c.step_index == 0, step_records.c.input_json)).label("first_input"),
)


def outputs_from_rows(found: Sequence[rows.AnyRow], codec: PayloadCodec) -> Iterator[StepOutput]:
    """Yield what rows of `OUTPUT_COLUMNS` hold; a resume reads thousands of them."""
    texts = [row[4] or "{}" for row in found]
    texts = [
        text if text[0] == "{" else codec.unseal(text) for text in texts
    ]  # what is sealed begins otherwise
    outputs = loads_many(texts)
    for (_, _, index, name, _, first), output in zip(found, outputs, strict=True):
        yield StepOutput(index, name, output, None if first is None else codec.decode(first))


def step_values(run_id: str, record: StepRecord, codec: PayloadCodec) -> dict[str, Any]:
    """Return the columns of a step record."""
    failure = record.failure_classification
    return {
        "run_id": run_id,
        "step_name": record.step_name,
        "step_index": record.step_index,
        "input_json": input_column(record, codec),
        "input_hash": record.input_hash,
        "output_json": output_column(record, codec),
        "status": record.status.value,
        "idempotency_key": record.idempotency_key,
        "timestamp": record.timestamp,
        "failure_classification": failure.value if failure else None,
        "error_message": rows.encode_text(record.error_message, codec),
        "sequence": record.sequence,
        "kind": record.kind.value,
        "attempt": record.attempt,
        "started_at": record.started_at,
        "duration_ms": record.duration_ms,
        "error_type": record.error_type,
        "error_traceback": rows.encode_text(record.error_traceback, codec),
        "classified_by": record.classified_by,
        "worker": record.worker,
    }


def step_link_values(link: Link) -> dict[str, Any]:
    """Return the columns that place a step record in its run's chain; its index orders it there."""
    return {"chain_seq": link.seq, "chain_hash": link.hash}


def input_column(record: StepRecord, codec: PayloadCodec) -> str:
    """Return the input as stored, a mark in place of one that follows from the record."""
    mark = mark_of(record)
    if mark is not None:
        return mark
    written = record.input_text
    return codec.encode(record.input_data) if written is None else codec.seal(written)


def output_column(record: StepRecord, codec: PayloadCodec) -> str | None:
    """Return the output as stored, None for a step without one."""
    if record.output_data is None:
        return None
    written = record.output_text
    return codec.encode(record.output_data) if written is None else codec.seal(written)


def steps_from_rows(
    found: Iterable[rows.AnyRow], codec: PayloadCodec, inputs: RunInputs | None = None
) -> Iterator[StepRecord]:
    """Yield the records of a run by sequence from its first on, or behind those that `inputs` has seen."""
    inputs = RunInputs(codec) if inputs is None else inputs
    for row in found:
        given = inputs.before(row)
        record = step_from_row(row, codec, given)
        inputs.after(row, record.output_data)
        yield record


def step_from_row(row: rows.AnyRow, codec: PayloadCodec, given: dict[str, Any]) -> StepRecord:
    """Return the record held by a row of `step_records`; raise a `PayloadError` if it cannot be read.

    `given` is its input, which the row itself may not hold.
    """
    failure = row.failure_classification
    return StepRecord(
        step_name=row.step_name,
        step_index=row.step_index,
        input_data=given,
        input_hash=row.input_hash,
        output_data=None if row.output_json is None else codec.decode(row.output_json),
        status=StepStatus(row.status),
        idempotency_key=row.idempotency_key,
        timestamp=row.timestamp,
        failure_classification=FailureClassification(failure) if failure else None,
        error_message=rows.decode_text(row.error_message, codec),
        sequence=row.sequence,
        attempt=row.attempt,
        started_at=row.started_at,
        duration_ms=row.duration_ms,
        error_type=row.error_type,
        error_traceback=rows.decode_text(row.error_traceback, codec),
        classified_by=row.classified_by,
        worker=row.worker,
    )


def failure_from_row(row: rows.AnyRow, codec: PayloadCodec) -> StepRecord:
    """Return a failed record without its input, which what follows from a failure does not depend on."""
    return step_from_row(_WithoutInput(row), codec, {})


class _WithoutInput:
    output_json = None

    def __init__(self, row: rows.AnyRow) -> None:
        self._row = row

    def __getattr__(self, name: str) -> Any:
        return getattr(self._row, name)

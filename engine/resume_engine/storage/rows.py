"""Rows to records and back; rows never leave the storage package."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from datetime import datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any

from sqlalchemy import case

from resume_engine.core.audit import AuditEvent
from resume_engine.core.audit_chain import Link
from resume_engine.core.clock import utc_text
from resume_engine.core.codec import loads_many
from resume_engine.core.decision import Decision, DecisionKind
from resume_engine.core.payload import storable
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment, Run, RunStatus
from resume_engine.core.run_summary import Failure, RunSummary, StepInFlight
from resume_engine.core.step_record import FailureClassification, StepOutput, StepRecord, StepStatus
from resume_engine.storage.derived_inputs import RunInputs, mark_of
from resume_engine.storage.payload_codec import PLAIN, LockedText, PayloadCodec, shown_value
from resume_engine.storage.schema import runs, step_records

AnyRow = Any
"""A SQLAlchemy row; its generic type differs between the 2.0 and 2.1 series."""

# In the order in which `summary_from_row` reads them: first what a summary calls by the same name.
PLAIN_FIELDS = tuple(field.name for field in fields(RunSummary) if field.name in runs.c)
_FAILURE_FIELDS = tuple(field.name for field in fields(Failure))
_FAILURE = slice(len(PLAIN_FIELDS), len(PLAIN_FIELDS) + len(_FAILURE_FIELDS))
SUMMARY_COLUMNS = [
    *(runs.c[name] for name in PLAIN_FIELDS),
    *(runs.c[name if name == "failed_at" else f"failure_{name}"] for name in _FAILURE_FIELDS),
    runs.c.in_flight_json,
]
_STATUSES = {status.value: status for status in RunStatus}
_CLASSES = {failure.value: failure for failure in FailureClassification}
_ENVIRONMENTS = {environment.value: environment for environment in Environment}


# Kinds of events that never hold data of a run's payloads.
PLAIN_EVENTS = ("access.", "audit.", "auth.", "key.", "payload.", "user.")


def summary_from_row(row: AnyRow, codec: PayloadCodec = PLAIN, *, lease_live: bool = False) -> RunSummary:
    """Return the summary held by a row that begins with `SUMMARY_COLUMNS`; a list reads fifty of them."""
    values: dict[str, Any] = dict(zip(PLAIN_FIELDS, row, strict=False))
    values["status"] = _STATUSES[values["status"]]
    values["environment"] = _ENVIRONMENTS[values["environment"]]
    values["blocked_by"] = _split_actions(values["blocked_by"])
    values["failure"] = _failure(row[_FAILURE], codec)
    values["in_flight"] = _in_flight_from_text(row.in_flight_json)
    values["lease_live"] = lease_live
    return RunSummary.of(values)


def _failure(found: Sequence[Any], codec: PayloadCodec) -> Failure | None:
    values = dict(zip(_FAILURE_FIELDS, found, strict=True))
    if values["sequence"] is None:
        return None
    values["classification"] = _CLASSES[values["classification"]]
    values["message"] = codec.decode_text(values["message"] or "")
    return Failure(**values)


def _in_flight_from_text(text: str | None) -> tuple[StepInFlight, ...]:
    if not text:
        return ()
    return tuple(
        StepInFlight(
            step_index=index,
            step_name=name,
            idempotency_key=key,
            attempt=attempt,
            since=datetime.fromisoformat(since),
            asked=bool(asked),
        )
        for index, name, key, attempt, since, *asked in json.loads(text)
    )


def in_flight_text(steps: tuple[StepInFlight, ...]) -> str | None:
    """Return the column text for the steps in flight, None when there are none."""
    if not steps:
        return None
    quoted = encode_basestring_ascii
    written = [
        f"[{s.step_index}, {quoted(s.step_name)}, {quoted(s.idempotency_key)}, {s.attempt}, "
        f'"{utc_text(s.since)}"{", true" if s.asked else ""}]'
        for s in steps
    ]
    return f"[{', '.join(written)}]"


@lru_cache
def _split_actions(text: str | None) -> tuple[GateAction, ...]:
    return tuple(GateAction(word) for word in text.split("+")) if text else ()


def join_actions(actions: tuple[GateAction, ...]) -> str | None:
    """Return the column text for closed gates: their names joined by `+`, None when all are open."""
    return "+".join(actions) or None


def summary_values(run: RunSummary, codec: PayloadCodec) -> dict[str, Any]:
    """Return the columns that a change of a run may touch."""
    failure = run.failure
    return {
        "status": run.status.value,
        "updated_at": run.updated_at,
        "version": run.version,
        "change_id": run.change_id,
        "finished_at": run.finished_at,
        "initial_input_hash": run.initial_input_hash,
        "steps_completed": run.steps_completed,
        "steps_total": run.steps_total,
        "next_sequence": run.next_sequence,
        "resume_from_index": run.resume_from_index,
        "failure_step_index": failure.step_index if failure else None,
        "failure_step_name": failure.step_name if failure else None,
        "failure_sequence": failure.sequence if failure else None,
        "failure_classification": failure.classification.value if failure else None,
        "failure_error_type": failure.error_type if failure else None,
        "failure_message": codec.encode_text(failure.message) if failure else None,
        "failed_at": failure.failed_at if failure else None,
        "failure_attempts": failure.attempts if failure else 0,
        "blocked_by": join_actions(run.blocked_by),
        "blocked_since": run.blocked_since,
        "cleared_by": run.cleared_by,
        "cleared_at": run.cleared_at,
        "cleared_until": run.cleared_until,
        "lease_owner": run.lease_owner,
        "lease_token": run.lease_token,
        "lease_expires_at": run.lease_expires_at,
        "failure_lease_token": failure.lease_token if failure else None,
        "in_flight_json": in_flight_text(run.in_flight),
        "retry_at": run.retry_at,
        "takeovers": run.takeovers,
        "workflow_hash": run.workflow_hash,
        "chain_seq": run.chain_seq,
        "chain_head": run.chain_head,
    }


def run_values(run: Run, started_by: str, codec: PayloadCodec) -> dict[str, Any]:
    """Return the columns of a new run."""
    return {
        "run_id": run.run_id,
        "workflow_name": run.workflow_name,
        "status": run.status.value,
        "created_at": run.created_at,
        "updated_at": run.updated_at,
        "metadata_json": encode_metadata(run.metadata, codec),
        "environment": run.environment.value,
        "started_by": storable(started_by)[:255],
    }


def encode_metadata(metadata: dict[str, Any], codec: PayloadCodec) -> str:
    """Return metadata as stored, without the view of the decisions."""
    return codec.encode({name: value for name, value in metadata.items() if name != "gates"})


def run_from_row(
    summary: RunSummary, metadata: dict[str, Any], steps: list[StepRecord] | Callable[[], list[StepRecord]]
) -> Run:
    """Return the whole run, its records loaded when they are asked for if `steps` says how."""
    fields: dict[str, Any] = {
        "run_id": summary.run_id,
        "workflow_name": summary.workflow_name,
        "status": summary.status,
        "created_at": summary.created_at,
        "updated_at": summary.updated_at,
        "metadata": metadata,
        "environment": summary.environment,
    }
    return Run.with_steps_later(steps, **fields) if callable(steps) else Run(steps=steps, **fields)


OUTPUT_COLUMNS = (
    step_records.c.sequence,
    step_records.c.legacy_duplicate,
    step_records.c.step_index,
    step_records.c.step_name,
    step_records.c.output_json,
    case((step_records.c.step_index == 0, step_records.c.input_json)).label("first_input"),
)


def outputs_from_rows(found: Sequence[AnyRow], codec: PayloadCodec) -> Iterator[StepOutput]:
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
        "error_message": _encode_text(record.error_message, codec),
        "sequence": record.sequence,
        "kind": record.kind.value,
        "attempt": record.attempt,
        "started_at": record.started_at,
        "duration_ms": record.duration_ms,
        "error_type": record.error_type,
        "error_traceback": _encode_text(record.error_traceback, codec),
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


def _encode_text(text: str | None, codec: PayloadCodec) -> str | None:
    if text is None:
        return None
    return codec.encode_text(text if isinstance(text, LockedText) else storable(text))


def _decode_text(text: str | None, codec: PayloadCodec) -> str | None:
    return None if text is None else codec.decode_text(text)


def steps_from_rows(
    found: Iterable[AnyRow], codec: PayloadCodec, inputs: RunInputs | None = None
) -> Iterator[StepRecord]:
    """Yield the records of a run by sequence from its first on, or behind those that `inputs` has seen."""
    inputs = RunInputs(codec) if inputs is None else inputs
    for row in found:
        given = inputs.before(row)
        record = step_from_row(row, codec, given)
        inputs.after(row, record.output_data)
        yield record


def step_from_row(row: AnyRow, codec: PayloadCodec, given: dict[str, Any]) -> StepRecord:
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
        error_message=_decode_text(row.error_message, codec),
        sequence=row.sequence,
        attempt=row.attempt,
        started_at=row.started_at,
        duration_ms=row.duration_ms,
        error_type=row.error_type,
        error_traceback=_decode_text(row.error_traceback, codec),
        classified_by=row.classified_by,
        worker=row.worker,
    )


def failure_from_row(row: AnyRow, codec: PayloadCodec) -> StepRecord:
    """Return a failed record without its input, which what follows from a failure does not depend on."""
    return step_from_row(_WithoutInput(row), codec, {})


class _WithoutInput:
    output_json = None

    def __init__(self, row: AnyRow) -> None:
        self._row = row

    def __getattr__(self, name: str) -> Any:
        return getattr(self._row, name)


def decision_values(decision: Decision, codec: PayloadCodec) -> dict[str, Any]:
    """Return the columns of a decision."""
    return {
        "run_id": decision.run_id,
        "failure_key": decision.failure_key,
        "kind": decision.kind.value,
        "actor": decision.actor,
        "role": decision.role,
        "channel": decision.channel,
        "note": _encode_text(decision.note, codec),
        "result_json": None if decision.result is None else codec.encode(decision.result),
        "step_sequence": decision.step_sequence,
        "decided_at": decision.decided_at,
        "ordinal": decision.ordinal,
        "opened": int(decision.opened),
        "expires_at": decision.expires_at,
        "display_name": decision.display_name,
    }


def decision_from_row(row: AnyRow, codec: PayloadCodec = PLAIN) -> Decision:
    """Return the decision held by a row."""
    return Decision(
        run_id=row.run_id,
        failure_key=row.failure_key,
        kind=DecisionKind(row.kind),
        actor=row.actor,
        role=row.role,
        channel=row.channel,
        decided_at=row.decided_at,
        note=_decode_text(row.note, codec),
        result=None if row.result_json is None else shown_value(codec, row.result_json),
        step_sequence=row.step_sequence,
        decision_id=row.decision_id,
        ordinal=row.ordinal,
        opened=bool(row.opened),
        expires_at=row.expires_at,
        display_name=row.display_name,
    )


def event_values(event: AuditEvent, codec: PayloadCodec = PLAIN) -> dict[str, Any]:
    """Return the columns of an audit event; what concerns accounts and access is never sealed."""
    if str(event.event_type).startswith(PLAIN_EVENTS):
        codec = PLAIN
    return {
        "event_type": event.event_type,
        "run_id": event.run_id,
        "actor": storable(event.actor)[:255],
        "role": event.role,
        "channel": event.channel,
        "failure_key": event.failure_key,
        "note": _encode_text(event.note, codec),
        "payload_json": codec.encode(event.payload),
        "created_at": event.created_at,
    }


def event_link_values(stream: str, link: Link) -> dict[str, Any]:
    """Return the columns that place an audit event in a chain."""
    return {
        "stream": stream,
        "chain_seq": link.seq,
        "prev_hash": link.prev_hash,
        "chain_hash": link.hash,
    }


def event_from_row(row: AnyRow, codec: PayloadCodec = PLAIN) -> AuditEvent:
    """Return the audit event held by a row."""
    return AuditEvent(
        event_type=row.event_type,
        actor=row.actor,
        role=row.role,
        channel=row.channel,
        created_at=row.created_at,
        run_id=row.run_id,
        failure_key=row.failure_key,
        note=_decode_text(row.note, codec),
        payload=shown_value(codec, row.payload_json),
        event_id=row.event_id,
    )

"""Rows of runs to summaries and runs, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any

from resume_engine.core.clock import utc_text
from resume_engine.core.payload import storable
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment, Run, RunStatus
from resume_engine.core.run_summary import Failure, RunSummary, StepInFlight
from resume_engine.core.step_record import FailureClassification, StepRecord
from resume_engine.storage import rows
from resume_engine.storage.payload_codec import PLAIN, PayloadCodec
from resume_engine.storage.schema import runs

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
CLASSES = {failure.value: failure for failure in FailureClassification}
ENVIRONMENTS = {environment.value: environment for environment in Environment}


def summary_from_row(
    row: rows.AnyRow, codec: PayloadCodec = PLAIN, *, lease_live: bool = False
) -> RunSummary:
    """Return the summary held by a row that begins with `SUMMARY_COLUMNS`; a list reads fifty of them."""
    values: dict[str, Any] = dict(zip(PLAIN_FIELDS, row, strict=False))
    values["status"] = _STATUSES[values["status"]]
    values["environment"] = ENVIRONMENTS[values["environment"]]
    values["blocked_by"] = _split_actions(values["blocked_by"])
    values["failure"] = _failure(row[_FAILURE], codec)
    values["in_flight"] = _in_flight_from_text(row.in_flight_json)
    values["lease_live"] = lease_live
    return RunSummary.of(values)


def _failure(found: Sequence[Any], codec: PayloadCodec) -> Failure | None:
    values = dict(zip(_FAILURE_FIELDS, found, strict=True))
    if values["sequence"] is None:
        return None
    values["classification"] = CLASSES[values["classification"]]
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

"""Carry rows written by 0.2.0 over: counters, failures, gates and decisions.

0.2.0 kept decisions inside `metadata_json["gates"]`; they become rows. Its prod acknowledgement named no
failure event: it is kept as a decision about the failure that was the latest when it was given, so it
opens no later one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from resume_engine.core.actor import Channel
from resume_engine.core.clock import as_utc
from resume_engine.core.decision import Decision, DecisionKind
from resume_engine.core.decision_request import ACTOR_MAX_CHARACTERS, FAILURE_KEY_MAX_CHARACTERS
from resume_engine.core.payload import storable
from resume_engine.core.permissions import Role
from resume_engine.core.resume_gates import GateAction, required_actions
from resume_engine.core.run import Environment, RunStatus
from resume_engine.core.step_record import (
    COMPENSATION_PREFIX,
    COMPLETED_STATUSES,
    FailureClassification,
    StepStatus,
)
from resume_engine.storage import audit_rows, run_rows
from resume_engine.storage.payload_codec import PLAIN
from resume_engine.storage.schema import decisions, runs, step_records

_STEP_COLUMNS = (
    step_records.c.id,
    step_records.c.step_name,
    step_records.c.step_index,
    step_records.c.status,
    step_records.c.idempotency_key,
    step_records.c.timestamp,
    step_records.c.failure_classification,
    step_records.c.error_message,
    step_records.c.sequence,
)
_RUNS_PER_FETCH = 500
UNKEYED = "none"
"""Failure key of an acknowledgement given before anything had failed: it is kept, and opens nothing."""


def carry_over(conn: Connection) -> None:
    """Fill the new columns and the decisions table from what 0.2.0 wrote."""
    is_compensation = step_records.c.step_name.startswith(COMPENSATION_PREFIX, autoescape=True)
    conn.execute(update(step_records).where(is_compensation).values(kind="compensation"))
    completed_keys: set[str] = set()
    for run in _all_runs(conn):
        steps = conn.execute(
            select(*_STEP_COLUMNS)
            .where(step_records.c.run_id == run.run_id)
            .order_by(step_records.c.sequence, step_records.c.id)
        ).all()
        _mark_duplicates(conn, steps, completed_keys)
        _carry_run(conn, run, steps)


def _all_runs(conn: Connection) -> Iterator[Any]:
    # Original runs come before the replays that copied their records, so that the copies are the duplicates.
    columns = (runs.c.run_id, runs.c.status, runs.c.metadata_json, runs.c.created_at, runs.c.updated_at)
    ids = conn.execute(select(runs.c.run_id).order_by(runs.c.created_at, runs.c.run_id)).scalars().all()
    for start in range(0, len(ids), _RUNS_PER_FETCH):
        part = ids[start : start + _RUNS_PER_FETCH]
        found = {row.run_id: row for row in conn.execute(select(*columns).where(runs.c.run_id.in_(part)))}
        yield from (found[run_id] for run_id in part)


def _mark_duplicates(conn: Connection, steps: Any, completed_keys: set[str]) -> None:
    sequences: set[int] = set()
    duplicates = []
    for step in steps:
        completed = step.status in COMPLETED_STATUSES
        # Of equal sequences all but the first are marked, so that the order of the trace stays that of 0.2.0.
        if step.sequence in sequences or (completed and step.idempotency_key in completed_keys):
            duplicates.append(step.id)
        elif completed:
            completed_keys.add(step.idempotency_key)
        sequences.add(step.sequence)
    if duplicates:
        conn.execute(
            update(step_records)
            .where(step_records.c.id.in_(duplicates))
            .values(legacy_duplicate=step_records.c.id)
        )


def _carry_run(conn: Connection, run: Any, steps: Any) -> None:
    metadata = _object(json.loads(run.metadata_json or "{}"))
    gates = _object(metadata.get("gates"))
    environment = _environment(metadata)
    own = [s for s in steps if not s.step_name.startswith(COMPENSATION_PREFIX)]
    done = {s.step_index for s in own if s.status in COMPLETED_STATUSES}
    values: dict[str, Any] = {
        "environment": environment.value,
        "steps_completed": len(done),
        "resume_from_index": next(i for i in range(len(done) + 1) if i not in done),
        "next_sequence": max((s.sequence for s in steps), default=-1) + 1,
        "finished_at": run.updated_at if run.status == RunStatus.COMPLETED else None,
    }
    failed = _open_failure(own) if run.status in (RunStatus.FAILED, RunStatus.PAUSED) else None
    carried = list(_decisions(run, gates, own))
    if failed is not None:
        values |= _failure_values(failed, own, environment, {(d.failure_key, d.kind) for d in carried})
    conn.execute(update(runs).where(runs.c.run_id == run.run_id).values(values))
    for decision in carried:
        conn.execute(insert(decisions), audit_rows.decision_values(decision, PLAIN))


def _environment(metadata: dict[str, Any]) -> Environment:
    try:
        return Environment(metadata.get("environment") or Environment.DEV)
    except ValueError:
        return Environment.PROD  # an unknown environment is treated with the greatest care


def _open_failure(own: list[Any]) -> Any:
    failed = [s for s in own if s.status == StepStatus.FAILED]
    if not failed:
        return None
    last = max(failed, key=lambda s: s.sequence)
    mended = any(
        s.step_index == last.step_index and s.sequence > last.sequence and s.status in COMPLETED_STATUSES
        for s in own
    )
    return None if mended else last


def _failure_values(
    failed: Any, own: list[Any], environment: Environment, decided: set[tuple[str, DecisionKind]]
) -> dict[str, Any]:
    classification = FailureClassification(failed.failure_classification or FailureClassification.PERMANENT)
    key = f"{failed.step_index}:{failed.sequence}"
    left: tuple[GateAction, ...] = tuple(
        a
        for a in required_actions(classification, environment)
        if (key, DecisionKind(a.value)) not in decided
    )
    attempts = sum(1 for s in own if s.step_index == failed.step_index and s.status == StepStatus.FAILED)
    return {
        "failure_step_index": failed.step_index,
        "failure_step_name": failed.step_name,
        "failure_sequence": failed.sequence,
        "failure_classification": classification.value,
        "failure_message": failed.error_message,
        "failed_at": failed.timestamp,
        "failure_attempts": attempts,
        "blocked_by": run_rows.join_actions(left),
        "blocked_since": failed.timestamp if left else None,
    }


def _decisions(run: Any, gates: dict[str, Any], own: list[Any]) -> Iterator[Decision]:
    single = _object(gates.get("human_approval"))
    approvals = _entries(gates.get("approvals"))
    if single.get("granted") and single.get("failure_key"):
        approvals.setdefault(str(single["failure_key"]), single)
    for key, entry in approvals.items():
        yield _decision(run, key, DecisionKind.HUMAN_APPROVAL, entry, "approved_by", "approved_at")
    for key, entry in _entries(gates.get("compensations")).items():
        yield _decision(run, key, DecisionKind.COMPENSATION, entry, "recorded_by", "completed_at")
    ack = _object(gates.get("prod_resume_ack"))
    if ack.get("granted"):
        given = _moment(ack.get("acknowledged_at"), run.updated_at)
        key = str(ack.get("failure_key") or _latest_failure_key(own, given) or UNKEYED)
        kind = DecisionKind.PROD_RESUME_ACK
        yield _decision(run, key, kind, ack, "acknowledged_by", "acknowledged_at")


def _entries(value: object) -> dict[str, dict[str, Any]]:
    """Return decisions by failure key; whatever is not one is left where it is, in the metadata."""
    return {str(key): entry for key, entry in _object(value).items() if isinstance(entry, dict)}


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _latest_failure_key(own: list[Any], at: datetime) -> str | None:
    earlier = [s for s in own if s.status == StepStatus.FAILED and s.timestamp <= at]
    last = max(earlier, key=lambda s: s.sequence, default=None)
    return f"{last.step_index}:{last.sequence}" if last is not None else None


def _decision(run: Any, key: str, kind: DecisionKind, entry: dict[str, Any], by: str, at: str) -> Decision:
    result = entry.get("result") or entry.get("output")
    sequence = entry.get("step_sequence")
    return Decision(
        run_id=run.run_id,
        failure_key=storable(key)[:FAILURE_KEY_MAX_CHARACTERS],
        kind=kind,
        actor=storable(str(entry.get(by) or "recorded by 0.2.0"))[:ACTOR_MAX_CHARACTERS],
        role=Role.OPERATOR.value,
        channel=Channel.LIBRARY.value,
        decided_at=_moment(entry.get(at), run.updated_at),
        note=storable(str(entry["note"])) if entry.get("note") is not None else None,
        result=result if isinstance(result, dict) else None,
        step_sequence=sequence if isinstance(sequence, int) else None,
    )


def _moment(text: object, otherwise: datetime) -> datetime:
    try:
        return as_utc(datetime.fromisoformat(str(text)))
    except ValueError:
        return otherwise

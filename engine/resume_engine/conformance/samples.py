"""Records, decisions and changes as the engine would make them, for tests that speak to a store directly."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from resume_engine.core.actor import ENGINE_ACTOR, Actor, Channel
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.decisions import Decision, DecisionKind
from resume_engine.core.idempotency import generate_idempotency_key, hash_input
from resume_engine.core.permissions import Role
from resume_engine.core.run import Run, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary, after_step
from resume_engine.core.step_record import FailureClassification, StepRecord, StepStatus
from resume_engine.core.store import CheckpointStore

OLGA = Actor(name="olga@example.com", role=Role.OPERATOR, channel=Channel.DASHBOARD)
"""The operator who decides when a test does not say who."""
NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def new_run(store: CheckpointStore, run_id: str = "run-1", **fields: Any) -> RunSummary:
    """Write a running run and return its row."""
    store.create_run(
        Run(
            run_id=run_id,
            workflow_name=fields.pop("workflow_name", "billing"),
            status=fields.pop("status", RunStatus.RUNNING),
            **fields,
        )
    )
    return summary(store, run_id)


def summary(store: CheckpointStore, run_id: str = "run-1") -> RunSummary:
    """Return the row of a run that exists."""
    found = store.load_summary(run_id)
    assert found is not None
    return found


def completed(
    sequence: int = 0,
    *,
    index: int | None = None,
    name: str | None = None,
    run_id: str = "run-1",
    input_data: dict[str, Any] | None = None,
    output: dict[str, Any] | None = None,
    **fields: Any,
) -> StepRecord:
    """Return the record of an attempt that completed; step index and name follow the sequence."""
    index = sequence if index is None else index
    name = name or f"step_{index}"
    data = {"n": index} if input_data is None else input_data
    input_hash = hash_input(data)
    made = StepRecord(
        step_name=name,
        step_index=index,
        input_data=data,
        input_hash=input_hash,
        output_data={"out": index} if output is None else output,
        status=StepStatus.COMPLETED,
        idempotency_key=generate_idempotency_key(run_id, name, index, input_hash),
        timestamp=NOON,
        sequence=sequence,
    )
    return replace(made, **fields)


def failed(
    sequence: int = 0,
    classification: FailureClassification = FailureClassification.PERMANENT,
    **fields: Any,
) -> StepRecord:
    """Return the record of an attempt that failed."""
    message = fields.pop("error_message", "invalid API key")
    return replace(
        completed(sequence, **fields),
        status=StepStatus.FAILED,
        output_data=None,
        failure_classification=classification,
        error_message=message,
        error_type="PermanentStepError",
    )


def change(run: RunSummary, record: StepRecord, **fields: Any) -> RunChange:
    """Return the change that appends `record`."""
    return RunChange(before=run, after=after_step(run, record), record=record, **fields)


def decision(run_id: str = "run-1", failure_key: str = "0:0", **fields: Any) -> Decision:
    """Return an approval by Olga."""
    made = Decision(
        run_id=run_id,
        failure_key=failure_key,
        kind=DecisionKind.HUMAN_APPROVAL,
        actor="olga@example.com",
        role="operator",
        channel="library",
        decided_at=NOON,
    )
    return replace(made, **fields)


def event(run_id: str | None = "run-1", **fields: Any) -> AuditEvent:
    """Return an audit event of the engine."""
    made = AuditEvent.by(ENGINE_ACTOR, EventType.RUN_UPDATED, NOON, run_id=run_id)
    return replace(made, **fields)


def passing(value: dict[str, Any]) -> Any:
    """Return a step function whose output is `value`."""
    return lambda _input, _key: dict(value)


def failing(error: Exception) -> Any:
    """Return a step function that raises `error`."""

    def fail(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        raise error

    return fail

"""One attempt of one step, as it is recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from resume_engine.core.clock import as_utc, utc_now
from resume_engine.core.codec import as_json, from_json
from resume_engine.core.idempotency import canonical_json

COMPENSATION_PREFIX = "__compensate__"
"""Records of compensations carry the failed step's name behind this prefix, as 0.2.0 wrote them."""


class StepStatus(StrEnum):
    """Lifecycle of one step attempt."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED_REPLAY = "skipped_replay"  # 0.2.0: output taken from an earlier record


COMPLETED_STATUSES = frozenset({StepStatus.COMPLETED, StepStatus.SKIPPED_REPLAY})


class FailureClassification(StrEnum):
    """What a failure asks for before the step may run again."""

    TRANSIENT = "transient"  # nothing: retry
    PERMANENT = "permanent"  # a human approval
    PARTIAL = "partial"  # a compensation: side effects happened


class StepKind(StrEnum):
    """Whether a record belongs to the workflow or undoes a part of it."""

    STEP = "step"
    COMPENSATION = "compensation"


def kind_of(step_name: str) -> StepKind:
    """Return whether a record of this name belongs to the workflow or is a compensation."""
    return StepKind.COMPENSATION if step_name.startswith(COMPENSATION_PREFIX) else StepKind.STEP


class StepOutput(NamedTuple):
    """What a completed step of a workflow leaves to those behind it; of step 0 also what it was given."""

    step_index: int
    step_name: str
    output_data: dict[str, Any]
    first_input: dict[str, Any] | None


@dataclass(kw_only=False)
class StepRecord:
    """Hold what one attempt was given, what came of it and when.

    `duration_ms` is wall time of the step function in milliseconds; `attempt` counts from 1
    for one step index. `input_data` and `output_data` are what JSON holds of them.
    """

    step_name: str
    step_index: int
    input_data: dict[str, Any]
    input_hash: str
    output_data: dict[str, Any] | None
    status: StepStatus
    idempotency_key: str
    timestamp: datetime = field(default_factory=utc_now)
    failure_classification: FailureClassification | None = None
    error_message: str | None = None
    sequence: int = 0
    attempt: int = 1
    started_at: datetime | None = None
    duration_ms: int | None = None
    error_type: str | None = None
    error_traceback: str | None = None
    classified_by: str | None = None
    worker: str | None = None
    # What `payload.encode` wrote of the payloads, when the engine has it already: saves writing it again.
    input_text: str | None = field(default=None, repr=False, compare=False)
    output_text: str | None = field(default=None, repr=False, compare=False)
    # Sequence of the completed record whose input, merged with the outputs from there on, is this one's: then
    # a store that keeps that one need not keep this one too.
    follows_from: int | None = field(default=None, repr=False, compare=False)
    # Whether its step asks for a person when it is interrupted; kept with the intent, not with the record.
    asks_if_interrupted: bool = field(default=False, repr=False, compare=False)

    @property
    def kind(self) -> StepKind:
        """Return whether this is a workflow step or a compensation."""
        return kind_of(self.step_name)

    @property
    def is_completed(self) -> bool:
        """Return whether the attempt ended with a recorded output."""
        return self.status in COMPLETED_STATUSES

    @property
    def is_failed(self) -> bool:
        """Return whether the attempt ended with a failure."""
        return self.status is StepStatus.FAILED

    @property
    def failure_key(self) -> str:
        """Return the key of this failure event, `step_index:sequence`."""
        return f"{self.step_index}:{self.sequence}"

    def to_dict(self) -> dict[str, Any]:
        """Return the record in 0.2.0's JSON shape; later fields are added behind."""
        failure = self.failure_classification
        return {
            "step_name": self.step_name,
            "step_index": self.step_index,
            "input_data": as_json(self.input_data),
            "input_hash": self.input_hash,
            "output_data": as_json(self.output_data),
            "status": self.status.value,
            "idempotency_key": self.idempotency_key,
            "timestamp": self.timestamp.isoformat(),
            "failure_classification": failure.value if failure else None,
            "error_message": self.error_message,
            "sequence": self.sequence,
            "attempt": self.attempt,
            "started_at": self.started_at.isoformat() if self.started_at else None,
            "duration_ms": self.duration_ms,
            "error_type": self.error_type,
            "classified_by": self.classified_by,
            "worker": self.worker,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> StepRecord:
        """Read a record written by `to_dict` of this or of the 0.2.0 release."""
        failure = data.get("failure_classification")
        started_at = data.get("started_at")
        return cls(
            step_name=data["step_name"],
            step_index=data["step_index"],
            input_data=from_json(data["input_data"]),
            input_hash=data["input_hash"],
            output_data=from_json(data.get("output_data")),
            status=StepStatus(data["status"]),
            idempotency_key=data["idempotency_key"],
            timestamp=as_utc(datetime.fromisoformat(data["timestamp"])),
            failure_classification=FailureClassification(failure) if failure else None,
            error_message=data.get("error_message"),
            sequence=data.get("sequence", 0),
            attempt=data.get("attempt", 1),
            started_at=as_utc(datetime.fromisoformat(started_at)) if started_at else None,
            duration_ms=data.get("duration_ms"),
            error_type=data.get("error_type"),
            classified_by=data.get("classified_by"),
            worker=data.get("worker"),
        )

    def audit_line(self) -> str:
        """Return the record's line of the audit trace: canonical JSON of seven fields, no clock.

        What JSON lacks stands there as it is stored: its text might differ between processes.
        """
        return canonical_json(
            {
                "idempotency_key": self.idempotency_key,
                "input_hash": self.input_hash,
                "output_data": as_json(self.output_data),
                "sequence": self.sequence,
                "status": self.status.value,
                "step_index": self.step_index,
                "step_name": self.step_name,
            }
        )

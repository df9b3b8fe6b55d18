"""A run without its steps: what lists, gates and the worker need, kept on the run row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from resume_engine.core.payload import storable
from resume_engine.core.resume_gates import GateAction, ResumeBlocker, blockers_for, required_actions
from resume_engine.core.run import Environment, RunStatus
from resume_engine.core.step_record import FailureClassification, StepKind, StepRecord


class RunState(StrEnum):
    """What people are shown; one meaning in tile, filter and list."""

    PENDING = "pending"  # not started
    RUNNING = "running"  # an executor is working on it, or it is driven step by step
    COMPLETED = "completed"
    FAILED = "failed"  # failed, no gate closed: a runner may retry it
    BLOCKED = "blocked"  # a gate is closed: a person is needed
    CLEARED = "cleared"  # decided, waiting for a runner
    INTERRUPTED = "interrupted"  # its executor vanished: outcome of the last step unknown
    CANCELLED = "cancelled"  # rejected, for good


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The current failure event of a run."""

    step_index: int
    step_name: str
    sequence: int
    classification: FailureClassification
    error_type: str | None
    message: str
    failed_at: datetime
    attempts: int  # failures of this step in a row

    @property
    def key(self) -> str:
        """Return the failure key, `step_index:sequence`."""
        return f"{self.step_index}:{self.sequence}"


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """Hold one run row; times are aware UTC."""

    run_id: str
    workflow_name: str
    status: RunStatus
    environment: Environment
    created_at: datetime
    updated_at: datetime
    steps_completed: int = 0
    steps_total: int | None = None
    next_sequence: int = 0
    resume_from_index: int = 0
    failure: Failure | None = None
    blocked_by: tuple[GateAction, ...] = ()
    blocked_since: datetime | None = None
    cleared_by: str | None = None
    cleared_at: datetime | None = None
    lease_owner: str | None = None
    lease_token: int = 0
    lease_expires_at: datetime | None = None
    finished_at: datetime | None = None
    started_by: str | None = None
    initial_input_hash: str | None = None
    version: int = 0  # grows with every change; a write based on an older version is refused

    def state(self, now: datetime) -> RunState:
        """Return the state shown to people at the moment `now`."""
        if self.blocked_by:
            return RunState.BLOCKED
        if self.status is RunStatus.PAUSED:
            return RunState.CLEARED
        if self.status is RunStatus.RUNNING and self.lease_expires_at and self.lease_expires_at < now:
            return RunState.INTERRUPTED
        return RunState(self.status.value)


def after_step(run: RunSummary, record: StepRecord) -> RunSummary:
    """Return the run row as it stands once `record` is appended; a pure function.

    A failure sets the failure and closes the gates it needs; a completed step moves the counters and
    forgets the failure it mends; a compensation does neither. A step that ends beside a failure of
    another step (parallel branches) leaves that failure standing while its gates are closed.
    """
    moved = replace(run, next_sequence=record.sequence + 1, updated_at=record.timestamp)
    if record.kind is StepKind.COMPENSATION:
        return moved
    if record.is_completed:
        return _after_completion(run, moved, record)
    return _after_failure(run, moved, record) if record.is_failed else moved


def cleared(run: RunSummary) -> RunSummary:
    """Return `run` without failure, gates and decisions."""
    return replace(run, failure=None, blocked_by=(), blocked_since=None, cleared_by=None, cleared_at=None)


def blockers_of(run: RunSummary) -> list[ResumeBlocker]:
    """Return the decisions that are missing before `run` may go on."""
    if run.failure is None:
        return []
    return blockers_for(
        step_index=run.failure.step_index,
        step_name=run.failure.step_name,
        key=run.failure.key,
        classification=run.failure.classification,
        message=run.failure.message or f"{run.failure.classification} failure",
        actions=run.blocked_by,
    )


def _after_completion(run: RunSummary, moved: RunSummary, record: StepRecord) -> RunSummary:
    index = run.resume_from_index
    counted = replace(
        moved,
        steps_completed=run.steps_completed + 1,
        resume_from_index=index + 1 if record.step_index == index else index,
    )
    if run.failure is not None and run.failure.step_index != record.step_index:
        return counted
    return replace(cleared(counted), status=RunStatus.RUNNING)


def _after_failure(run: RunSummary, moved: RunSummary, record: StepRecord) -> RunSummary:
    same_step = run.failure is not None and run.failure.step_index == record.step_index
    if run.blocked_by and not same_step:
        return moved  # a closed gate stays closed, whatever a branch beside it does
    earlier = run.failure.attempts if run.failure is not None and same_step else 0
    failure = failure_of(record, attempts=earlier + 1)
    actions = required_actions(failure.classification, run.environment)
    return replace(
        moved,
        status=RunStatus.FAILED,
        failure=failure,
        blocked_by=actions,
        blocked_since=record.timestamp if actions else None,
        cleared_by=None,
        cleared_at=None,
    )


def failure_of(record: StepRecord, *, attempts: int) -> Failure:
    """Return the failure event that a failed record stands for; an unclassified one needs a person."""
    return Failure(
        step_index=record.step_index,
        step_name=record.step_name,
        sequence=record.sequence,
        classification=record.failure_classification or FailureClassification.PERMANENT,
        error_type=record.error_type,
        message=storable(record.error_message or ""),
        failed_at=record.timestamp,
        attempts=attempts,
    )

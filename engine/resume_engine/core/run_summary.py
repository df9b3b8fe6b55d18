"""A run without its steps: what lists, gates and the worker need, kept on the run row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

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
    attempts: int  # attempts of this step in a row that failed or were interrupted
    lease_token: int | None = None  # set for an interruption: of the lease that ended with its owner

    @property
    def key(self) -> str:
        """Return the failure key: `step_index:sequence`, with the lease token behind it for an interruption.

        An interruption leaves no record, so the next record takes the same sequence: the token keeps a
        decision about the interruption from opening the gate of what happens next.
        """
        key = f"{self.step_index}:{self.sequence}"
        return key if self.lease_token is None else f"{key}:{self.lease_token}"


class StepInFlight(NamedTuple):
    """A step that was about to be called and is not recorded yet: the intent."""

    step_index: int
    step_name: str
    idempotency_key: str
    attempt: int
    since: datetime
    asked: bool = False  # if it is interrupted, a person must look, whoever goes on and by whatever way


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
    cleared_until: datetime | None = None  # the gates that were opened close again then
    lease_owner: str | None = None
    lease_token: int = 0
    lease_expires_at: datetime | None = None
    lease_live: bool = False  # by the clock of the database, when the run was read
    in_flight: tuple[StepInFlight, ...] = ()
    retry_at: datetime | None = None  # the failed step is tried again then, by its executor
    takeovers: int = 0  # executors in a row that vanished without completing a step
    workflow_hash: str | None = None
    finished_at: datetime | None = None
    started_by: str | None = None
    initial_input_hash: str | None = None
    version: int = 0  # grows with every change; a write based on an older version is refused
    change_id: str | None = (
        None  # names the change that made this version, to find out whether it was written
    )
    chain_seq: int = 0  # entries in the run's stream of the audit, and the hash of the last one
    chain_head: str | None = None

    @classmethod
    def of(cls, values: dict[str, Any]) -> RunSummary:
        """Return the run with these fields, all of them; without what a constructor costs for each row."""
        made = object.__new__(cls)
        made.__dict__.update(values)
        return made

    @property
    def is_interrupted(self) -> bool:
        """Return whether the executor of this run vanished: what it was doing has an unknown outcome."""
        return self.status is RunStatus.RUNNING and self.lease_owner is not None and not self.lease_live

    def evolve(self, **changes: Any) -> RunSummary:
        """Return a copy with `changes`; what `dataclasses.replace` does, without its cost for each step."""
        copy = object.__new__(RunSummary)
        object.__setattr__(copy, "__dict__", self.__dict__ | changes)
        return copy

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
    completed, kind = record.is_completed, record.kind
    if completed and run.failure is None and kind is StepKind.STEP:
        return run.evolve(**_counted(run, record), status=RunStatus.RUNNING)  # nearly always
    moved = run.evolve(next_sequence=record.sequence + 1, updated_at=record.timestamp)
    if kind is StepKind.COMPENSATION:
        return moved
    if completed:
        return _after_completion(run, record)
    return _after_failure(run, moved, record) if record.is_failed else moved


def cleared(run: RunSummary) -> RunSummary:
    """Return `run` without failure, gates and decisions."""
    return run.evolve(
        failure=None,
        blocked_by=(),
        blocked_since=None,
        cleared_by=None,
        cleared_at=None,
        cleared_until=None,
        retry_at=None,
    )


def finished(run: RunSummary, status: RunStatus, at: datetime) -> RunSummary:
    """Return `run` as ended for good at the moment `at`: nothing is open, nobody holds it."""
    return cleared(run).evolve(
        status=status,
        updated_at=at,
        finished_at=at,
        lease_owner=None,
        lease_expires_at=None,
        lease_live=False,
        in_flight=(),
    )


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


def _counted(run: RunSummary, record: StepRecord) -> dict[str, Any]:
    index = run.resume_from_index
    return {
        "next_sequence": record.sequence + 1,
        "updated_at": record.timestamp,
        "takeovers": 0,
        "steps_completed": run.steps_completed + 1,
        "resume_from_index": index + 1 if record.step_index == index else index,
    }


def _after_completion(run: RunSummary, record: StepRecord) -> RunSummary:
    counted = run.evolve(**_counted(run, record))
    if run.failure is not None and run.failure.step_index != record.step_index:
        return counted
    return cleared(counted).evolve(status=RunStatus.RUNNING)


def _after_failure(run: RunSummary, moved: RunSummary, record: StepRecord) -> RunSummary:
    same_step = run.failure is not None and run.failure.step_index == record.step_index
    if run.blocked_by and not same_step:
        return moved  # a closed gate stays closed, whatever a branch beside it does
    earlier = run.failure.attempts if run.failure is not None and same_step else 0
    # An attempt that was interrupted left no failure: the number of the record counts it.
    failure = failure_of(record, attempts=max(earlier + 1, record.attempt))
    actions = required_actions(failure.classification, run.environment)
    return moved.evolve(
        status=RunStatus.FAILED,
        retry_at=None,
        failure=failure,
        blocked_by=actions,
        blocked_since=record.timestamp if actions else None,
        cleared_by=None,
        cleared_at=None,
        cleared_until=None,
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


def retrying(before: RunSummary, after: RunSummary, failed_at: datetime, seconds: float) -> RunSummary:
    """Return `after` as a run whose executor tries what just failed again, so many seconds after its failure.

    No gate closes for that: it is the same execution that goes on. One that was closed `before` stays so: a
    compensation is tried again behind it, and a branch beside the failure does not open it.
    """
    again = after.evolve(retry_at=failed_at + timedelta(seconds=seconds))
    if before.blocked_by:
        return again
    return again.evolve(status=RunStatus.RUNNING, blocked_by=(), blocked_since=None)

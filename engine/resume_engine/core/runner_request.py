"""What a runner elsewhere sends, and the checks that every change of it has to pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from resume_engine.core.errors import InvalidValueError, LeaseLostError, StaleRunError
from resume_engine.core.idempotency import generate_idempotency_key
from resume_engine.core.lease import assert_idle
from resume_engine.core.outside_writes import check_record
from resume_engine.core.run_summary import RunSummary, StepInFlight, retrying
from resume_engine.core.step_record import FailureClassification, StepRecord

if TYPE_CHECKING:
    from resume_engine.core.store import CheckpointStore


@dataclass(frozen=True, kw_only=True)
class Term:
    """One executor's hold on a run; `seconds` is how long from now, None leaves the end as it is."""

    owner: str
    token: int
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunnerChange:
    """What every change says: its name, the version it is based on, who holds the run afterwards."""

    change_id: str
    version: int
    lease: Term | None = None  # None: nobody, from now on
    in_flight: tuple[StepInFlight, ...] = ()
    retry_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Claim(RunnerChange):
    """Take a run, or go on under the lease that is held; a workflow says what it consists of."""

    steps_total: int | None = None
    workflow: Sequence[str] | None = None
    initial_input: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Recording(RunnerChange):
    """Record one attempt; `held` is the term it was made under, if any.

    `follows_failure`: the run has a failure afterwards, as far as the runner knows.
    """

    record: StepRecord
    held: Term | None = None
    follows_failure: bool = False


@dataclass(frozen=True, kw_only=True)
class Rollback(RunnerChange):
    """Begin to roll a run back; `compensated` are the indexes of the steps that have a compensation."""

    note: str
    compensated: frozenset[int]
    display_name: str | None = None


def repeated(store: CheckpointStore, run: RunSummary, given: RunnerChange) -> bool:
    """Return whether a change was written before: its answer got lost, and it is asked for again."""
    if run.version <= given.version:
        return False
    if run.change_id == given.change_id:
        return True
    if not isinstance(given, Recording):
        return False
    stored = store.load_step(run.run_id, given.record.sequence)
    return stored is not None and _attempt(stored) == _attempt(given.record)


def _attempt(record: StepRecord) -> tuple[object, ...]:
    return record.idempotency_key, record.status, record.attempt, record.worker, record.started_at


def assert_version(run: RunSummary, given: RunnerChange) -> None:
    """Raise `StaleRunError` when a change is based on another version of the run."""
    if run.version != given.version:
        raise StaleRunError(run.run_id, f"version {given.version}", f"version {run.version}")


def holds(run: RunSummary, term: Term) -> bool:
    """Return whether a term is that of the executor that holds the run."""
    return (run.lease_owner, run.lease_token) == (term.owner, term.token)


def assert_next_term(run: RunSummary, term: Term) -> None:
    """Raise `RunBusyError` or `LeaseLostError` unless a term may begin now."""
    assert_idle(run)
    if term.token != run.lease_token + 1:
        raise LeaseLostError(run.run_id, term.owner, run.lease_owner)


def lease_of(term: Term, at: datetime) -> dict[str, Any]:
    """Return the columns of a run that say who holds it."""
    if term.seconds is None:
        return {"lease_owner": term.owner, "lease_token": term.token}
    return {
        "lease_owner": term.owner,
        "lease_token": term.token,
        "lease_expires_at": at + timedelta(seconds=term.seconds),
        "lease_live": True,
    }


def check_recorded(run: RunSummary, record: StepRecord) -> None:
    """Raise unless a record is the next one of the run, with the key that its input gives it."""
    check_record(record)
    if record.sequence != run.next_sequence:
        raise StaleRunError(run.run_id, f"sequence {run.next_sequence}", f"sequence {record.sequence}")
    expected = generate_idempotency_key(run.run_id, record.step_name, record.step_index, record.input_hash)
    if record.idempotency_key != expected:
        raise InvalidValueError(
            "idempotency_key", f"is not that of step {record.step_index} {record.step_name!r} with this input"
        )


def retried(run: RunSummary, after: RunSummary, given: Recording) -> RunSummary:
    """Return the run whose executor tries a transient failure again, or raise that it may not."""
    record, retry_at = given.record, given.retry_at
    transient = record.failure_classification is FailureClassification.TRANSIENT
    if not record.is_failed or not transient or given.lease is None or retry_at is None:
        raise InvalidValueError("retry_at", "only a transient failure is tried again by its executor")
    seconds = max(0.0, (retry_at - record.timestamp).total_seconds())
    return retrying(run, after, record.timestamp, seconds)

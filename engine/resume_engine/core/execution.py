"""Execute steps of one run and record every attempt."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from resume_engine.core.clock import monotonic, utc_now
from resume_engine.core.errors import (
    InputNotSerializableError,
    InvalidValueError,
    OutputNotDictError,
    OutputNotSerializableError,
    ResumeBlockedError,
    RunBusyError,
    RunFinishedError,
    StaleRunError,
)
from resume_engine.core.failure_classifier import classify
from resume_engine.core.idempotency import generate_idempotency_key, hash_input
from resume_engine.core.open_failures import after_record
from resume_engine.core.payload import as_recorded, storable
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import FINISHED_STATUSES
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary, blockers_of
from resume_engine.core.step import StepCallable, check_step_name
from resume_engine.core.step_record import COMPENSATION_PREFIX, StepRecord, StepStatus
from resume_engine.core.store import CheckpointStore

TRACEBACK_MAX_CHARACTERS = 16_000
MESSAGE_MAX_CHARACTERS = 8_000
_PARALLEL_ATTEMPTS = 50

Extend = Callable[[RunSummary], RunSummary]


def assert_open(run: RunSummary, step_name: str) -> None:
    """Raise unless `step_name` may be written to `run` now: not finished, no gate closed."""
    if run.status in FINISHED_STATUSES:
        raise RunFinishedError(run.run_id, run.status)
    compensates = step_name.startswith(COMPENSATION_PREFIX) and GateAction.COMPENSATION in run.blocked_by
    if run.blocked_by and not compensates:
        raise ResumeBlockedError(blockers_of(run))


def assert_idle(run: RunSummary) -> None:
    """Raise `RunBusyError` while the claim of an executor on `run` is live."""
    if run.lease_owner and run.lease_expires_at and run.lease_expires_at > utc_now():
        raise RunBusyError(run.run_id, run.lease_owner, run.lease_expires_at)


class RunExecution:
    """Write the attempts of one run, each in one transaction with the run row.

    With `extend` (a lease holder) a conflicting write is final: someone else took the run over.
    Without it (single steps, maybe in parallel branches) the record is placed behind the others'.
    """

    def __init__(
        self, store: CheckpointStore, run: RunSummary, *, worker: str, extend: Extend | None = None
    ) -> None:
        self.run = run
        self._store = store
        self._worker = worker
        self._extend = extend

    def execute(self, name: str, index: int, input_data: dict[str, Any], fn: StepCallable) -> StepRecord:
        """Call `fn` and record what came of it; a failure is recorded, then raised again."""
        attempt = self.prepare(name, index, input_data)
        assert_open(self.run, name)
        started = monotonic()
        try:
            output = fn(as_recorded(attempt.input_data), attempt.idempotency_key)
            attempt.output_data = self._checked_output(attempt, output)
        except Exception as exc:
            attempt.duration_ms = _elapsed_ms(started)
            self._record(_failed(attempt, exc))
            raise
        attempt.duration_ms = _elapsed_ms(started)
        attempt.status = StepStatus.COMPLETED
        return self._record(attempt)

    def prepare(self, name: str, index: int, input_data: dict[str, Any]) -> StepRecord:
        """Return the record of an attempt that is about to start; raise if it could not be recorded."""
        check_step_name(name)
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise InvalidValueError("step_index", f"must be a whole number from 0, found {index!r}")
        data = self._checked_input(name, index, input_data)
        input_hash = hash_input(data)
        failure = self.run.failure
        same_step = failure is not None and (failure.step_index, failure.step_name) == (index, name)
        earlier = failure.attempts if failure is not None and same_step else 0
        return StepRecord(
            step_name=name,
            step_index=index,
            input_data=data,
            input_hash=input_hash,
            output_data=None,
            status=StepStatus.RUNNING,
            idempotency_key=generate_idempotency_key(self.run.run_id, name, index, input_hash),
            attempt=earlier + 1,
            started_at=utc_now(),
            worker=self._worker,
        )

    def record_failure(self, name: str, index: int, input_data: dict[str, Any], exc: Exception) -> StepRecord:
        """Record a failure that happened outside a step function."""
        return self._record(_failed(self.prepare(name, index, input_data), exc))

    def _record(self, record: StepRecord) -> StepRecord:
        for _ in range(_PARALLEL_ATTEMPTS):
            record.sequence = self.run.next_sequence
            record.timestamp = utc_now()
            after = after_record(self._store, self.run, record, only_blocking=self._extend is not None)
            if self._extend is not None:
                after = self._extend(after)
            try:
                self.run = self._store.commit(RunChange(before=self.run, after=after, record=record))
                return record
            except StaleRunError:
                if self._extend is not None:
                    raise
                self._reload()
        raise StaleRunError(self.run.run_id, "a quiet moment", f"{_PARALLEL_ATTEMPTS} changes by others")

    def _reload(self) -> None:
        run = self._store.load_summary(self.run.run_id)
        if run is None or run.status in FINISHED_STATUSES:
            raise RunFinishedError(self.run.run_id, run.status if run else "deleted")
        self.run = run

    def _checked_input(self, name: str, index: int, input_data: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(input_data, dict):
            raise InputNotSerializableError(
                self.run.run_id, name, index, f"{type(input_data).__name__}, not a dict"
            )
        try:
            return as_recorded(input_data)
        except (TypeError, ValueError, RecursionError) as problem:
            raise InputNotSerializableError(self.run.run_id, name, index, str(problem)) from problem

    def _checked_output(self, attempt: StepRecord, output: object) -> dict[str, Any]:
        where = (self.run.run_id, attempt.step_name, attempt.step_index)
        if not isinstance(output, dict):
            raise OutputNotDictError(*where, type(output).__name__)
        try:
            return as_recorded(output)
        except (TypeError, ValueError, RecursionError) as problem:
            raise OutputNotSerializableError(*where, str(problem)) from problem


def _elapsed_ms(started: float) -> int:
    return round((monotonic() - started) * 1000)


def _failed(attempt: StepRecord, exc: Exception) -> StepRecord:
    classified = classify(exc)
    frames = "".join(traceback.format_exception(exc))
    return replace(
        attempt,
        status=StepStatus.FAILED,
        output_data=None,
        failure_classification=classified.classification,
        classified_by=classified.rule,
        error_type=type(exc).__name__[:255],
        error_message=storable(_message(exc))[:MESSAGE_MAX_CHARACTERS],
        error_traceback=storable(frames)[-TRACEBACK_MAX_CHARACTERS:],
    )


def _message(exc: Exception) -> str:
    try:
        return str(exc) or type(exc).__name__
    except Exception:  # an exception whose own text fails must still be recorded
        return type(exc).__name__

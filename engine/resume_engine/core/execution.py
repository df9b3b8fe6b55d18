"""Execute steps of one run and record every attempt."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NoReturn

from resume_engine.core import failpoints
from resume_engine.core.async_bridge import pause, raise_if_cancelled, settled
from resume_engine.core.clock import monotonic, utc_now
from resume_engine.core.errors import (
    InputNotSerializableError,
    InvalidValueError,
    LeaseLostError,
    OutputNotDictError,
    OutputNotSerializableError,
    OutputTooLargeError,
    RemoteTooLargeError,
    ResumeBlockedError,
    RunFinishedError,
    StaleRunError,
    StepTimeoutError,
)
from resume_engine.core.failed_attempt import failed_attempt, shortened
from resume_engine.core.failure_classifier import FailureRule
from resume_engine.core.idempotency import generate_idempotency_key
from resume_engine.core.lease import Lease, is_held_as
from resume_engine.core.open_failures import after_record
from resume_engine.core.payload import (
    encode,
    from_text,
    payload_hash,
    recorded_output,
    sent_length,
)
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import FINISHED_STATUSES
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary, StepInFlight, blockers_of, retrying
from resume_engine.core.step import Step, check_step_name
from resume_engine.core.step_record import COMPENSATION_PREFIX, FailureClassification, StepRecord, StepStatus
from resume_engine.core.store import CheckpointStore
from resume_engine.core.workflow_state import WorkflowState

_PARALLEL_ATTEMPTS = 50

NextAttempt = Callable[[StepRecord], StepRecord | None]
"""Given the completed attempt of a step, the attempt that follows it, or None at the end."""


def assert_open(run: RunSummary, step_name: str) -> None:
    """Raise unless `step_name` may be written to `run` now: not finished, no gate closed."""
    if run.status in FINISHED_STATUSES:
        raise RunFinishedError(run.run_id, run.status)
    compensates = step_name.startswith(COMPENSATION_PREFIX) and GateAction.COMPENSATION in run.blocked_by
    if run.blocked_by and not compensates:
        raise ResumeBlockedError(blockers_of(run), run.run_id)


class RunExecution:
    """Write the attempts of one run under a lease, each in one transaction with the run row.

    Under an exclusive lease (a whole workflow) a conflicting write is final: someone else took the run over,
    unless it stands as it did and only its metadata changed. Otherwise (single steps, maybe in parallel
    branches of this executor) a record is placed behind the others'.
    """

    def __init__(
        self, store: CheckpointStore, run: RunSummary, lease: Lease, rules: Sequence[FailureRule] = ()
    ) -> None:
        self.run = run
        self._store = store
        self._lease = lease
        self._rules = rules
        self._state: WorkflowState | None = None

    def prepare(self, step: Step, index: int, input_data: dict[str, Any]) -> StepRecord:
        """Return the record of an attempt that is about to start; raise if it could not be recorded."""
        check_step_name(step.name)
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise InvalidValueError("step_index", f"must be a whole number from 0, found {index!r}")
        text = self._input_text(step.name, index, input_data)
        data = from_text(text)
        input_hash = payload_hash(data, text)
        return StepRecord(
            step_name=step.name,
            step_index=index,
            input_data=data,
            input_hash=input_hash,
            output_data=None,
            status=StepStatus.RUNNING,
            idempotency_key=generate_idempotency_key(self.run.run_id, step.name, index, input_hash),
            attempt=_earlier_attempts(self.run, step.name, index) + 1,
            worker=self._lease.owner,
            input_text=text,
            asks_if_interrupted=step.on_interrupted == "gate",
        )

    def prepare_following(
        self, step: Step, index: int, state: WorkflowState, follows_from: int
    ) -> StepRecord:
        """Return the record of an attempt whose input follows from the record, as `prepare` would."""
        most = self._store.max_input_characters
        # Written with spaces and then as a JSON string it grows to four times its length at most.
        if most is not None and 4 * state.length > most:
            self._assert_fits(step.name, index, encode(state.data))
        self._state = state
        input_hash = state.input_hash()
        return StepRecord(
            step_name=step.name,
            step_index=index,
            input_data=state.data,
            input_hash=input_hash,
            output_data=None,
            status=StepStatus.RUNNING,
            idempotency_key=generate_idempotency_key(self.run.run_id, step.name, index, input_hash),
            timestamp=self.run.updated_at,  # until it is recorded
            attempt=_earlier_attempts(self.run, step.name, index) + 1,
            worker=self._lease.owner,
            follows_from=follows_from,
            asks_if_interrupted=step.on_interrupted == "gate",
        )

    def call(
        self, step: Step, attempt: StepRecord, following: NextAttempt | None = None
    ) -> tuple[StepRecord, StepRecord | None]:
        """Call a step until it completes or fails for good; return its record and the attempt that follows.

        Every attempt is recorded. The record of the last one commits together with the intent of the
        attempt that follows. A failure is recorded, then raised again.
        """
        while True:
            self._lease.assert_trusted(self.run)
            raise_if_cancelled()
            attempt.started_at = utc_now()
            started = monotonic()
            try:
                output = self._output_of(step, attempt)
            except Exception as exc:
                attempt.duration_ms = _elapsed_ms(started)
                attempt = self._after_failure(step, attempt, exc)
                continue
            attempt.duration_ms = _elapsed_ms(started)
            return self._completed(attempt, output, following)

    def reconciled(
        self, attempt: StepRecord, output: object, following: NextAttempt | None
    ) -> tuple[StepRecord, StepRecord | None]:
        """Record an interrupted attempt as completed with the output its reconciliation found."""
        attempt.classified_by = "reconciled after an interruption"
        attempt.started_at = utc_now()
        return self._completed(attempt, self._recorded(attempt, output), following)

    def record_failure(self, name: str, index: int, exc: Exception) -> None:
        """Record a failure that happened outside a step function."""
        attempt = self.prepare(Step(name, _never), index, {})
        self._record(failed_attempt(attempt, exc, self._rules))

    def fail_in_doubt(self, attempt: StepRecord, exc: Exception) -> None:
        """Record that a reconciliation could not tell whether a step was done: a person must look."""
        failed = failed_attempt(attempt, exc, self._rules)
        failed.failure_classification = FailureClassification.PERMANENT
        failed.classified_by = "in doubt: the reconciliation failed"
        self._record(failed)

    def _completed(
        self, attempt: StepRecord, output: tuple[str, dict[str, Any]], following: NextAttempt | None
    ) -> tuple[StepRecord, StepRecord | None]:
        attempt.output_text, attempt.output_data = output
        attempt.status = StepStatus.COMPLETED
        next_attempt, refused = None, None
        try:
            next_attempt = following(attempt) if following is not None else None
        except RemoteTooLargeError as too_large:
            refused = too_large  # the next step cannot begin; this one is done
        try:
            self._record(attempt, next_attempt)
        except RemoteTooLargeError as too_large:
            self._fail_too_large(attempt, too_large)
        if refused is not None:
            raise refused
        return attempt, next_attempt

    def _fail_too_large(self, attempt: StepRecord, refused: RemoteTooLargeError) -> NoReturn:
        """Record that a step ran to its end and its output cannot be kept; it must not stay in flight."""
        where, text = (self.run.run_id, attempt.step_name, attempt.step_index), attempt.output_text or ""
        error = OutputTooLargeError(*where, len(text), str(refused))
        failed = self.given_up(failed_attempt(replace(attempt, output_text=None), error, self._rules))
        self._record_failed(failed, error)
        raise error from refused

    def _output_of(self, step: Step, attempt: StepRecord) -> tuple[str, dict[str, Any]]:
        failpoints.reach("before_effect")
        given = self._given(attempt)
        if step.timeout is None:
            output: object = step.fn(given, attempt.idempotency_key)
        else:
            output = _within(step, given, attempt.idempotency_key)
        if type(output) is not dict:
            output = settled(output, step.name, step.timeout)
        failpoints.reach("after_effect")
        return self._recorded(attempt, output)

    def _given(self, attempt: StepRecord) -> dict[str, Any]:
        """Return what a step is called with: what the record holds of its input, a new object."""
        state = self._state
        if state is not None and state.data is attempt.input_data:
            return state.copy()
        return from_text(attempt.input_text or encode(attempt.input_data))

    def _after_failure(self, step: Step, attempt: StepRecord, exc: Exception) -> StepRecord:
        """Record a failed attempt; return the next one once its wait is over, or raise `exc` again."""
        failed = failed_attempt(attempt, exc, self._rules)
        transient = failed.failure_classification is FailureClassification.TRANSIENT
        tried = failed.attempt - self._attempts_before(failed)
        if not transient or tried >= step.retry.attempts:
            self._record_failed(self.given_up(failed), exc)
            raise exc
        seconds = step.retry.wait_seconds(tried, self.run.run_id, exc)
        following = replace(
            attempt, attempt=attempt.attempt + 1, duration_ms=None, started_at=None, output_data=None
        )
        self._record_failed(failed, exc, following, retry_seconds=seconds)
        self.await_retry(following)
        return following

    def await_retry(self, attempt: StepRecord) -> None:
        """Wait until the retry of a step is due, if one is pending, and write that it begins.

        Until then the attempt had certainly not begun; from then on its outcome would be unknown.
        """
        if self.run.retry_at is None:
            return
        pause(max(0.0, (self.run.retry_at - utc_now()).total_seconds()))
        for _ in range(_PARALLEL_ATTEMPTS):
            others = tuple(s for s in self.run.in_flight if s.idempotency_key != attempt.idempotency_key)
            after = self.run.evolve(retry_at=None, in_flight=(intent_of(attempt), *others))
            if self._commit(self._lease.extend(after)):
                return
        raise StaleRunError(self.run.run_id, "a quiet moment", f"{_PARALLEL_ATTEMPTS} changes by others")

    def _attempts_before(self, failed: StepRecord) -> int:
        """Return the attempts made before this executor's go: a policy counts one go."""
        return self._lease.attempts_before(failed.step_index)

    def _record_failed(
        self,
        failed: StepRecord,
        exc: Exception,
        following: StepRecord | None = None,
        *,
        retry_seconds: float | None = None,
    ) -> None:
        """Write the record of a failure, in few words if many are too large; raise `exc` if those are too."""
        try:
            self._record(failed, following, retry_seconds=retry_seconds)
        except RemoteTooLargeError:
            try:
                self._record(shortened(failed), following, retry_seconds=retry_seconds)
            except RemoteTooLargeError as refused:
                raise exc from refused

    def _record(
        self, record: StepRecord, following: StepRecord | None = None, *, retry_seconds: float | None = None
    ) -> None:
        """Write a record together with the intent of the attempt that follows it."""
        for _ in range(_PARALLEL_ATTEMPTS):
            record.sequence = self.run.next_sequence
            record.timestamp = at = utc_now()
            after = self.after(record)
            if retry_seconds is not None:
                after = retrying(self.run, after, record.timestamp, retry_seconds)
            intents = [s for s in self.run.in_flight if s.idempotency_key != record.idempotency_key]
            if following is not None:
                intents.append(intent_of(following, at))
            after = self._lease.extend(after, tuple(intents))
            failpoints.reach("before_commit")
            if self._commit(after, record):
                failpoints.reach("after_commit")
                return
        raise StaleRunError(self.run.run_id, "a quiet moment", f"{_PARALLEL_ATTEMPTS} changes by others")

    def _commit(self, after: RunSummary, record: StepRecord | None = None) -> bool:
        """Write what follows from the run as last seen; return whether it still stood like that."""
        try:
            self.run = self._store.commit(self.change(after, record))
        except StaleRunError:
            self._reload()
            return False
        return True

    # What a rollback does otherwise

    def after(self, record: StepRecord) -> RunSummary:
        """Return the run row as it stands once `record` is appended."""
        return after_record(self._store, self.run, record, only_blocking=self._lease.exclusive)

    def given_up(self, failed: StepRecord) -> StepRecord:
        """Return the record of an attempt after which there is no other."""
        return failed

    def change(self, after: RunSummary, record: StepRecord | None = None) -> RunChange:
        """Return the change that carries the run to `after`."""
        return RunChange.of_step(self.run, after, record, self._lease.seconds_for(after))

    def _reload(self) -> None:
        run = self._store.load_summary(self.run.run_id)
        if run is None or self._is_lost(run):
            held_by = run.lease_owner if run is not None else None
            raise LeaseLostError(self.run.run_id, self._lease.owner, held_by)
        if run.status in FINISHED_STATUSES:
            raise RunFinishedError(self.run.run_id, run.status)
        self.run = run

    def _is_lost(self, run: RunSummary) -> bool:
        if self._lease.exclusive:
            return not is_held_as(self.run, run)
        if run.lease_owner is None:  # between two steps; but whose?
            return run.lease_token != self.run.lease_token
        return run.lease_owner != self._lease.owner

    def _input_text(self, name: str, index: int, input_data: dict[str, Any]) -> str:
        if not isinstance(input_data, dict):
            raise InputNotSerializableError(
                self.run.run_id, name, index, f"{type(input_data).__name__}, not a dict"
            )
        try:
            text = encode(input_data)
        except (TypeError, ValueError, RecursionError) as problem:
            raise InputNotSerializableError(self.run.run_id, name, index, str(problem)) from problem
        self._assert_fits(name, index, text)
        return text

    def _assert_fits(self, name: str, index: int, text: str) -> None:
        """Raise when no record could hold the input of a step: whatever it did would be lost."""
        most = self._store.max_input_characters
        if most is not None and sent_length(text) > most:
            raise RemoteTooLargeError(
                f"Step {index} {name!r} of run {self.run.run_id} was not called: the control plane takes no "
                f"input of {sent_length(text):,} characters, at most {most:,}. "
                "Give less, such as the place where the rest is kept."
            )

    def _recorded(self, attempt: StepRecord, output: object) -> tuple[str, dict[str, Any]]:
        where = (self.run.run_id, attempt.step_name, attempt.step_index)
        if not isinstance(output, dict):
            raise OutputNotDictError(*where, type(output).__name__)
        try:
            return recorded_output(output)
        except (TypeError, ValueError, RecursionError) as problem:
            raise OutputNotSerializableError(*where, str(problem)) from problem


def intent_of(attempt: StepRecord, since: datetime | None = None) -> StepInFlight:
    """Return the intent of an attempt that is about to start, now if not said otherwise."""
    return StepInFlight(
        step_index=attempt.step_index,
        step_name=attempt.step_name,
        idempotency_key=attempt.idempotency_key,
        attempt=attempt.attempt,
        since=since or utc_now(),
        asked=attempt.asks_if_interrupted,
    )


def _earlier_attempts(run: RunSummary, name: str, index: int) -> int:
    failure = run.failure
    earlier = 0
    if failure is not None and failure.step_index == index and failure.step_name == name:
        earlier = failure.attempts
    waiting = run.retry_at is not None  # the intent is of an attempt that had not begun
    for step in run.in_flight:
        if step.step_index == index and step.step_name == name:
            earlier = max(earlier, step.attempt - waiting)
    return earlier


def _within(step: Step, given: dict[str, Any], key: str) -> object:
    """Call a step in a thread of its own and wait for it no longer than its timeout."""
    outcome: list[Any] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            outcome.extend((True, context.run(step.fn, given, key)))
        except BaseException as exc:
            outcome.extend((False, exc))

    thread = threading.Thread(target=run, name=f"step-{step.name[:40]}", daemon=True)
    thread.start()
    thread.join(step.timeout)
    if not outcome:
        raise StepTimeoutError(step.name, step.timeout or 0)
    done, value = outcome
    if not done:
        raise value
    result: object = value
    return result


def _never(_: dict[str, Any], __: str) -> dict[str, Any]:
    raise AssertionError("the name of a failure outside every step is never called")


def _elapsed_ms(started: float) -> int:
    return round((monotonic() - started) * 1000)

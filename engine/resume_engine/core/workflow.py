"""An ordered workflow against its record: where it goes on, with which state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from resume_engine.core.async_bridge import settled
from resume_engine.core.audit import EventType
from resume_engine.core.done_steps import DoneSteps
from resume_engine.core.errors import (
    InputMismatchError,
    InputNotSerializableError,
    InvalidValueError,
    WorkflowMismatchError,
)
from resume_engine.core.execution import RunExecution
from resume_engine.core.failure_classifier import TransientStepError
from resume_engine.core.idempotency import canonical_json
from resume_engine.core.interruption import step_in_doubt
from resume_engine.core.payload import as_recorded, encode, payload_hash
from resume_engine.core.retry import NO_RETRY
from resume_engine.core.run import Environment, Run, RunStatus, parse_environment
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step import Step, check_text
from resume_engine.core.step_record import StepOutput, StepRecord
from resume_engine.core.store import CheckpointStore
from resume_engine.core.workflow_state import WorkflowState

if TYPE_CHECKING:
    from resume_engine.core.executor import Continuation

State = dict[str, Any]
Change = tuple[EventType, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say which steps are left and what they start from.

    `state` is what step `first_index` starts from: the initial input merged with the outputs of the steps
    before it. `outputs` holds those of steps behind it that are completed already, by index; `retry_input`
    is the input recorded for the failed attempt of step `first_index`, which is authoritative.
    """

    steps: Sequence[Step]
    names: tuple[str, ...]
    workflow_hash: str
    first_index: int
    initial_input: State
    initial_input_hash: str
    state: State
    outputs: dict[int, State]
    retry_input: State | None
    changes: tuple[Change, ...] = ()  # what the caller allowed to differ from the record, for the audit


def new_run(
    workflow_name: str, run_id: str, metadata: State | None, environment: str | Environment | None
) -> Run:
    """Return a running run from what a caller gave; raise `InvalidValueError` naming the field."""
    check_text("workflow_name", workflow_name, 255)
    check_text("run_id", run_id, 36)
    kept = _checked_metadata(metadata)
    named = kept.get("environment")
    if environment is not None and named is not None and str(environment) != str(named):
        raise InvalidValueError(
            "environment", f"{environment!s} given, but metadata says {named!s}; give one of them"
        )
    chosen = environment if environment is not None else named if named is not None else Environment.DEV
    return Run(
        run_id=run_id,
        workflow_name=workflow_name,
        status=RunStatus.RUNNING,
        metadata=kept,
        environment=parse_environment(chosen),
    )


def _checked_metadata(metadata: State | None) -> State:
    if metadata is not None and not isinstance(metadata, dict):
        raise InvalidValueError("metadata", f"must be a JSON object, found {type(metadata).__name__}")
    try:
        return as_recorded(metadata or {})
    except (TypeError, ValueError, RecursionError) as problem:
        raise InvalidValueError("metadata", f"must be a JSON object: {problem}") from problem


def with_injected_failure(steps: Sequence[Step], index: int) -> Sequence[Step]:
    """Return `steps` with the one at `index` failing as transient instead of running."""

    def fail(_: State, __: str) -> State:
        raise TransientStepError(f"Injected failure at step {index + 1}")

    return [replace(s, fn=fail, retry=NO_RETRY) if i == index else s for i, s in enumerate(steps)]


def plan(store: CheckpointStore, run: RunSummary, steps: Sequence[Step], given: Continuation) -> Plan:
    """Read the record of `run` and return what is left of `steps`.

    Raises `WorkflowMismatchError` when `steps` are not those the run was started with, unless the caller
    allows the change; `InputMismatchError` likewise. What was done, and the step the run stopped at, must
    stand where it stood in any case: elsewhere it would have another key, and might act twice.
    """
    start_index = given.start_index
    if start_index is not None:
        _check_start_index(start_index, len(steps))
    names = tuple([step.name for step in steps])
    changes = _workflow_changes(store, run, names, given.allow_workflow_change)
    done = DoneSteps.read(lambda: _checked_outputs(store, run, steps))
    for index, name in _stopped_at(run):
        _check_name(run, index, name, steps)
    first = done.first_left(start_index or 0, len(steps))
    retry_input = _retry_input(store, run, first, steps)
    initial, changed = _initial_input(store, run, given, retry_input if first == 0 else done.first_input)
    return Plan(
        steps=steps,
        names=names,
        workflow_hash=fingerprint(names),
        first_index=first,
        initial_input=initial,
        initial_input_hash=payload_hash(initial),
        state=done.state_before(first, initial),
        outputs=done.behind(first),
        retry_input=None if changed else retry_input,
        changes=(*changes, *changed),
    )


def _checked_outputs(store: CheckpointStore, run: RunSummary, steps: Sequence[Step]) -> Iterator[StepOutput]:
    if not run.next_sequence:
        return
    for done in store.iter_outputs(run.run_id):
        if done.step_index >= len(steps) or steps[done.step_index].name != done.step_name:
            _check_name(run, done.step_index, done.step_name, steps)
        yield done


def fingerprint(names: Sequence[str]) -> str:
    """Return the SHA-256 hex of the canonical JSON of the step names, in order."""
    return hashlib.sha256(canonical_json(list(names)).encode()).hexdigest()


def _workflow_changes(
    store: CheckpointStore, run: RunSummary, names: tuple[str, ...], allowed: bool
) -> tuple[Change, ...]:
    if run.workflow_hash is None:
        if not allowed:
            _check_count(run, names)
        return ()
    if run.workflow_hash == fingerprint(names):
        return ()
    recorded = tuple(store.load_workflow(run.run_id))
    if allowed:
        return ((EventType.RUN_WORKFLOW_CHANGED, {"before": list(recorded), "after": list(names)}),)
    pairs = enumerate(zip_longest(recorded, names))
    at, (expected, found) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    raise WorkflowMismatchError(run.run_id, at, _word(expected), _word(found), (recorded, names))


def _word(name: str | None) -> str:
    return "no step" if name is None else repr(name)


def _check_count(run: RunSummary, names: tuple[str, ...]) -> None:
    if run.next_sequence and run.steps_total is not None and run.steps_total != len(names):
        raise WorkflowMismatchError(
            run.run_id, run.resume_from_index, f"{run.steps_total} steps in all", f"{len(names)} steps"
        )


def _check_start_index(value: object, highest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= highest:
        raise InvalidValueError("start_index", f"must be a whole number from 0 to {highest}, found {value!r}")


def _stopped_at(run: RunSummary) -> Iterator[tuple[int, str]]:
    """Yield index and name of the steps at which a run failed or was interrupted."""
    if run.failure is not None and not run.failure.step_name.startswith("__"):  # a step of the workflow
        yield run.failure.step_index, run.failure.step_name
    if step_in_doubt(run) is not None:
        yield from ((step.step_index, step.step_name) for step in run.in_flight)


def _check_name(run: RunSummary, index: int, recorded: str, steps: Sequence[Step]) -> None:
    if index >= len(steps):
        raise WorkflowMismatchError(run.run_id, index, f"step {recorded!r}", f"only {len(steps)} steps")
    if steps[index].name != recorded:
        raise WorkflowMismatchError(run.run_id, index, repr(recorded), repr(steps[index].name))


def _initial_input(
    store: CheckpointStore, run: RunSummary, given: Continuation, first_input: State | None
) -> tuple[State, tuple[Change, ...]]:
    # A run of 0.2.0 has no initial input on its row: what its first step was given stands for it.
    expected = run.initial_input_hash or (None if first_input is None else payload_hash(first_input))
    wanted = _as_recorded(run, given.initial_input)
    if wanted is not None and expected is not None and payload_hash(wanted) != expected:
        if not given.allow_input_change:
            raise InputMismatchError(run.run_id, expected, payload_hash(wanted))
        return wanted, ((EventType.RUN_INPUT_CHANGED, {"before": expected, "after": payload_hash(wanted)}),)
    if run.initial_input_hash is not None:
        return store.load_initial_input(run.run_id) or {}, ()
    return wanted if wanted is not None else first_input or {}, ()


def _as_recorded(run: RunSummary, initial_input: State | None) -> State | None:
    if initial_input is None:
        return None
    try:
        return as_recorded(initial_input)
    except (TypeError, ValueError, RecursionError) as problem:
        raise InputNotSerializableError(run.run_id, "initial_input", 0, str(problem)) from problem


def _retry_input(store: CheckpointStore, run: RunSummary, first: int, steps: Sequence[Step]) -> State | None:
    failure = run.failure
    if failure is None or failure.step_index != first or first >= len(steps):
        return None
    if failure.step_name != steps[first].name:
        return None  # the failure lay outside a step, so no step has an input recorded for it
    if failure.lease_token is not None:
        return _interrupted_retry_input(store, run)
    failed = store.load_step(run.run_id, failure.sequence)
    return failed.input_data if failed else None


def _interrupted_retry_input(store: CheckpointStore, run: RunSummary) -> State | None:
    """Return the input of the failed attempt that was tried again when the executor vanished.

    None when it was no retry: then its input follows from what came before, as it did then.
    """
    keys = {step.idempotency_key for step in run.in_flight}
    for failed in store.list_open_failures(run.run_id):
        if failed.idempotency_key in keys:
            again = store.load_step(run.run_id, failed.sequence)
            return again.input_data if again else None
    return None


def first_attempt(execution: RunExecution, plan: Plan) -> StepRecord | None:
    """Return the attempt that a plan begins with, None when nothing is left of it."""
    if plan.first_index >= len(plan.steps):
        return None
    state = plan.retry_input if plan.retry_input is not None else plan.state
    attempt = execution.prepare(plan.steps[plan.first_index], plan.first_index, state)
    _assert_same_attempt(execution.run, attempt, plan)
    return attempt


def _assert_same_attempt(run: RunSummary, attempt: StepRecord, plan: Plan) -> None:
    """Raise when a step in doubt would run again with another key, which might let it act twice."""
    in_doubt = step_in_doubt(run)
    changed = any(kind is EventType.RUN_INPUT_CHANGED for kind, _ in plan.changes)
    if in_doubt is None or in_doubt.step_index != attempt.step_index or changed:
        return
    if in_doubt.idempotency_key != attempt.idempotency_key:
        raise WorkflowMismatchError(
            run.run_id,
            attempt.step_index,
            f"an interrupted attempt with the key {in_doubt.idempotency_key[:12]}",
            f"another input, hence the key {attempt.idempotency_key[:12]}",
        )


def walk(
    execution: RunExecution,
    plan: Plan,
    first: StepRecord | None,
    *,
    in_doubt: bool = False,
) -> None:
    """Execute what is left of a plan in order, beginning with the attempt `first`.

    With `in_doubt` an earlier executor vanished in the middle of that step, and its `reconcile` is asked.
    When it waited for a retry, the rest of that wait is kept.
    """
    attempt = first
    following = _Following(execution, plan)
    if attempt is not None:
        execution.await_retry(attempt)
    while attempt is not None:
        step = plan.steps[attempt.step_index]
        found = _reconcile(execution, step, attempt) if in_doubt else None
        if found is not None:
            attempt = execution.reconciled(attempt, found, following)[1]
        else:
            attempt = execution.call(step, attempt, following)[1]
        in_doubt = False


class _Following:
    """Make the attempt that follows a completed one, its input out of that one's input and output."""

    def __init__(self, execution: RunExecution, plan: Plan) -> None:
        self._execution = execution
        self._plan = plan
        self._state: WorkflowState | None = None

    def __call__(self, done: StepRecord) -> StepRecord | None:
        index = done.step_index + 1
        if index in self._plan.outputs:
            return self._behind_done_ones(done)
        if index >= len(self._plan.steps):
            return None
        step, output, text = self._plan.steps[index], done.output_data or {}, done.output_text or ""
        if self._state is None or self._state.data is not done.input_data:
            self._state = WorkflowState.of(done.input_data, done.input_text or encode(done.input_data))
        if self._state is None or not self._state.merge(output, text):
            self._state = None
            return self._execution.prepare(step, index, done.input_data | output)
        # This record's sequence is the run's next one: nobody else writes under an exclusive lease.
        since = self._execution.run.next_sequence if done.follows_from is None else done.follows_from
        return self._execution.prepare_following(step, index, self._state, since)

    def _behind_done_ones(self, done: StepRecord) -> StepRecord | None:
        """Return the next attempt behind steps that were completed before, out of order."""
        state = done.input_data | (done.output_data or {})
        index = done.step_index + 1
        while index in self._plan.outputs:
            state |= self._plan.outputs[index]
            index += 1
        left = index < len(self._plan.steps)
        return self._execution.prepare(self._plan.steps[index], index, state) if left else None


def _reconcile(execution: RunExecution, step: Step, attempt: StepRecord) -> object:
    if step.reconcile is None:
        return None
    try:
        found = step.reconcile(as_recorded(attempt.input_data), attempt.idempotency_key)
        return settled(found, step.name, step.timeout)
    except Exception as exc:
        execution.fail_in_doubt(attempt, exc)
        raise

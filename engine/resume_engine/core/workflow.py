"""An ordered workflow against its record: where it goes on, with which state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resume_engine.core.errors import (
    InputMismatchError,
    InputNotSerializableError,
    InvalidValueError,
    WorkflowMismatchError,
)
from resume_engine.core.execution import RunExecution
from resume_engine.core.failure_classifier import TransientStepError
from resume_engine.core.idempotency import hash_input
from resume_engine.core.payload import as_recorded
from resume_engine.core.run import Environment, Run, RunStatus, parse_environment
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step import Step, check_text
from resume_engine.core.step_record import StepKind
from resume_engine.core.store import CheckpointStore

State = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say which steps are left and what they start from.

    `outputs` holds the outputs of completed steps by index; `retry_input` is the input recorded for
    the failed attempt of step `first_index`, which is authoritative.
    """

    steps: Sequence[Step]
    first_index: int
    initial_input: State
    outputs: dict[int, State]
    retry_input: State | None


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

    return [Step(s.name, fail) if i == index else s for i, s in enumerate(steps)]


def plan(
    store: CheckpointStore,
    run: RunSummary,
    steps: Sequence[Step],
    initial_input: State | None,
    start_index: int | None,
) -> Plan:
    """Read the record of `run` and return what is left of `steps`.

    Raises `WorkflowMismatchError` when there are more or fewer steps than the run was started with, when a
    completed step has another name than the step given for its index, or has none; `InputMismatchError`
    when `initial_input` differs from the recorded one.
    """
    if start_index is not None:
        _check_start_index(start_index, len(steps))
    outputs: dict[int, State] = {}
    first_input: State | None = None
    if run.next_sequence and run.steps_total is not None and run.steps_total != len(steps):
        raise WorkflowMismatchError(
            run.run_id, run.resume_from_index, f"{run.steps_total} steps in all", f"{len(steps)} steps"
        )
    if run.next_sequence:
        for record in store.iter_steps(run.run_id, completed_only=True):
            if record.kind is StepKind.STEP:
                _check_name(run, record.step_index, record.step_name, steps)
                outputs[record.step_index] = record.output_data or {}
                first_input = record.input_data if record.step_index == 0 else first_input
    first = next(i for i in range(start_index or 0, len(steps) + 1) if i not in outputs)
    retry_input = _retry_input(store, run, first, steps)
    recorded = retry_input if first == 0 else first_input
    return Plan(
        steps=steps,
        first_index=first,
        initial_input=_initial_input(store, run, initial_input, recorded),
        outputs=outputs,
        retry_input=retry_input,
    )


def _check_start_index(value: object, highest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= highest:
        raise InvalidValueError("start_index", f"must be a whole number from 0 to {highest}, found {value!r}")


def _check_name(run: RunSummary, index: int, recorded: str, steps: Sequence[Step]) -> None:
    if index >= len(steps):
        raise WorkflowMismatchError(run.run_id, index, f"step {recorded!r}", f"only {len(steps)} steps")
    if steps[index].name != recorded:
        raise WorkflowMismatchError(run.run_id, index, repr(recorded), repr(steps[index].name))


def _initial_input(
    store: CheckpointStore, run: RunSummary, initial_input: State | None, first_input: State | None
) -> State:
    # A run of 0.2.0 has no initial input on its row: what its first step was given stands for it.
    expected = run.initial_input_hash or (None if first_input is None else hash_input(first_input))
    given = _as_recorded(run, initial_input)
    if given is not None and expected is not None and hash_input(given) != expected:
        raise InputMismatchError(run.run_id, expected, hash_input(given))
    if run.initial_input_hash is not None:
        return store.load_initial_input(run.run_id) or {}
    return given if given is not None else first_input or {}


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
        if failure.step_name.startswith("__"):
            return None  # the failure lay outside a step, so no step has an input recorded for it
        raise WorkflowMismatchError(run.run_id, first, repr(failure.step_name), repr(steps[first].name))
    failed = store.load_step(run.run_id, failure.sequence)
    return failed.input_data if failed else None


def walk(execution: RunExecution, plan: Plan) -> State:
    """Execute what is left of a plan in order and return the final state."""
    state = dict(plan.initial_input)
    for index in range(plan.first_index):
        state |= plan.outputs.get(index, {})
    for index in range(plan.first_index, len(plan.steps)):
        if index in plan.outputs:
            state |= plan.outputs[index]
            continue
        if index == plan.first_index and plan.retry_input is not None:
            state = dict(plan.retry_input)
        step = plan.steps[index]
        record = execution.execute(step.name, index, state, step.fn)
        state |= record.output_data or {}
    return state

"""Which compensation belongs to what was done, and under which name it is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from resume_engine.core.decisions import DecisionKind, DecisionRequest, decide, rehearse
from resume_engine.core.errors import InvalidValueError, NothingToDecideError, WorkflowMismatchError
from resume_engine.core.idempotency import generate_idempotency_key
from resume_engine.core.payload import payload_hash
from resume_engine.core.permissions import Role
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.step import Step, StepCallable
from resume_engine.core.step_record import COMPENSATION_PREFIX, StepRecord

if TYPE_CHECKING:
    from resume_engine.core.executor import Executor
    from resume_engine.core.store import CheckpointStore

_NAME_MAX_CHARACTERS = 255


def compensate(
    executor: Executor,
    run_id: str,
    given: StepCallable | Sequence[Step],
    input_data: dict[str, Any] | None,
    note: str | None = None,
) -> StepRecord:
    """Execute the compensation of the failed step, given or found in the steps given, and open its gate."""
    run = executor.require(run_id)
    failure = run.failure
    if failure is None or GateAction.COMPENSATION not in run.blocked_by:
        raise NothingToDecideError(run_id, DecisionKind.COMPENSATION, "no partial failure waits for it")
    if input_data is None:
        failed = executor.store.load_step(run_id, failure.sequence)
        input_data = failed.input_data if failed else {}
    request = DecisionRequest(
        run_id=run_id,
        kind=DecisionKind.COMPENSATION,
        actor=executor.actor(Role.OPERATOR),
        failure_key=failure.key,
        note=note,
        step_sequence=run.next_sequence,
    )
    rehearse(executor.store, request, executor.policy)
    index, since = failure.step_index, failure.sequence
    name = name_of(executor.store, run_id, failure.step_name, index, input_data, since)
    if callable(given):
        step = Step(name, given)
    else:
        step = as_step(step_at(run_id, given, index, failure.step_name), index, name)
    record = executor.step(run_id, step, index, input_data)
    done = replace(request, result=record.output_data, step_sequence=record.sequence)
    decide(executor.store, done, executor.policy)
    return record


def step_at(run_id: str, steps: Sequence[Step], index: int, name: str) -> Step:
    """Return the step at `index`; raise `WorkflowMismatchError` unless it is the recorded one."""
    if index >= len(steps):
        raise WorkflowMismatchError(run_id, index, f"step {name!r}", f"only {len(steps)} steps")
    if steps[index].name != name:
        raise WorkflowMismatchError(run_id, index, repr(name), repr(steps[index].name))
    return steps[index]


def compensation_of(step: Step, index: int) -> StepCallable:
    """Return the `compensate` of a step; raise `InvalidValueError` when it has none."""
    if step.compensate is None:
        raise InvalidValueError(
            "steps",
            f"step {index} {step.name!r} has no compensate; give it one, or pass the function as `fn`",
        )
    return step.compensate


def as_step(step: Step, index: int, name: str) -> Step:
    """Return the compensation of a step as a step of its own, with the same retries and timeout."""
    return replace(
        step,
        name=name,
        fn=compensation_of(step, index),
        on_interrupted="retry",
        reconcile=None,
        compensate=None,
    )


def name_of(
    store: CheckpointStore, run_id: str, step_name: str, index: int, input_data: dict[str, Any], since: int
) -> str:
    """Return the name under which the compensation of a step is recorded.

    `since` is the sequence from which on records count. One before it undid something else with the same
    input: the new one needs a name of its own, and so gets a key of its own.
    """
    name = f"{COMPENSATION_PREFIX}{step_name}"[:_NAME_MAX_CHARACTERS]
    key = generate_idempotency_key(run_id, name, index, payload_hash(input_data))
    earlier = store.get_step_by_idempotency_key(key)
    if earlier is None or earlier.sequence >= since:
        return name
    suffix = f"#{since}"
    return name[: _NAME_MAX_CHARACTERS - len(suffix)] + suffix

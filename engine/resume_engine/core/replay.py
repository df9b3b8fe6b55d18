"""Replay: walk a workflow against its record without touching the outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resume_engine.core.errors import ReplayDivergenceError, RunNotFoundError
from resume_engine.core.idempotency import generate_idempotency_key
from resume_engine.core.payload import payload_hash
from resume_engine.core.run import Run, RunStatus
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step import Step
from resume_engine.core.step_record import StepKind, StepRecord
from resume_engine.core.store import CheckpointStore


def replay(
    store: CheckpointStore, summary: RunSummary, steps: Sequence[Step], initial_input: dict[str, Any] | None
) -> tuple[Run, str]:
    """Return the run and its trace, every completed step checked against the workflow.

    Names, order, inputs and keys are recomputed from the workflow and the recorded outputs; the first
    difference raises `ReplayDivergenceError`. Nothing is written and no step function is called.
    """
    run = store.get_run(summary.run_id)
    if run is None:
        raise RunNotFoundError(summary.run_id)
    completed = {s.step_index: s for s in run.steps if s.is_completed and s.kind is StepKind.STEP}
    state = dict(_start(store, summary, completed, initial_input))
    for index in range(max(completed, default=-1) + 1):
        record = completed.get(index)
        if record is None:
            raise ReplayDivergenceError(run.run_id, index, "?", "the record has no completed attempt of it")
        if index >= len(steps):
            raise ReplayDivergenceError(
                run.run_id, index, record.step_name, f"the workflow has only {len(steps)} steps"
            )
        _check(run, record, steps[index], state)
        state |= record.output_data or {}
    _check_count(run, summary, len(completed), steps)
    return run, run.audit_trace()


def _check_count(run: Run, summary: RunSummary, completed: int, steps: Sequence[Step]) -> None:
    expected = summary.steps_total
    if expected is None:
        # Driven step by step: only a completed run says how many steps it has.
        expected = completed if run.status is RunStatus.COMPLETED else len(steps)
    if len(steps) != expected:
        first = min(len(steps), expected)
        name = steps[first].name if first < len(steps) else "?"
        difference = f"the record has {expected} steps, the workflow has {len(steps)}"
        raise ReplayDivergenceError(run.run_id, first, name, difference)


def _start(
    store: CheckpointStore,
    summary: RunSummary,
    completed: dict[int, StepRecord],
    initial_input: dict[str, Any] | None,
) -> dict[str, Any]:
    recorded = store.load_initial_input(summary.run_id)
    if recorded is None and 0 in completed:
        recorded = completed[0].input_data
    if initial_input is None:
        return recorded or {}
    if recorded is not None and payload_hash(initial_input) != payload_hash(recorded):
        difference = f"the initial input {_differing(recorded, initial_input)}"
        raise ReplayDivergenceError(summary.run_id, 0, "initial input", difference)
    return initial_input


def _check(run: Run, record: StepRecord, step: Step, state: dict[str, Any]) -> None:
    if step.name != record.step_name:
        difference = f"recorded name {record.step_name!r}, workflow name {step.name!r}"
        raise ReplayDivergenceError(run.run_id, record.step_index, step.name, difference)
    input_hash = payload_hash(state)
    if input_hash != record.input_hash:
        difference = f"recorded input {_differing(record.input_data, state)}"
        raise ReplayDivergenceError(run.run_id, record.step_index, step.name, difference)
    key = generate_idempotency_key(run.run_id, step.name, record.step_index, input_hash)
    if key != record.idempotency_key:
        difference = f"recorded key {record.idempotency_key[:12]}, recomputed {key[:12]}"
        raise ReplayDivergenceError(run.run_id, record.step_index, step.name, difference)


def _differing(recorded: dict[str, Any], found: dict[str, Any]) -> str:
    names = sorted(set(recorded) | set(found), key=str)
    parts = [
        f"{name}: {recorded.get(name, '(absent)')!r:.80} -> {found.get(name, '(absent)')!r:.80}"
        for name in names
        if recorded.get(name, _ABSENT) != found.get(name, _ABSENT)
    ]
    return "differs from the replayed one at " + "; ".join(parts[:5])


_ABSENT = object()

"""Replay: walk a workflow against its record without touching the outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from resume_engine.core.audit import EventType
from resume_engine.core.differences import names_diff, payload_diff
from resume_engine.core.errors import ReplayDivergenceError, RunNotFoundError
from resume_engine.core.idempotency import generate_idempotency_key
from resume_engine.core.payload import payload_hash
from resume_engine.core.run import Run, RunStatus
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step import Step
from resume_engine.core.step_record import StepKind, StepRecord
from resume_engine.core.store import CheckpointStore

State = dict[str, Any]


def replay(
    store: CheckpointStore, summary: RunSummary, steps: Sequence[Step], initial_input: State | None
) -> tuple[Run, str]:
    """Return the run and its trace, every completed step checked against the workflow.

    Names, order, inputs and keys are recomputed from the workflow and the recorded outputs; the first
    difference raises `ReplayDivergenceError`. Nothing is written and no step function is called.
    """
    run = store.get_run(summary.run_id)
    if run is None:
        raise RunNotFoundError(summary.run_id)
    _Replay(store, summary, run, steps).walk(initial_input)
    return run, run.audit_trace()


class _Replay:
    """One walk; `state` is what the next step is given."""

    def __init__(self, store: CheckpointStore, summary: RunSummary, run: Run, steps: Sequence[Step]) -> None:
        self.store = store
        self.summary = summary
        self.run = run
        self.names = [step.name for step in steps]
        self.completed = {s.step_index: s for s in run.steps if s.is_completed and s.kind is StepKind.STEP}
        self.state: State = {}
        self.outputs: State = {}
        self._changes_met = 0  # inputs that were changed by name

    def walk(self, initial_input: State | None) -> None:
        self.state = dict(self._start(initial_input))
        for index in range(max(self.completed, default=-1) + 1):
            record = self.completed.get(index)
            if record is None:
                self._diverges(index, "?", "the record has no completed attempt of it")
            self._check(record)
            self.state |= record.output_data or {}
            self.outputs |= record.output_data or {}
        self._check_count()

    def _start(self, initial_input: State | None) -> State:
        recorded = self.store.load_initial_input(self.run.run_id)
        first = self.completed.get(0)
        if recorded is None and first is not None:
            recorded = first.input_data
        if recorded is None:
            return initial_input or {}
        if initial_input is not None and payload_hash(initial_input) != payload_hash(recorded):
            diff = payload_diff(recorded, initial_input)
            self._diverges(0, "initial input", "another initial input than the recorded one", diff)
        if first is not None and payload_hash(recorded) != first.input_hash and self._changes_left():
            return first.input_data  # the run began with another input than it has now
        return recorded

    def _check(self, record: StepRecord) -> None:
        index, name = record.step_index, record.step_name
        if index >= len(self.names) or self.names[index] != name:
            self._names_diverge(index, name)
        input_hash = payload_hash(self.state)
        if input_hash != record.input_hash:
            if not self._takes_changed_input(record):
                # An input that is not stored is made out of the record: then its hash alone tells.
                hashes = (f"- {record.input_hash} (hash)", f"+ {input_hash} (hash)")
                diff = payload_diff(record.input_data, self.state) or hashes
                self._diverges(index, name, "another input than the recorded one", diff)
            self.state, input_hash = dict(record.input_data), record.input_hash
        key = generate_idempotency_key(self.run.run_id, name, index, input_hash)
        if key != record.idempotency_key:
            diff = (f"- {record.idempotency_key}", f"+ {key}")
            self._diverges(index, name, "another idempotency key than the recorded one", diff)

    def _takes_changed_input(self, record: StepRecord) -> bool:
        """Return whether the input was changed by name before this step: then its record is the new state.

        What the steps before it gave out must be in it all the same.
        """
        kept = {name: record.input_data[name] for name in self.outputs if name in record.input_data}
        is_sound = payload_hash(record.input_data) == record.input_hash
        if not is_sound or payload_hash(kept) != payload_hash(self.outputs) or not self._changes_left():
            return False
        self._changes_met += 1
        return True

    def _changes_left(self) -> bool:
        events = self.store.list_events(self.run.run_id)
        return sum(e.event_type == EventType.RUN_INPUT_CHANGED for e in events) > self._changes_met

    def _check_count(self) -> None:
        expected = self.summary.steps_total
        if expected is None:
            # Driven step by step: only a completed run says how many steps it has.
            completed = self.run.status is RunStatus.COMPLETED
            expected = len(self.completed) if completed else len(self.names)
        if len(self.names) != expected:
            first = min(len(self.names), expected)
            self._names_diverge(first, self.names[first] if first < len(self.names) else "?", expected)

    def _names_diverge(self, index: int, recorded: str, expected: int | None = None) -> NoReturn:
        names = list(self.store.load_workflow(self.run.run_id))
        if not names:  # driven step by step, or by an older release
            names = [self.completed[i].step_name for i in sorted(self.completed)]
        given = repr(self.names[index]) if index < len(self.names) else "no step"
        if expected is None:
            difference = f"the record has {recorded!r}, the workflow has {given}"
        else:
            difference = f"the record has {expected} steps, the workflow has {len(self.names)}"
        self._diverges(index, recorded, difference, names_diff(names, self.names))

    def _diverges(self, index: int, name: str, difference: str, diff: Sequence[str] = ()) -> NoReturn:
        raise ReplayDivergenceError(self.run.run_id, index, name, difference, diff)

"""A gate is never skipped: branches that fail beside each other, in random orders."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from resume_engine.core.decisions import DecisionKind
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import ResumeBlockedError
from resume_engine.core.execution import RunExecution, assert_open
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError, TransientStepError
from resume_engine.core.lease import Lease
from resume_engine.core.resume_gates import GateAction, get_resume_blockers, required_actions
from resume_engine.core.run import Environment, RunStatus
from resume_engine.core.step import Step
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import OLGA
from tests.stores.changes import summary

STEPS = 4
ERRORS: dict[FailureClassification, type[Exception]] = {
    FailureClassification.TRANSIENT: TransientStepError,
    FailureClassification.PERMANENT: PermanentStepError,
    FailureClassification.PARTIAL: PartialStepError,
}


def passes(_input: dict[str, Any], _key: str) -> dict[str, Any]:
    return {}


def fails(classification: FailureClassification) -> Callable[..., Any]:
    def fail(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        raise ERRORS[classification](classification.value)

    return fail


def side_by_side(
    store: SqlCheckpointStore, run_id: str, functions: dict[int, Callable[..., Any]], chance: random.Random
) -> None:
    """Let steps that all began before any of them ended, end in random order."""
    lease = Lease(store, "w", 30, exclusive=False)
    executions = {index: RunExecution(store, summary(store, run_id), lease) for index in functions}
    order = list(functions)
    chance.shuffle(order)
    for index in order:
        try:
            assert_open(executions[index].run, f"step_{index}")
            step = Step(f"step_{index}", functions[index])
            executions[index].call(step, executions[index].prepare(step, index, {}))
        except tuple(ERRORS.values()):
            pass
        except ResumeBlockedError:
            executions[index].run = summary(store, run_id)


class Model:
    """What the gates must be: the oracle, which knows only what happened and what was decided."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.missing: dict[int, set[GateAction]] = {}

    def failed(self, index: int, classification: FailureClassification) -> None:
        self.missing[index] = set(required_actions(classification, self.environment))

    def completed(self, index: int) -> None:
        assert not any(self.missing.values()), "an effect behind a closed gate"
        self.missing.pop(index, None)

    @property
    def is_closed(self) -> bool:
        return any(self.missing.values())


@pytest.mark.parametrize("seed", range(12))
def test_no_step_runs_behind_a_closed_gate(
    engine: ResumeEngine, store: SqlCheckpointStore, seed: int
) -> None:
    """Replays exactly with its seed."""
    chance = random.Random(seed)
    environment = chance.choice(list(Environment))
    run_id = engine.start_run("graph", run_id=f"run-{seed}", environment=environment).run_id
    model = Model(environment)
    blocked_attempts = 0
    first = {index: chance.choice([None, *FailureClassification]) for index in range(STEPS)}
    functions = {i: fails(c) if c is not None else passes for i, c in first.items()}
    side_by_side(store, run_id, functions, chance)
    for index, classification in first.items():
        if classification is not None:
            model.failed(index, classification)
    for _ in range(40):
        run = summary(store, run_id)
        assert bool(run.blocked_by) == model.is_closed
        stored = engine.get_run_status(run_id)
        assert stored is not None
        assert bool(get_resume_blockers(stored)) == (model.is_closed and run.status is not RunStatus.RUNNING)
        if chance.random() < 0.5 and run.blocked_by and run.failure is not None:
            action = chance.choice(run.blocked_by)
            engine.decide(run_id, DecisionKind(action.value), OLGA, failure_key=run.failure.key)
            model.missing[run.failure.step_index].discard(action)
            continue
        index = chance.randrange(STEPS)
        if index not in model.missing:
            continue
        classification = chance.choice([None, None, *FailureClassification])
        try:
            engine.execute_step(
                run_id, f"step_{index}", index, {}, fails(classification) if classification else passes
            )
        except ResumeBlockedError:
            blocked_attempts += 1
            assert model.is_closed
        except tuple(ERRORS.values()):
            assert not model.is_closed and classification is not None
            model.failed(index, classification)
        else:
            model.completed(index)
    # Liveness: whatever happened, the run can be brought to its end.
    for _ in range(STEPS * 2):
        run = summary(store, run_id)
        if run.blocked_by and run.failure is not None:
            engine.decide(run_id, DecisionKind(run.blocked_by[0].value), OLGA)
    for index in range(STEPS):
        engine.execute_step(run_id, f"step_{index}", index, {}, passes)
    assert engine.complete_run(run_id).status is RunStatus.COMPLETED
    if environment is Environment.PROD and any(first.values()):
        assert blocked_attempts > 0, "the gates were never tried"


def test_the_second_branch_becomes_current_once_the_first_is_decided(
    engine: ResumeEngine, store: SqlCheckpointStore
) -> None:
    run_id = engine.start_run("graph").run_id
    both = {0: fails(FailureClassification.PERMANENT), 1: fails(FailureClassification.PARTIAL)}
    side_by_side(store, run_id, both, random.Random(1))
    [blocker] = engine.get_resume_blockers(run_id)
    first = DecisionKind(blocker.required_action)
    engine.decide(run_id, first, OLGA)
    [other] = engine.get_resume_blockers(run_id)
    assert {first.value, other.required_action} == {"human_approval", "compensation"}
    with pytest.raises(ResumeBlockedError):
        engine.execute_step(run_id, f"step_{blocker.step_index}", blocker.step_index, {}, passes)
    engine.decide(run_id, DecisionKind(other.required_action), OLGA)
    engine.execute_step(run_id, "step_0", 0, {}, passes)
    with pytest.raises(ValueError, match="failed at step 1; resume it before completing it"):
        engine.complete_run(run_id)
    engine.execute_step(run_id, "step_1", 1, {}, passes)
    assert engine.complete_run(run_id).status is RunStatus.COMPLETED


def test_a_resumed_workflow_stops_at_the_gate_of_another_branch(
    engine: ResumeEngine, store: SqlCheckpointStore
) -> None:
    """A transient failure in front of a permanent one: mending the first does not pass the second."""
    run_id = engine.start_run("graph").run_id
    side_by_side(store, run_id, {0: fails(FailureClassification.TRANSIENT)}, random.Random(1))
    side_by_side(store, run_id, {1: fails(FailureClassification.PERMANENT)}, random.Random(1))
    calls: list[int] = []

    def step(index: int) -> Any:
        return (f"step_{index}", lambda _input, _key: calls.append(index) or {})

    with pytest.raises(ResumeBlockedError, match="human_approval"):
        engine.resume(run_id, [step(0), step(1)])
    assert calls == []
    engine.grant_human_approval(run_id, "olga@example.com")
    assert engine.resume(run_id, [step(0), step(1)]).status is RunStatus.COMPLETED
    assert calls == [0, 1]

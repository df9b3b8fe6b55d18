"""The steps of a case as functions: each does what its script says next, and tells the oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resume_engine.core.retry import Backoff, RetryPolicy
from resume_engine.core.step import Step
from tests.crash.gate_case import Case
from tests.crash.gate_workflow import ERRORS, Crash, Scripted


def workflow_of(case: Case) -> list[Step]:
    """Return the steps as a runner gives them to the engine."""
    return [_step(case, index, scripted) for index, scripted in enumerate(case.steps)]


def _step(case: Case, index: int, scripted: Scripted) -> Step:
    return Step(
        scripted.name,
        function_of(case, index, "workflow"),
        retry=RetryPolicy(attempts=scripted.attempts, backoff=Backoff(base_seconds=0, cap_seconds=0)),
        on_interrupted="gate" if scripted.on_interrupted == "gate" else "retry",
        reconcile=_reconciliation(case, index) if scripted.found is not None else None,
        compensate=compensation_of(case, index) if scripted.undone is not None else None,
    )


def function_of(case: Case, index: int, how: str) -> Callable[[dict[str, Any], str], dict[str, Any]]:
    """Return what the step does, called by its workflow or by hand as `how` says."""
    scripted = case.steps[index]

    def act(state: dict[str, Any], key: str) -> dict[str, Any]:
        case.inputs[index] = state
        case.oracle.acts(index, scripted.name, state, key, how)
        case.tried[index] += 1
        outcome = _next(scripted.outcomes, "complete")
        case.counts.outcomes[outcome] += 1
        case.told.append(f"  {how} {scripted.name}: {outcome}")
        if case.chance.random() < 0.03:
            case.clock.advance(31 * 60)  # a step may take longer than decisions last
        if outcome == "complete":
            case.oracle.completes(index, key)
            return {scripted.name: len(case.oracle.effects)}
        if outcome == "crash":
            case.oracle.is_cut_off(index, how)
            raise Crash
        _fail(case, index, outcome, tries=scripted.attempts if how == "workflow" else 1)
        raise ERRORS[outcome](f"{outcome} as the script says")

    return act


def _fail(case: Case, index: int, outcome: str, *, tries: int) -> None:
    again = outcome == "transient" and case.tried[index] < tries
    case.counts.failures["retried" if again else f"{outcome} in {case.environment}"] += 1
    case.oracle.fails(index, outcome, again=again)


def _reconciliation(case: Case, index: int) -> Callable[[dict[str, Any], str], dict[str, Any] | None]:
    scripted = case.steps[index]

    def find(state: dict[str, Any], key: str) -> dict[str, Any] | None:
        case.oracle.acts(index, scripted.name, state, key, "reconcile")
        outcome = _next(scripted.found, "none")
        case.counts.outcomes[f"reconcile: {outcome}"] += 1
        case.told.append(f"  reconcile {scripted.name}: {outcome}")
        if outcome == "crash":
            case.oracle.is_cut_off(index, "reconcile")
            raise Crash
        if outcome == "fails":
            case.oracle.fails(index, "permanent")
            raise ConnectionError("nobody knows")
        if outcome == "none":
            return None
        case.oracle.completes(index, key)
        return {scripted.name: "found"}

    return find


def compensation_of(case: Case, index: int) -> Callable[[dict[str, Any], str], dict[str, Any]]:
    """Return what undoes the step."""
    scripted = case.steps[index]

    def undo(_state: dict[str, Any], _key: str) -> dict[str, Any]:
        case.oracle.undoes(index)
        outcome = _next(scripted.undone, "complete")
        case.counts.outcomes[f"compensate: {outcome}"] += 1
        case.told.append(f"  compensate {scripted.name}: {outcome}")
        if outcome == "crash":
            raise Crash
        case.oracle.undid(index, "completed" if outcome == "complete" else "failed")
        if outcome == "complete":
            return {"undone": index}
        raise ERRORS[outcome]("it cannot be undone")

    return undo


def _next(outcomes: list[str] | None, otherwise: str) -> str:
    return outcomes.pop(0) if outcomes else otherwise

"""What a workflow of the demo is made of: steps that take time, give outputs and can fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from resume_engine import PartialStepError, PermanentStepError, Step, TransientStepError

State = dict[str, Any]
Gives = Callable[[Random, State], State]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One way a step can fail, and what a person would say when the cause is gone."""

    error: type[Exception]
    message: str
    fixed: str = "Looked into it, the cause is gone."
    undo: State | None = None  # result of the compensation, for partial failures

    def exception(self) -> Exception:
        """Return a new exception to raise."""
        return self.error(self.message)


def transient(message: str, error: type[Exception] = TransientStepError, *, fixed: str = "") -> Fault:
    """Return a fault that goes away by itself."""
    return Fault(error=error, message=message, fixed=fixed or "Provider reports the incident as resolved.")


def permanent(message: str, fixed: str, error: type[Exception] = PermanentStepError) -> Fault:
    """Return a fault that a person has to mend."""
    return Fault(error=error, message=message, fixed=fixed)


def partial(message: str, fixed: str, undo: State) -> Fault:
    """Return a fault that leaves side effects behind."""
    return Fault(error=PartialStepError, message=message, fixed=fixed, undo=undo)


@dataclass(frozen=True, kw_only=True)
class DemoStep:
    """One step: how long it takes in seconds (least, most), what it returns, how it can fail."""

    name: str
    seconds: tuple[float, float]
    gives: Gives
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DemoWorkflow:
    """A workflow: its steps, an input for a new run, and who is responsible."""

    name: str
    team: str
    starts_with: Callable[[Random], State]
    steps: tuple[DemoStep, ...]

    def step(self, name: str) -> DemoStep:
        """Return the step with this name."""
        return next(step for step in self.steps if step.name == name)


class Stage(Protocol):
    """Where steps are played: the simulated past, or the present."""

    def spend(self, seconds: float) -> None:
        """Let the time pass that the step takes."""
        ...

    def strike(self, step: DemoStep, state: State, key: str) -> None:
        """Raise if the step is to fail now."""
        ...


def step(name: str, seconds: tuple[float, float], gives: Gives | None = None, *faults: Fault) -> DemoStep:
    """Return a step; without `gives` it only reports that it is done."""
    return DemoStep(
        name=name, seconds=seconds, gives=gives or (lambda r, s: {f"{name}_done": True}), faults=faults
    )


def playable(workflow: DemoWorkflow, stage: Stage) -> list[Step]:
    """Return the steps of `workflow` for the engine, played on `stage`.

    What a step returns depends on nothing but its idempotency key and its state, so that every attempt
    of it, in whatever process, gives the same.
    """
    return [Step(part.name, _function(part, stage)) for part in workflow.steps]


def _function(part: DemoStep, stage: Stage) -> Callable[[State, str], State]:
    def play(state: State, key: str) -> State:
        rng = Random(key)
        stage.spend(rng.uniform(*part.seconds))
        stage.strike(part, state, key)
        return part.gives(rng, state)

    return play


def number(r: Random, prefix: str, digits: int = 6) -> str:
    """Return an identifier such as `CLM-204817`."""
    return f"{prefix}{r.randrange(10 ** (digits - 1), 10**digits)}"


def token(r: Random, prefix: str, length: int = 10) -> str:
    """Return an identifier such as `ch_4f0c9a71be`."""
    return prefix + "".join(r.choice("0123456789abcdef") for _ in range(length))

"""The workflow that is disturbed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError
from resume_engine.core.retry import Backoff, RetryPolicy
from resume_engine.core.run import Run
from resume_engine.core.step import Step
from tests.crash.effects import Effects

STEPS = ("reserve", "charge", "ship", "invoice", "notify", "close")
StepFunction = Callable[[dict[str, Any], str], dict[str, Any]]


def retried_after(seconds: float) -> dict[str, Any]:
    """Return the options of a step that is tried three times, with that wait between."""
    backoff = Backoff(base_seconds=seconds, cap_seconds=seconds, jitter=0)
    return {"retry": RetryPolicy(attempts=3, backoff=backoff)}


def undoable(effects: Effects, run_id: str) -> list[Step]:
    """Return five steps whose compensations leave their mark outside, and one that fails for good."""

    def undo(index: int) -> StepFunction:
        return lambda _state, key: {"undone": effects.act(run_id, str(index), key)}

    def decline(_state: dict[str, Any], _key: str) -> dict[str, Any]:
        raise PermanentStepError("declined")

    steps = [Step(f"step_{i}", lambda _state, _key: {}, compensate=undo(i)) for i in range(5)]
    return [*steps, Step("decline", decline)]


def declined(effects: Effects, run_id: str, kind: str) -> list[Step]:
    """Return four steps: the second fails at its first call as `kind` says, the fourth always for good."""

    def step(name: str) -> Step:
        def act(_state: dict[str, Any], key: str) -> dict[str, Any]:
            if name == "close":
                raise PermanentStepError("closed")
            if name == "charge" and not effects.count("declined", run_id):
                effects.note("declined", run_id)
                raise PartialStepError("half") if kind == "compensation" else PermanentStepError("declined")
            time.sleep(random.random() * 0.01)
            nonce = effects.act(run_id, name, key)
            time.sleep(random.random() * 0.01)
            return {name: nonce}

        return Step(name, act)

    return [step(name) for name in ("reserve", "charge", "ship", "close")]


class Client:
    """Execute workflows and write down what the engine says was recorded.

    `options` are given to the step `charge`; it fails like that when it is called for the
    first time, if `fails_first` says how.
    """

    def __init__(
        self,
        effects: Effects,
        *,
        pause_seconds: float = 0.002,
        names: Sequence[str] = STEPS,
        fails_first: type[Exception] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.names = names
        self._effects = effects
        self._pause = pause_seconds
        self._fails_first = fails_first
        self._options = dict(options or {})
        self._told: set[tuple[str, str]] = set()

    def steps(self, run_id: str) -> list[Step]:
        """Return the workflow of one run; every step leaves its mark outside."""
        return [
            Step(name, self._step(run_id, name), **(self._options if name == "charge" else {}))
            for name in self.names
        ]

    def execute(self, engine: ResumeEngine, run_id: str) -> Run:
        """Execute or resume a run to its end."""
        done = engine.resume(run_id, self.steps(run_id), initial_input={"order": run_id})
        for record in done.steps:
            if record.is_completed:
                self._acknowledge(run_id, record.step_name, (record.output_data or {})[record.step_name])
        self._effects.note("finished", run_id)
        return done

    def _step(self, run_id: str, name: str) -> StepFunction:
        def act(state: dict[str, Any], key: str) -> dict[str, Any]:
            for earlier in self.names[: self.names.index(name)]:
                # That a step is called with the output of another says that the other is on record.
                self._acknowledge(run_id, earlier, state[earlier])
            if self._fails_first and name == "charge" and not self._effects.count("flaked", run_id):
                self._effects.note("flaked", run_id)
                raise self._fails_first("not now")
            time.sleep(random.random() * self._pause)
            nonce = self._effects.act(run_id, name, key)
            time.sleep(random.random() * self._pause)
            return {name: nonce}

        return act

    def _acknowledge(self, run_id: str, step: str, nonce: str) -> None:
        if (run_id, step) not in self._told:
            self._told.add((run_id, step))
            self._effects.note("acknowledged", run_id, step, nonce)

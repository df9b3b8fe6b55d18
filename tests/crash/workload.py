"""The workflow that is disturbed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.run import Run
from resume_engine.core.step import Step
from tests.crash.effects import Effects

STEPS = ("reserve", "charge", "ship", "invoice", "notify", "close")
StepFunction = Callable[[dict[str, Any], str], dict[str, Any]]


class Client:
    """Execute workflows and write down what the engine says was recorded."""

    def __init__(
        self, effects: Effects, *, pause_seconds: float = 0.002, names: Sequence[str] = STEPS
    ) -> None:
        self.names = names
        self._effects = effects
        self._pause = pause_seconds
        self._told: set[tuple[str, str]] = set()

    def steps(self, run_id: str) -> list[Step]:
        """Return the workflow of one run; every step leaves its mark outside."""
        return [Step(name, self._step(run_id, name)) for name in self.names]

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
            time.sleep(random.random() * self._pause)
            nonce = self._effects.act(run_id, name, key)
            time.sleep(random.random() * self._pause)
            return {name: nonce}

        return act

    def _acknowledge(self, run_id: str, step: str, nonce: str) -> None:
        if (run_id, step) not in self._told:
            self._told.add((run_id, step))
            self._effects.note("acknowledged", run_id, step, nonce)

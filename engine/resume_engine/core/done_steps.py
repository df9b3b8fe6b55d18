"""What the completed steps of a run left to those behind them, read without holding every output."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from resume_engine.core.step_record import StepOutput

State = dict[str, Any]


class DoneSteps:
    """Outputs of completed steps: those from the first step on without a gap merged, the others by index.

    Of a step that was completed twice the later output counts, at the place of the step.
    """

    def __init__(self) -> None:
        self.first_input: State | None = None
        self._merged: State = {}
        self._merged_steps = 0
        self._others: dict[int, State] = {}

    @classmethod
    def read(cls, outputs: Callable[[], Iterable[StepOutput]]) -> DoneSteps:
        """Return what `outputs` gives; it is asked a second time when a step was completed twice."""
        made = cls()
        if made._added(outputs()):
            return made
        made = cls()
        for done in outputs():
            made._hold(done)
        made._merge()
        return made

    def first_left(self, start: int, end: int) -> int:
        """Return the first index from `start` on whose step is not completed, `end` if all are."""
        start = max(start, self._merged_steps)
        return next((index for index in range(start, end) if index not in self._others), end)

    def state_before(self, index: int, initial_input: State) -> State:
        """Return the initial input merged with the outputs of the steps before `index`, one that is left."""
        state = {**initial_input, **self._merged}
        for earlier in sorted(self._others):
            if earlier < index:
                state |= self._others[earlier]
        return state

    def behind(self, index: int) -> dict[int, State]:
        """Return the outputs of the steps behind `index`."""
        return {later: output for later, output in self._others.items() if later > index}

    def _added(self, outputs: Iterable[StepOutput]) -> bool:
        """Merge as many as can be merged; return False at a step that was completed twice."""
        merged, others, following = self._merged, self._others, 0
        for done in outputs:
            index = done.step_index
            if index != following:
                if index < following or index in others:
                    return False
                self._hold(done)
                continue
            merged |= done.output_data
            if index == 0:
                self.first_input = done.first_input
            following += 1
            while following in others:
                merged |= others.pop(following)
                following += 1
        self._merged_steps = following
        return True

    def _hold(self, done: StepOutput) -> None:
        self._others[done.step_index] = done.output_data
        if done.step_index == 0:
            self.first_input = done.first_input

    def _merge(self) -> None:
        while self._merged_steps in self._others:
            self._merged |= self._others.pop(self._merged_steps)
            self._merged_steps += 1

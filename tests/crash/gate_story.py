"""A run from its start to its end, and everything that may be done to it between and around its resumes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from resume_engine.core.errors import ResumeEngineError
from tests.crash import gate_clients, gate_decisions, gate_resumes
from tests.crash.gate_case import Case, Counts
from tests.crash.gate_ground import Ground
from tests.crash.gate_workflow import ERRORS, Crash

Move = Callable[[Case], None]
EXPECTED = (ResumeEngineError, *ERRORS.values(), ConnectionError, Crash)
"""How a move may end; everything else is a failure of the test."""


def let_time_pass(case: Case) -> None:
    """Let minutes go by, or the end of decisions."""
    case.clock.advance(60 * case.chance.choice([1, 20, 31, 61]))


WEIGHTS: Mapping[Move, float] = {
    gate_resumes.resume: 8,
    gate_resumes.resume_over_http: 0.5,
    gate_resumes.resume_an_outdated_version: 0.5,
    gate_resumes.resume_with_another_input: 0.7,
    gate_resumes.execute_from_somewhere: 1,
    gate_resumes.execute_by_hand: 2,
    gate_clients.append_step: 1,
    gate_clients.append_step_over_http: 0.3,
    gate_clients.update_run: 1,
    gate_clients.patch_over_http: 0.5,
    gate_resumes.complete_run: 0.4,
    gate_clients.validate_over_http: 0.3,
    gate_decisions.look_at_blockers: 0.5,
    gate_decisions.decide: 5,
    gate_decisions.decide_all: 4,
    gate_decisions.decide_about_another_gate: 1,
    gate_decisions.decide_in_the_wrong_role: 0.7,
    gate_decisions.decide_as_who_started: 0.7,
    gate_decisions.decide_about_an_old_failure: 1,
    gate_decisions.decide_by_a_library_call: 1,
    gate_decisions.decide_over_http: 0.7,
    gate_decisions.compensate: 2,
    gate_decisions.reject: 0.1,
    let_time_pass: 3,
}
MOVES = tuple(move.__name__ for move in WEIGHTS)


class Story:
    """What happens to one case; every move is drawn from `chance`."""

    def __init__(self, ground: Ground, chance: random.Random, number: int, counts: Counts) -> None:
        self.case = Case(ground, chance, number, counts)
        # However few stories there are, each move is among them.
        self.first_move = tuple(WEIGHTS)[number % len(WEIGHTS)]

    def happens(self) -> None:
        """Let the run begin, be disturbed, and come to its end; raise when a gate was skipped."""
        case = self.case
        case.counts.stories += 1
        case.counts.steps += len(case.steps)
        gate_resumes.start(case)
        self._do(gate_resumes.begin)
        moves = case.chance.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()), k=case.chance.randint(3, 14))
        for move in (self.first_move, *moves):
            self._do(move)
        self._finish()
        self._compare()
        case.counts.effects += len(case.oracle.effects)
        case.counts.waited += case.oracle.waited

    def _do(self, move: Move) -> None:
        case, name = self.case, move.__name__
        case.tried.clear()
        case.counts.moves[name] += 1
        try:
            move(case)
            case.told.append(name)
        except EXPECTED as refused:
            case.counts.refusals[type(refused).__name__] += 1
            case.told.append(f"{name}: {type(refused).__name__}: {refused}")
        for event in case.oracle.looks():
            case.counts.events[event.event_type] += 1
            if event.event_type == "run.updated" and event.payload["status"] == "completed":
                case.oracle.finished = "set to completed"
        assert not case.oracle.damage, case.tale()

    def _finish(self) -> None:
        """Without further faults the run comes to its end, once people have decided."""
        for step in self.case.steps:
            step.outcomes.clear()
            if step.found is not None:
                step.found.clear()
        for _ in range(40):
            if self.case.oracle.finished is not None:
                return
            self._do(gate_decisions.decide_all)
            self._do(gate_resumes.resume)
            self._do(gate_resumes.repeat_by_hand)
        raise AssertionError(f"the run does not come to its end\n{self.case.tale()}")

    def _compare(self) -> None:
        """What the steps saw is what is on record."""
        case = self.case
        found = [(r.step_index, r.status.value) for r in case.store.iter_steps(case.run_id)]
        assert found == case.oracle.records, f"{found}\n{case.oracle.records}\n{case.tale()}"

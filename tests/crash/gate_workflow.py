"""Workflows and policies made by chance: what each step is to do, and what must be decided behind it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError, TransientStepError
from tests.crash.gate_oracle import KINDS, Asked

ENVIRONMENTS = ("dev", "staging", "prod")
WRONG = ("complete", "transient", "partial", "permanent", "crash")
ERRORS: Mapping[str, type[Exception]] = {
    "transient": TransientStepError,
    "permanent": PermanentStepError,
    "partial": PartialStepError,
}


class Crash(BaseException):
    """The executor vanishes: nothing catches it, and nothing is written."""


@dataclass
class Scripted:
    """A step, and what its attempts, its compensation and its reconciliation do, one after the other."""

    name: str
    attempts: int
    on_interrupted: str
    outcomes: list[str]
    undone: list[str] | None
    found: list[str] | None


def random_rules(chance: random.Random) -> list[Asked]:
    """Return no policy, one rule for everything, or one rule for a part and one for the rest."""

    def rule(**fits: Any) -> Asked:
        return Asked(
            roles=chance.choice([("operator", "admin"), ("operator", "admin"), ("admin",)]),
            approvers=chance.choice([1, 1, 2, 2, 3]),
            not_starter=chance.random() < 0.3,
            not_input_editor=chance.random() < 0.2,
            note_required=chance.random() < 0.3,
            minutes=chance.choice([None, 30, 30]),
            api_keys=chance.random() < 0.8,
            **fits,
        )

    count = chance.choice([0, 1, 1, 2])
    if count < 2:
        return [rule() for _ in range(count)]
    if chance.random() < 0.5:
        return [rule(environments=tuple(chance.sample(ENVIRONMENTS, chance.randint(1, 2)))), rule()]
    return [rule(decisions=tuple(chance.sample(KINDS, chance.randint(1, 2)))), rule()]


def random_workflow(chance: random.Random, number: int) -> list[Scripted]:
    """Return one to eight steps of which about every second goes wrong some time."""

    def some(words: Sequence[str], most: int) -> list[str]:
        return [chance.choice(words) for _ in range(chance.randint(0, most))]

    steps = [
        Scripted(
            name=f"step_{index}",
            attempts=chance.choice([1, 1, 2, 3]),
            on_interrupted=chance.choice(["retry", "gate"]),
            outcomes=["crash"] * 6 if chance.random() < 0.02 else some(WRONG, chance.choice([0, 1, 2, 4])),
            undone=some(("complete", "transient", "permanent", "crash"), 2)
            if chance.random() < 0.7
            else None,
            found=some(("found", "none", "fails", "crash"), 2) if chance.random() < 0.4 else None,
        )
        for index in range(chance.randint(1, 8))
    ]
    # However few stories there are, each failure in each environment is among them.
    steps[0].outcomes.insert(0, WRONG[number % len(WRONG)])
    steps[0].attempts = number % 3 + 1
    return steps


def environment_of(number: int) -> str:
    """Return where the story of that number takes place: all ways to fail in one, then in the next."""
    return ENVIRONMENTS[number // len(WRONG) % len(ENVIRONMENTS)]

"""The run that a story is about: who works on it, who watches it, and what was told of it so far."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.policy import NO_POLICY, Policy
from resume_engine.core.policy_file import parse_policy
from tests.crash.gate_ground import Ground
from tests.crash.gate_oracle import Asked, Oracle
from tests.crash.gate_workflow import environment_of, random_rules, random_workflow
from webapp.extensions import services

STARTER = "ana"


@dataclass
class Counts:
    """How often each thing happened, over many stories."""

    moves: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    stories: int = 0
    steps: int = 0
    effects: int = 0
    waited: int = 0


class Case:
    """One run with its workflow and its policy; whatever is done to it is drawn from `chance`."""

    def __init__(self, ground: Ground, chance: random.Random, number: int, counts: Counts) -> None:
        self.ground, self.chance, self.counts = ground, chance, counts
        self.store, self.clock = ground.store, ground.clock
        self.run_id = f"run-{number}"
        self.environment = environment_of(number)
        self.rules = random_rules(chance)
        self.steps = random_workflow(chance, number)
        policy = _policy(self.rules)
        services(ground.app).engine.policy = policy
        self.engines = [ResumeEngine(self.store, owner=f"worker-{n}", policy=policy) for n in (1, 2)]
        self.remote = ResumeEngine(ground.remote, owner="worker-3")
        self.oracle = self._oracle()
        self.inputs: dict[int, dict[str, Any]] = {}  # what each step saw last
        self.tried: Counter[int] = Counter()  # attempts of each step within one move
        self.told: list[str] = []

    def _oracle(self) -> Oracle:
        return Oracle(
            run_id=self.run_id,
            environment=self.environment,
            rules=self.rules,
            starter=STARTER,
            owners=self.ground.owners,
            asking={n for n, step in enumerate(self.steps) if step.on_interrupted == "gate"},
            events=lambda: self.store.list_events(self.run_id),
            now=self.clock.now,
        )

    def engine(self) -> ResumeEngine:
        """Return one of the two engines on the database, whichever it happens to be."""
        return self.chance.choice(self.engines)

    def input_of(self, index: int) -> dict[str, Any]:
        """Return what somebody outside the workflow hands to a step: what it saw last, or something else."""
        known = self.inputs.get(index)
        return known if known is not None and self.chance.random() < 0.7 else {"by": "hand"}

    def tale(self) -> str:
        """Return what went wrong and all that led to it."""
        rules = [rule.toml(str(n)).replace("\n", " ") for n, rule in enumerate(self.rules)]
        return "\n  ".join(
            [*self.oracle.damage, f"{self.run_id} in {self.environment}", *rules, *self.told[-40:]]
        )


def _policy(rules: Sequence[Asked]) -> Policy:
    text = "\n".join(rule.toml(f"rule {n}") for n, rule in enumerate(rules))
    return parse_policy(text, "by chance") if text else NO_POLICY

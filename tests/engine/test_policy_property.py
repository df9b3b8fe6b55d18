"""A gate opens only for enough different people whom the policy lets decide, and only until a decision ends.

Random policies, people, times and resumes; what the engine did is compared with a ledger kept here.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resume_engine.core import clock, decision_end, gate_closing, gate_standing
from resume_engine.core.actor import Actor, Channel
from resume_engine.core.decision import DecisionKind
from resume_engine.core.decisions import DecisionRequest, decide
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import DecisionError, ResumeBlockedError
from resume_engine.core.failure_classifier import PermanentStepError
from resume_engine.core.permissions import Role
from resume_engine.core.policy import Policy, Requirement, Rule
from resume_engine.core.run_change import RunChange
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.stores.changes import event, summary
from tests.stores.conftest import wipe

PEOPLE = ("ana", "Ana ", "bob", "cem", "dia")
ROLES = (Role.OPERATOR, Role.ADMIN)
CHANNELS = (Channel.DASHBOARD, Channel.API)


@dataclass
class Ledger:
    """What was decided about the current failure, kept apart from the engine."""

    needed: Requirement
    starter: str
    editor: str
    made: list[tuple[Actor, datetime]] = field(default_factory=list)

    def may(self, actor: Actor) -> bool:
        """Say whether the policy lets somebody decide."""
        name = actor.name.strip().lower()
        return (
            actor.role in self.needed.roles
            and (self.needed.api_keys or actor.channel is not Channel.API)
            and not (self.needed.not_starter and name == self.starter)
            and not (self.needed.not_input_editor and name == self.editor)
        )

    def people(self, now: datetime) -> set[str]:
        """Return whose decisions hold now."""
        return {
            actor.name.strip().lower()
            for actor, at in self.made
            if self.may(actor) and (self.needed.expires_after is None or now < at + self.needed.expires_after)
        }


def random_requirement(chance: random.Random) -> Requirement:
    return Requirement(
        rule="r",
        roles=frozenset(chance.sample(ROLES, chance.randint(1, 2))),
        approvers=chance.randint(1, 3),
        not_starter=chance.random() < 0.5,
        not_input_editor=chance.random() < 0.5,
        note_required=chance.random() < 0.3,
        expires_after=chance.choice([None, timedelta(minutes=30)]),
        api_keys=chance.random() < 0.6,
    )


def scenario(store: SqlCheckpointStore, chance: random.Random) -> int:
    """Let random people decide and resume; return how often a gate opened."""
    wipe(store)
    now = [datetime(2026, 3, 1, 12, tzinfo=clock.utc_now().tzinfo)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(clock, "utc_now", lambda: now[0])
        needed = random_requirement(chance)
        policy = Policy(rules=(Rule(name="r", requirement=needed),))
        ledger = Ledger(needed, starter="ana", editor="bob")
        engine = ResumeEngine(store, policy=policy)
        engine.start_run("billing", run_id="run-1", actor=Actor(name="ana", role=Role.OPERATOR))
        run = summary(store)
        store.commit(
            RunChange(before=run, after=run, events=(event(event_type="run.input_changed", actor="bob"),))
        )

        def step(_: dict[str, Any], __: str) -> dict[str, Any]:
            if ledger.made:
                assert len(ledger.people(now[0])) >= needed.approvers, "the step ran for too few people"
            raise PermanentStepError("again")

        def resume() -> None:
            try:
                engine.resume("run-1", [("only", step)])
            except PermanentStepError:
                ledger.made.clear()  # a new failure, a new gate
            except ResumeBlockedError:
                pass

        with pytest.raises(PermanentStepError):
            engine.execute_workflow("run-1", [("only", step)], initial_input={})
        opened = 0
        for _ in range(chance.randint(4, 14)):
            now[0] += timedelta(minutes=chance.choice([0, 1, 20, 31]))
            if chance.random() < 0.2:
                resume()
                continue
            actor = Actor(
                name=chance.choice(PEOPLE), role=chance.choice(ROLES), channel=chance.choice(CHANNELS)
            )
            request = DecisionRequest(
                run_id="run-1", kind=DecisionKind.HUMAN_APPROVAL, actor=actor, note=chance.choice([None, "x"])
            )
            try:
                after, decision = decide(store, request, policy)
            except DecisionError:
                continue
            assert ledger.may(actor), f"{actor} was let decide"
            assert request.note or not needed.note_required
            ledger.made.append((actor, now[0]))
            assert decision.opened is (not after.blocked_by)
            if decision.opened:
                opened += 1
                assert len(ledger.people(now[0])) >= needed.approvers, "it opened for too few people"
        return opened


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chance=st.randoms(use_true_random=False))
def test_a_gate_opens_only_for_enough_people_who_may(
    store: SqlCheckpointStore, chance: random.Random
) -> None:
    scenario(store, chance)


def test_gates_do_open(store: SqlCheckpointStore) -> None:
    """The property above is not held by a gate that never opens."""
    assert sum(scenario(store, random.Random(seed)) for seed in range(30)) >= 10


def counts_everybody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gate_standing, "person_behind", lambda decision, _: str(decision.ordinal))


def objects_to_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("resume_engine.core.judgement.objection", lambda *_: None)


def counts_what_has_ended(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gate_standing, "has_ended", lambda *_: False)


def resumes_on_what_has_ended(patch: pytest.MonkeyPatch) -> None:
    for module in (gate_closing, decision_end):
        patch.setattr(module, "is_over", lambda *_: False)


@pytest.mark.parametrize(
    "broken", [counts_everybody, objects_to_nobody, counts_what_has_ended, resumes_on_what_has_ended]
)
def test_the_property_sees_a_rule_that_is_missing(
    store: SqlCheckpointStore, broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    found = 0
    for seed in range(200):
        try:
            scenario(store, random.Random(seed))
        except AssertionError:
            found += 1
            break
    assert found, "taking the rule out was not noticed in 200 scenarios"

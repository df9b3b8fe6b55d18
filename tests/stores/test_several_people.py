"""Decisions that take several people, on a real store: who counts, and how often."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.decisions import decide
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import AlreadyDecidedError, AnotherPersonNeededError, ResumeBlockedError
from resume_engine.core.permissions import Role
from resume_engine.core.policy import NO_POLICY
from resume_engine.core.resume_gates import GateAction, get_resume_blockers
from resume_engine.core.run import Environment, RunStatus
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.stores.changes import change, failed, summary
from tests.stores.under_policy import (
    ACK,
    ANA,
    APPROVE,
    BOB,
    CEM,
    COMPENSATE,
    REJECT,
    TWO,
    blocked,
    compensated,
    done,
    key_of,
    kinds_of_events,
    rule,
    wanted,
)

# Several people


def test_the_gate_stays_closed_until_the_second_person(store: SqlCheckpointStore) -> None:
    blocked(store)
    before = summary(store)
    run, first = decide(store, wanted(actor=ANA, note="looks right"), TWO)
    written = ("updated_at", "version", "change_id", "chain_seq", "chain_head")
    kept = {name: getattr(before, name) for name in written}
    assert replace(run, **kept) == before, "one of two changes nothing else of the run"
    assert (first.ordinal, first.opened) == (1, False)
    found = store.get_run("run-1")
    assert found is not None and "gates" in found.metadata and found.metadata["gates"] == {}
    assert len(get_resume_blockers(found)) == 1, "0.2.0's reading of the metadata keeps the gate closed too"
    [blocker] = ResumeEngine(store, policy=TWO).get_resume_blockers("run-1")
    assert (blocker.approvals_given, blocker.approvals_needed) == (1, 2)

    run, second = decide(store, wanted(actor=BOB), TWO)
    assert (run.status, run.blocked_by, run.cleared_by) == (RunStatus.PAUSED, (), "bob")
    assert (second.ordinal, second.opened) == (2, True)
    assert [d.actor for d in store.list_decisions("run-1")] == ["ana", "bob"]
    payloads = [e.payload for e in store.list_events("run-1") if e.event_type == "gate.approved"]
    assert payloads == [
        {"rule": "the rule", "approvers": 2, "opened": False},
        {"rule": "the rule", "approvers": 2, "opened": True},
    ]


def test_a_refusal_counts_people_too(store: SqlCheckpointStore) -> None:
    blocked(store)
    decide(store, wanted(actor=ANA), TWO)
    engine, steps = ResumeEngine(store, policy=TWO), [("step_0", done)]
    for refused in (
        lambda: engine.resume("run-1", steps),
        lambda: engine.execute_workflow("run-1", steps),
        lambda: engine.execute_step("run-1", "step_0", 0, {}, done),
        lambda: engine.complete_run("run-1"),
    ):
        with pytest.raises(ResumeBlockedError) as refusal:
            refused()
        [blocker] = refusal.value.blockers
        assert (blocker.approvals_given, blocker.approvals_needed) == (1, 2)


def test_nobody_counts_twice(store: SqlCheckpointStore) -> None:
    blocked(store)
    decide(store, wanted(), TWO)
    for again in (ANA, replace(ANA, name=" ANA "), replace(ANA, channel=Channel.CLI)):
        with pytest.raises(AnotherPersonNeededError, match="1 of 2 people have, another person is needed"):
            decide(store, wanted(actor=again), TWO)
    assert summary(store).blocked_by == (GateAction.HUMAN_APPROVAL,)
    assert len(store.list_decisions("run-1")) == 1
    assert kinds_of_events(store).count("gate.refused") == 3


def test_a_key_counts_as_the_person_who_made_it(store: SqlCheckpointStore) -> None:
    blocked(store)
    hers, his = key_of(store, "aaaaaaaa", "Ana"), key_of(store, "bbbbbbbb", "bob")
    decide(store, wanted(actor=hers), TWO)
    for herself in (ANA, hers, key_of(store, "cccccccc", "ana")):
        with pytest.raises(AnotherPersonNeededError):
            decide(store, wanted(actor=herself), TWO)
    run, _ = decide(store, wanted(actor=his), TWO)
    assert run.blocked_by == ()


def test_whoever_comes_after_the_last_one_is_told(store: SqlCheckpointStore) -> None:
    blocked(store)
    decide(store, wanted(actor=ANA), TWO)
    decide(store, wanted(actor=BOB), TWO)
    with pytest.raises(AlreadyDecidedError, match="already decided .* by bob"):
        decide(store, wanted(actor=CEM), TWO)


def test_one_rejection_ends_it(store: SqlCheckpointStore) -> None:
    blocked(store)
    decide(store, wanted(actor=ANA), TWO)
    run, _ = decide(store, wanted(REJECT, BOB), TWO)
    assert run.status is RunStatus.CANCELLED
    with pytest.raises(AlreadyDecidedError, match="by bob"):
        decide(store, wanted(actor=CEM), TWO)


def test_each_gate_needs_its_own_people(store: SqlCheckpointStore) -> None:
    blocked(store, environment=Environment.PROD)
    for actor in (ANA, BOB):
        decide(store, wanted(APPROVE, actor), TWO)
    run, _ = decide(store, wanted(ACK, ANA), TWO)
    assert run.blocked_by == (GateAction.PROD_RESUME_ACK,)
    run, _ = decide(store, wanted(ACK, BOB), TWO)
    assert run.blocked_by == ()


def test_a_new_failure_needs_them_anew(store: SqlCheckpointStore) -> None:
    blocked(store)
    decide(store, wanted(actor=ANA), TWO)
    decide(store, wanted(actor=BOB), TWO)
    store.commit(change(summary(store), failed(1, index=0)))
    run, decision = decide(store, wanted(actor=ANA), TWO)
    assert run.blocked_by and (decision.failure_key, decision.ordinal) == ("0:1", 1)


def test_a_policy_that_asks_for_fewer_takes_one_more_decision(store: SqlCheckpointStore) -> None:
    blocked(store)
    decide(store, wanted(actor=ANA), TWO)
    run, _ = decide(store, wanted(actor=ANA), NO_POLICY)
    assert run.blocked_by == ()


def test_what_the_policy_in_force_does_not_let_count_does_not(store: SqlCheckpointStore) -> None:
    blocked(store)
    decide(store, wanted(actor=replace(ANA, channel=Channel.API)), TWO)
    people = rule("approvers = 2\napi_keys = false")
    run, _ = decide(store, wanted(actor=BOB), people)
    assert run.blocked_by, "the key's approval does not count any more"
    run, _ = decide(store, wanted(actor=CEM), people)
    assert run.blocked_by == ()


# Compensations that the engine runs


def test_engines_count_as_one_and_people_confirm(store: SqlCheckpointStore) -> None:
    engine, calls = compensated(store, TWO)

    def undo(_: dict[str, object], key: str) -> dict[str, object]:
        calls.append(key)
        return {"undone": 1}

    engine.execute_compensation("run-1", undo)
    for another in (engine, ResumeEngine(store, policy=TWO)):
        with pytest.raises(AnotherPersonNeededError):
            another.execute_compensation("run-1", undo)
    assert len(calls) == 1 and summary(store).blocked_by == (GateAction.COMPENSATION,)
    assert decide(store, wanted(COMPENSATE), TWO)[0].blocked_by == ()


# Many at once


@pytest.mark.parametrize(("people", "approvers"), [(200, 1), (40, 3)])
def test_of_many_at_once_only_as_many_count_as_are_needed(
    store: SqlCheckpointStore, people: int, approvers: int
) -> None:
    """Page, command line and API at once, approvals and a few rejections."""
    policy = rule(f"approvers = {approvers}") if approvers > 1 else NO_POLICY
    blocked(store)
    together = threading.Barrier(20)
    channels = [Channel.DASHBOARD, Channel.API, Channel.CLI]

    def act(number: int) -> str:
        kind = REJECT if approvers == 1 and number % 10 == 0 else APPROVE
        actor = Actor(name=f"person {number}", role=Role.OPERATOR, channel=channels[number % 3])
        if number < 20:
            together.wait()
        try:
            decide(store, wanted(kind, actor), policy)
        except AlreadyDecidedError as refusal:
            return f"told of {refusal.decision.actor}"
        return "recorded"

    with ThreadPoolExecutor(20) as pool:
        answers = Counter(pool.map(act, range(people)))
    decisions = store.list_decisions("run-1")
    assert len(decisions) == answers["recorded"] == approvers
    assert [d.ordinal for d in decisions] == list(range(1, approvers + 1))
    assert [d.opened for d in decisions] == [False] * (approvers - 1) + [True]
    assert answers == {"recorded": approvers, f"told of {decisions[-1].actor}": people - approvers}
    assert summary(store).blocked_by == ()
    assert kinds_of_events(store).count("gate.refused") == people - approvers

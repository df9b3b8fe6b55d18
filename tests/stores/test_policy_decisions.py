"""Decisions under a policy, on a real store: several people, who is left out, and what ends."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import insert

from resume_engine.core import clock
from resume_engine.core.actor import Actor, Channel, key_actor_name
from resume_engine.core.decisions import DecisionKind, DecisionRequest, decide
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import (
    AlreadyDecidedError,
    AnotherPersonNeededError,
    DecisionError,
    DecisionInputError,
    PolicyRefusalError,
    ResumeBlockedError,
)
from resume_engine.core.failure_classifier import PermanentStepError
from resume_engine.core.permissions import Role
from resume_engine.core.policy import NO_POLICY, Policy
from resume_engine.core.policy_file import parse_policy
from resume_engine.core.resume_gates import GateAction, get_resume_blockers
from resume_engine.core.run import Environment, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.ended_decisions import close_ended
from resume_engine.storage.run_queries import RunQueries
from resume_engine.storage.schema import api_keys
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.worker import Worker
from tests.stores.changes import change, completed, event, failed, new_run, summary

APPROVE, ACK = DecisionKind.HUMAN_APPROVAL, DecisionKind.PROD_RESUME_ACK
REJECT, COMPENSATE = DecisionKind.REJECT, DecisionKind.COMPENSATION
ANA, BOB, CEM = (
    Actor(name=name, role=Role.OPERATOR, channel=Channel.DASHBOARD) for name in ("ana", "bob", "cem")
)


def rule(text: str, **more: str) -> Policy:
    return parse_policy(f'[[rule]]\nname = "the rule"\n{text}', "policy.toml")


TWO = rule("approvers = 2")
HOUR = rule('expires_after = "1h"')


def wanted(kind: DecisionKind = APPROVE, actor: Actor = ANA, **fields: object) -> DecisionRequest:
    made = DecisionRequest(run_id="run-1", kind=kind, actor=actor, note="why" if kind is REJECT else None)
    return replace(made, **fields)


def blocked(
    store: SqlCheckpointStore,
    classification: FailureClassification = FailureClassification.PERMANENT,
    environment: Environment = Environment.DEV,
) -> None:
    store.commit(change(new_run(store, environment=environment), failed(0, classification)))


def kinds_of_events(store: SqlCheckpointStore) -> list[str]:
    return [found.event_type for found in store.list_events("run-1")]


class Clock:
    """A clock that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real, self._ahead = clock.utc_now, timedelta()
        monkeypatch.setattr(clock, "utc_now", self)

    def __call__(self) -> datetime:
        return self._real() + self._ahead

    def move(self, **by: float) -> None:
        self._ahead += timedelta(**by)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


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


def test_nobody_counts_twice(store: SqlCheckpointStore) -> None:
    blocked(store)
    decide(store, wanted(), TWO)
    for again in (ANA, replace(ANA, name=" ANA "), replace(ANA, channel=Channel.CLI)):
        with pytest.raises(AnotherPersonNeededError, match="1 of 2 people have, another person is needed"):
            decide(store, wanted(actor=again), TWO)
    assert summary(store).blocked_by == (GateAction.HUMAN_APPROVAL,)
    assert len(store.list_decisions("run-1")) == 1
    assert kinds_of_events(store).count("gate.refused") == 3


def key_of(store: SqlCheckpointStore, key_id: str, created_by: str) -> Actor:
    with store.writing() as conn:
        conn.execute(
            insert(api_keys).values(
                key_id=key_id,
                name="ci",
                role="operator",
                secret_hash="0" * 64,
                pepper_id="none",
                created_at=clock.utc_now(),
                created_by=created_by,
            )
        )
    return Actor(name=key_actor_name("ci", key_id), role=Role.OPERATOR, channel=Channel.API)


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


# Who is left out


def refused(store: SqlCheckpointStore, policy: Policy, actor: Actor, **fields: object) -> str:
    with pytest.raises(DecisionError) as caught:
        decide(store, wanted(actor=actor, **fields), policy)
    last = store.list_events("run-1")[-1]
    assert (last.event_type, last.actor) == ("gate.refused", actor.name)
    assert last.payload["message"] == str(caught.value)
    assert summary(store).blocked_by and not store.list_decisions("run-1")
    return f"{type(caught.value).__name__}: {caught.value}"


def test_the_starter_may_not_decide(store: SqlCheckpointStore) -> None:
    policy = rule("not_starter = true")
    ResumeEngine(store, policy=policy).start_run("billing", run_id="run-1", actor=ANA)
    store.commit(change(summary(store), failed(0)))
    for actor in (ANA, key_of(store, "aaaaaaaa", "ana")):
        assert "PolicyRefusalError" in refused(store, policy, actor)
    assert decide(store, wanted(actor=BOB), policy)[0].blocked_by == ()


def test_whoever_changed_the_input_may_not_decide(store: SqlCheckpointStore) -> None:
    policy = rule("not_input_editor = true")
    blocked(store)
    changed = event(event_type="run.input_changed", actor="ana")
    run = summary(store)
    store.commit(RunChange(before=run, after=run, events=(changed,)))
    assert "changed the input of the run" in refused(store, policy, ANA)
    assert decide(store, wanted(actor=BOB), policy)[0].blocked_by == ()


def test_a_note_may_be_required(store: SqlCheckpointStore) -> None:
    policy = rule("note_required = true")
    blocked(store)
    for note in (None, "", "  "):
        said = refused(store, policy, ANA, note=note)
        assert said == "DecisionInputError: note: the policy asks for a note here (rule 'the rule')"
    assert decide(store, wanted(note="checked"), policy)[0].blocked_by == ()


def test_keys_and_roles_may_be_left_out(store: SqlCheckpointStore) -> None:
    blocked(store)
    assert "a person must" in refused(store, rule("api_keys = false"), replace(ANA, channel=Channel.API))
    admins = rule('roles = ["admin"]')
    assert "it takes admin (policy rule 'the rule')" in refused(store, admins, ANA)
    assert decide(store, wanted(actor=replace(ANA, role=Role.ADMIN)), admins)[0].blocked_by == ()


def test_a_rejection_obeys_its_rule(store: SqlCheckpointStore) -> None:
    policy = rule('decisions = ["reject"]\nroles = ["admin"]')
    blocked(store)
    assert "PolicyRefusalError" in refused(store, policy, ANA, kind=REJECT, note="no")
    assert decide(store, wanted(REJECT, replace(ANA, role=Role.ADMIN)), policy)[0].status is (
        RunStatus.CANCELLED
    )


def fail(_: dict[str, object], __: str) -> dict[str, object]:
    raise PermanentStepError("boom")


def done(_: dict[str, object], __: str) -> dict[str, object]:
    return {"done": 1}


def test_a_rollback_obeys_the_rule_for_rejections(store: SqlCheckpointStore) -> None:
    policy = rule('decisions = ["reject"]\nnot_starter = true')
    engine = ResumeEngine(store, policy=policy)
    engine.start_run("billing", run_id="run-1", actor=ANA)
    with pytest.raises(PermanentStepError):
        engine.execute_workflow("run-1", [("a", fail)], initial_input={})
    with pytest.raises(PolicyRefusalError, match="ana did"):
        engine.roll_back("run-1", [("a", fail)], requested_by="ana", note="undo it")
    assert engine.roll_back("run-1", [("a", fail)], requested_by="bob", note="undo it").status is (
        RunStatus.CANCELLED
    )


# Compensations that the engine runs


def compensated(store: SqlCheckpointStore, policy: Policy) -> tuple[ResumeEngine, list[str]]:
    blocked(store, FailureClassification.PARTIAL)
    return ResumeEngine(store, policy=policy), []


def test_a_compensation_is_not_run_when_the_policy_would_not_take_it(store: SqlCheckpointStore) -> None:
    engine, calls = compensated(store, rule("note_required = true"))

    def undo(_: dict[str, object], key: str) -> dict[str, object]:
        calls.append(key)
        return {"undone": 1}

    with pytest.raises(DecisionInputError, match="asks for a note"):
        engine.execute_compensation("run-1", undo)
    assert calls == []
    engine.execute_compensation("run-1", undo, note="refunded")
    assert len(calls) == 1 and summary(store).blocked_by == ()


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


# Decisions that end


def test_a_decision_in_time_is_used_and_ends_no_more(store: SqlCheckpointStore, time: Clock) -> None:
    blocked(store)
    run, decision = decide(store, wanted(), HOUR)
    assert run.cleared_until == decision.expires_at == decision.decided_at + timedelta(hours=1)
    time.move(minutes=59)
    engine = ResumeEngine(store, policy=HOUR)
    assert engine.get_resume_blockers("run-1") == []
    seen = []

    def step(_: dict[str, object], __: str) -> dict[str, object]:
        time.move(hours=2)  # a long step
        seen.append(summary(store).cleared_until)
        return {}

    found = engine.resume("run-1", [("step_0", step), ("step_1", done)])
    assert found.status is RunStatus.COMPLETED and seen == [None]
    assert "gate.expired" not in kinds_of_events(store)


WAYS = {
    "resume": lambda store: ResumeEngine(store).resume("run-1", [("step_0", done)]),
    "execute": lambda store: ResumeEngine(store).execute_workflow("run-1", [("step_0", done)]),
    "step": lambda store: ResumeEngine(store).execute_step("run-1", "step_0", 0, {"n": 0}, done),
    "complete": lambda store: ResumeEngine(store).complete_run("run-1"),
    "record made elsewhere": lambda store: store.append_step("run-1", completed(1, index=0)),
    "status": lambda store: store.update_run(replace(store.get_run("run-1"), status=RunStatus.RUNNING)),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_on_closes_the_gate_when_the_decision_is_over(
    store: SqlCheckpointStore, time: Clock, way: str
) -> None:
    blocked(store)
    decide(store, wanted(), HOUR)
    time.move(minutes=61)
    before = summary(store)
    with pytest.raises(ResumeBlockedError):
        WAYS[way](store)
    run = summary(store)
    assert (run.status, run.blocked_by) == (RunStatus.FAILED, (GateAction.HUMAN_APPROVAL,))
    assert (run.cleared_by, run.cleared_at, run.cleared_until) == (None, None, None)
    assert (run.version, run.lease_token) == (before.version + 1, before.lease_token), "one change, no claim"
    last = store.list_events("run-1")[-1]
    assert (last.event_type, last.failure_key) == ("gate.expired", "0:0")
    assert last.payload["waits_for"] == ["human_approval"] and last.payload["cleared_by"] == "ana"
    found = store.get_run("run-1")
    assert found is not None and len(get_resume_blockers(found)) == 1

    run, again = decide(store, wanted(), HOUR)
    assert run.blocked_by == () and again.ordinal == 2
    assert ResumeEngine(store).resume("run-1", [("step_0", done)]).status is RunStatus.COMPLETED


@pytest.mark.parametrize("by_itself", [False, True])
def test_a_run_that_a_client_sets_to_pending_has_not_used_its_decision(
    store: SqlCheckpointStore, time: Clock, by_itself: bool
) -> None:
    blocked(store)
    decide(store, wanted(), HOUR)
    run = store.get_run("run-1")
    assert run is not None
    store.update_run(replace(run, status=RunStatus.PENDING))
    time.move(minutes=61)
    if by_itself:
        close_ended(store)
        assert summary(store).blocked_by == (GateAction.HUMAN_APPROVAL,)
    with pytest.raises(ResumeBlockedError):
        ResumeEngine(store).resume("run-1", [("step_0", done)])
    assert kinds_of_events(store).count("gate.expired") == 1


def test_the_worker_closes_it_too(store: SqlCheckpointStore, time: Clock) -> None:
    blocked(store)
    decide(store, wanted(), HOUR)
    time.move(minutes=61)
    worker = Worker(ResumeEngine(store), {"billing": [("step_0", done)]})
    assert worker.run_once() == 0
    assert summary(store).blocked_by and "gate.expired" in kinds_of_events(store)
    decide(store, wanted(), HOUR)
    assert worker.run_once() == 1
    assert summary(store).status is RunStatus.COMPLETED


def test_a_decision_that_is_over_can_be_made_again_before_anybody_resumes(
    store: SqlCheckpointStore, time: Clock
) -> None:
    blocked(store)
    decide(store, wanted(), HOUR)
    time.move(minutes=61)
    [blocker] = ResumeEngine(store, policy=HOUR).get_resume_blockers("run-1")
    assert blocker.required_action == "human_approval"
    found = store.get_run("run-1")
    assert found is not None and len(get_resume_blockers(found)) == 1
    run, _ = decide(store, wanted(actor=BOB), HOUR)
    assert (run.blocked_by, run.cleared_by) == ((), "bob")
    assert kinds_of_events(store)[-2:] == ["gate.expired", "gate.approved"]


def test_of_two_people_the_first_to_end_closes_the_gate(store: SqlCheckpointStore, time: Clock) -> None:
    policy = rule('approvers = 2\nexpires_after = "1h"')
    blocked(store)
    decide(store, wanted(actor=ANA), policy)
    time.move(minutes=40)
    run, _ = decide(store, wanted(actor=BOB), policy)
    assert run.cleared_until is not None and run.blocked_by == ()
    time.move(minutes=21)  # Ana's is over, Bob's is not
    with pytest.raises(ResumeBlockedError):
        ResumeEngine(store).resume("run-1", [("step_0", done)])
    [blocker] = ResumeEngine(store, policy=policy).get_resume_blockers("run-1")
    assert (blocker.approvals_given, blocker.approvals_needed) == (1, 2)
    with pytest.raises(AnotherPersonNeededError):
        decide(store, wanted(actor=BOB), policy)
    assert decide(store, wanted(actor=ANA), policy)[0].blocked_by == ()


def test_an_approval_that_ended_before_the_second_counts_for_nothing(
    store: SqlCheckpointStore, time: Clock
) -> None:
    policy = rule('approvers = 2\nexpires_after = "1h"')
    blocked(store)
    decide(store, wanted(actor=ANA), policy)
    time.move(minutes=61)
    assert decide(store, wanted(actor=BOB), policy)[0].blocked_by
    run, third = decide(store, wanted(actor=ANA), policy)
    assert run.blocked_by == () and third.ordinal == 3
    time.move(minutes=59)
    assert ResumeEngine(store).resume("run-1", [("step_0", done)]).status is RunStatus.COMPLETED


def test_only_the_gate_whose_decision_ended_closes(store: SqlCheckpointStore, time: Clock) -> None:
    policy = rule('decisions = ["prod_resume_ack"]\nexpires_after = "1h"')
    blocked(store, environment=Environment.PROD)
    decide(store, wanted(ACK), policy)
    time.move(minutes=61)
    run, _ = decide(store, wanted(APPROVE), policy)
    assert run.blocked_by == (GateAction.PROD_RESUME_ACK,), "it ended while the other gate was closed"
    assert kinds_of_events(store)[-2:] == ["gate.expired", "gate.approved"]
    run, _ = decide(store, wanted(ACK), policy)
    assert run.blocked_by == ()
    time.move(minutes=61)
    with pytest.raises(ResumeBlockedError):
        ResumeEngine(store).resume("run-1", [("step_0", done)])
    run = summary(store)
    assert (run.status, run.blocked_by) == (RunStatus.PAUSED, (GateAction.PROD_RESUME_ACK,))


def test_of_several_failures_none_keeps_a_decision_that_is_over(
    store: SqlCheckpointStore, time: Clock
) -> None:
    policy = rule('expires_after = "1h"')
    run = store.commit(change(new_run(store), failed(0)))
    store.commit(RunChange(before=run, after=replace(run, next_sequence=2), record=failed(1)))
    run, _ = decide(store, wanted(failure_key="0:0"), policy)
    assert run.failure is not None and run.failure.key == "1:1", "the other branch is next"
    time.move(minutes=50)
    run, _ = decide(store, wanted(failure_key="1:1"), policy)
    assert run.blocked_by == ()
    time.move(minutes=11)  # the first is over, the second is not
    with pytest.raises(ResumeBlockedError):
        ResumeEngine(store).resume("run-1", [("step_0", done), ("step_1", done)])
    run = summary(store)
    assert run.failure is not None and (run.failure.key, run.blocked_by) == (
        "0:0",
        (GateAction.HUMAN_APPROVAL,),
    )
    run, _ = decide(store, wanted(failure_key="0:0"), policy)
    assert run.blocked_by == ()


# Many at once


def test_of_many_who_resume_too_late_one_closes_the_gate_and_all_are_told(
    store: SqlCheckpointStore, time: Clock
) -> None:
    blocked(store)
    decide(store, wanted(), HOUR)
    time.move(minutes=61)
    together = threading.Barrier(8)

    def resume(_: int) -> str:
        together.wait()
        with pytest.raises(ResumeBlockedError) as caught:
            ResumeEngine(store).resume("run-1", [("step_0", done)])
        return str(caught.value)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(resume, range(8)))) == 1
    assert kinds_of_events(store).count("gate.expired") == 1


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


def test_gates_close_by_themselves_once_and_only_when_time_is_up(
    store: SqlCheckpointStore, time: Clock
) -> None:
    blocked(store)
    run, decision = decide(store, wanted(), HOUR)
    time.move(minutes=59)
    close_ended(store)
    assert summary(store).version == run.version
    time.move(minutes=2)
    with ThreadPoolExecutor(4) as pool:  # as the threads of several servers would
        list(pool.map(lambda _: close_ended(store), range(8)))
    closed = summary(store)
    assert (closed.status, closed.blocked_by) == (RunStatus.FAILED, (GateAction.HUMAN_APPROVAL,))
    assert closed.blocked_since == decision.expires_at
    assert kinds_of_events(store).count("gate.expired") == 1
    queue = RunQueries(store).list_blocked().items
    assert [found.run_id for found in queue] == ["run-1"]


def test_what_went_on_or_has_no_end_is_left_alone(store: SqlCheckpointStore, time: Clock) -> None:
    blocked(store)
    decide(store, wanted(), HOUR)
    ResumeEngine(store).resume("run-1", [("step_0", done)])
    after = summary(store)
    time.move(hours=5)
    close_ended(store)
    assert summary(store) == after

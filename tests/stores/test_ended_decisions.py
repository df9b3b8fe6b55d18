"""Decisions that end under a policy, on a real store: in time they are used, too late the gate closes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from resume_engine.core import clock
from resume_engine.core.decisions import decide
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import AnotherPersonNeededError, ResumeBlockedError
from resume_engine.core.gate_progress import run_now
from resume_engine.core.resume_gates import GateAction, get_resume_blockers
from resume_engine.core.run import Environment, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.storage.ended_decisions import close_ended
from resume_engine.storage.run_queries import RunQueries
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.worker import Worker
from tests.stores.changes import change, completed, failed, new_run, summary
from tests.stores.under_policy import (
    ACK,
    ANA,
    APPROVE,
    BOB,
    HOUR,
    blocked,
    done,
    kinds_of_events,
    rule,
    wanted,
)


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


def test_what_is_told_of_a_run_knows_of_every_failure_whose_decision_ended(
    store: SqlCheckpointStore, time: Clock
) -> None:
    """Of two failures side by side the one that was decided first closes again first."""
    new_run(store)
    for sequence in (0, 1):
        store.commit(change(summary(store), failed(sequence, index=sequence)))
    decide(store, wanted(failure_key="0:0"), HOUR)
    time.move(minutes=50)
    run, _ = decide(store, wanted(failure_key="1:1"), HOUR)
    assert run.blocked_by == ()
    time.move(minutes=20)
    now, decisions = run_now(store, summary(store), clock.utc_now())
    assert now.failure is not None and (now.failure.key, now.status) == ("0:0", RunStatus.FAILED)
    assert now.blocked_by == (GateAction.HUMAN_APPROVAL,) and {d.failure_key for d in decisions} == {"0:0"}
    engine = ResumeEngine(store, policy=HOUR)
    assert [b.failure_key for b in engine.get_resume_blockers("run-1")] == ["0:0"]

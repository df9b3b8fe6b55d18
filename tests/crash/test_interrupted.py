"""What a run whose executor was killed in the middle of a step does next."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest

from resume_engine.core.clock import utc_now
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import ResumeBlockedError
from resume_engine.core.failure_classifier import TransientStepError
from resume_engine.core.interruption import MAX_TAKEOVERS
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import RunStatus
from resume_engine.core.run_summary import RunState, RunSummary
from resume_engine.worker import Worker
from tests.crash.broken import VARIABLE
from tests.crash.conftest import Scene
from tests.crash.oracle import Doubts, judge
from tests.crash.processes import KILLED
from tests.crash.workload import Client, retried_after

OLGA = "olga@example.com"
IN_CHARGE = {"RESUME_ENGINE_FAILPOINT": "after_effect:2"}
IN_THE_FIRST_STEP_OF_A_RESUME = {"RESUME_ENGINE_FAILPOINT": "after_effect:1"}


def interrupted(scene: Scene, run_id: str = "run-0", **options: Any) -> RunSummary:
    """Make a run whose executor was killed in the step `charge`, behind its effect."""
    ResumeEngine(scene.store).start_run("orders", run_id=run_id, **options)
    return kill_in(scene, run_id, IN_CHARGE)


def kill_in(scene: Scene, run_id: str, place: dict[str, str], **job: Any) -> RunSummary:
    assert scene.run("work", runs=[run_id], env=place, **job) == KILLED, scene.processes.said()
    return summary(scene, run_id)


def summary(scene: Scene, run_id: str = "run-0") -> RunSummary:
    run = scene.store.load_summary(run_id)
    assert run is not None
    return run


def effects_of(scene: Scene, step: str = "charge", run_id: str = "run-0") -> int:
    entries = scene.effects.journal("effect")
    return sum((entry.run_id, entry.step) == (run_id, step) for entry in entries)


def resume(scene: Scene, run_id: str = "run-0", **options: Any) -> RunStatus:
    client = Client(scene.effects, pause_seconds=0, options=options)
    return client.execute(ResumeEngine(scene.store), run_id).status


def test_the_run_says_what_was_in_flight(scene: Scene) -> None:
    run = interrupted(scene)
    [left] = run.in_flight
    assert (left.step_index, left.step_name, left.attempt) == (1, "charge", 1)
    assert timedelta(0) < utc_now() - left.since < timedelta(seconds=60)
    assert run.lease_live, "its lease of 30 s has not ended"
    assert resume(scene) is RunStatus.COMPLETED, "and is not waited for: that process is gone"
    [event] = [e for e in scene.store.list_events("run-0") if e.event_type == "run.resumed"]
    assert event.payload["interrupted"]["step_name"] == "charge"
    assert event.payload["interrupted"]["executor"] == run.lease_owner
    [record] = [r for r in scene.store.iter_steps("run-0") if r.step_name == "charge"]
    assert (record.attempt, record.idempotency_key) == (2, left.idempotency_key)


# Who resumes


@pytest.mark.parametrize("environment", ["dev", "staging"])
def test_a_worker_picks_it_up(scene: Scene, environment: str) -> None:
    ResumeEngine(scene.store).start_run("orders", run_id="run-0", environment=environment)
    kill_in(scene, "run-0", IN_CHARGE, lease_seconds=0.5)
    client = Client(scene.effects, pause_seconds=0)
    worker = Worker(ResumeEngine(scene.store), {"orders": client.steps("run-0")})
    deadline = time.monotonic() + 30
    while not worker.run_once():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert summary(scene).status is RunStatus.COMPLETED


def test_in_prod_a_person_acknowledges_each_interruption(scene: Scene) -> None:
    first = interrupted(scene, environment="prod")
    engine = ResumeEngine(scene.store)
    with pytest.raises(ResumeBlockedError):
        resume(scene)
    blocked = summary(scene)
    assert blocked.blocked_by == (GateAction.PROD_RESUME_ACK,) and blocked.failure is not None
    assert blocked.failure.key == f"1:1:{first.lease_token}"
    assert "its outcome is unknown" in blocked.failure.message
    assert blocked.state(utc_now()) is RunState.BLOCKED and effects_of(scene) == 1
    engine.ack_prod_resume("run-0", OLGA, note="the card was not charged")

    second = kill_in(scene, "run-0", IN_THE_FIRST_STEP_OF_A_RESUME)
    with pytest.raises(ResumeBlockedError):
        resume(scene)
    again = summary(scene).failure
    assert again is not None and again.key == f"1:1:{second.lease_token}" != blocked.failure.key
    engine.ack_prod_resume("run-0", OLGA)
    assert resume(scene) is RunStatus.COMPLETED
    assert [d.failure_key for d in scene.store.list_decisions("run-0")] == [blocked.failure.key, again.key]
    kinds = [e.event_type for e in scene.store.list_events("run-0")]
    assert kinds.count("run.interrupted") == 2 and kinds.count("run.resumed") == 2


def test_a_step_may_ask_for_a_person(scene: Scene) -> None:
    interrupted(scene)
    with pytest.raises(ResumeBlockedError):
        resume(scene, on_interrupted="gate")
    assert summary(scene).blocked_by == (GateAction.HUMAN_APPROVAL,) and effects_of(scene) == 1
    ResumeEngine(scene.store).grant_human_approval("run-0", OLGA)
    assert resume(scene, on_interrupted="gate") is RunStatus.COMPLETED
    assert effects_of(scene) == 2


def test_without_the_intent_nobody_is_asked(scene: Scene) -> None:
    ResumeEngine(scene.store).start_run("orders", run_id="run-0")
    kill_in(scene, "run-0", {**IN_CHARGE, VARIABLE: "no_intent"})
    assert resume(scene, on_interrupted="gate") is RunStatus.COMPLETED
    assert effects_of(scene) == 2, "the card was charged twice, and nobody knows"


# Reconciliation


def test_a_reconciliation_that_finds_the_effect_gives_the_output(scene: Scene) -> None:
    [left] = interrupted(scene).in_flight
    asked: list[str] = []

    def find(state: dict[str, Any], key: str) -> dict[str, Any]:
        asked.append(key)
        [entry] = [e for e in scene.effects.journal("effect") if e.key == key]
        return {"charge": entry.nonce}

    assert resume(scene, reconcile=find) is RunStatus.COMPLETED
    assert asked == [left.idempotency_key] and effects_of(scene) == 1
    [record] = [r for r in scene.store.iter_steps("run-0") if r.step_name == "charge"]
    assert record.classified_by == "reconciled after an interruption"
    doubts = Doubts({("run-0", "charge"): [left.idempotency_key]})
    assert judge(scene.store, scene.effects, doubts).damage == ()


def test_a_reconciliation_that_finds_nothing_lets_the_step_run_again(scene: Scene) -> None:
    interrupted(scene)
    assert resume(scene, reconcile=lambda _state, _key: None) is RunStatus.COMPLETED
    assert effects_of(scene) == 2


def test_a_reconciliation_that_cannot_tell_asks_a_person(scene: Scene) -> None:
    interrupted(scene)

    def unknown(_state: dict[str, Any], _key: str) -> dict[str, Any]:
        raise ConnectionError("the bank does not answer")

    with pytest.raises(ConnectionError):
        resume(scene, reconcile=unknown)
    failure = summary(scene).failure
    assert failure is not None and summary(scene).blocked_by == (GateAction.HUMAN_APPROVAL,)
    assert effects_of(scene) == 1
    ResumeEngine(scene.store).grant_human_approval("run-0", OLGA)
    # The person has looked: it is not asked again.
    assert resume(scene, reconcile=unknown) is RunStatus.COMPLETED


def test_a_reconciliation_is_asked_in_prod_once_the_gate_is_open(scene: Scene) -> None:
    interrupted(scene, environment="prod")
    with pytest.raises(ResumeBlockedError):
        resume(scene)
    ResumeEngine(scene.store).ack_prod_resume("run-0", OLGA)
    [entry] = [e for e in scene.effects.journal("effect") if e.step == "charge"]
    assert resume(scene, reconcile=lambda _state, _key: {"charge": entry.nonce}) is RunStatus.COMPLETED
    assert effects_of(scene) == 1


# Steps that take their executors down


def lose_executors(scene: Scene, env: dict[str, str]) -> int:
    """Resume a run whose step `charge` kills its executor, until it is refused; return how many were lost."""
    interrupted(scene)
    lost = 1
    while scene.run("work", runs=["run-0"], env={**IN_THE_FIRST_STEP_OF_A_RESUME, **env}) == KILLED:
        lost += 1
        if lost > MAX_TAKEOVERS or scene.effects.count("parked", "run-0"):
            break
    return lost


def test_five_lost_executors_park_the_run(scene: Scene) -> None:
    lose_executors(scene, {})
    # The client of that process approved at once, as a person would, and lost another executor to it.
    assert scene.effects.count("parked", "run-0") == 1
    [decision] = scene.store.list_decisions("run-0")
    assert decision.kind.value == "human_approval"
    [event] = [e for e in scene.store.list_events("run-0") if e.event_type == "run.interrupted"]
    assert effects_of(scene) == MAX_TAKEOVERS + 1
    assert summary(scene).takeovers == 0, "the decision allows as many again"
    assert event.failure_key == decision.failure_key
    assert resume(scene) is RunStatus.COMPLETED


def test_without_the_limit_it_takes_down_as_many_as_it_likes(scene: Scene) -> None:
    assert lose_executors(scene, {VARIABLE: "no_takeover_limit"}) > MAX_TAKEOVERS
    assert scene.effects.count("parked", "run-0") == 0


# Retries


def start_waiting(scene: Scene, seconds: float, env: dict[str, str] | None = None) -> RunSummary:
    """Make a run whose executor was killed while it waited for a retry of `charge`."""
    ResumeEngine(scene.store).start_run("orders", run_id="run-0")
    return kill_while_waiting(scene, seconds, env)


def kill_while_waiting(scene: Scene, seconds: float, env: dict[str, str] | None = None) -> RunSummary:
    before = summary(scene).version
    pid = scene.start("work", runs=["run-0"], retry_seconds=seconds, env=env)
    deadline = time.monotonic() + 30
    while True:
        run = summary(scene)
        waits = run.version > before and run.in_flight and run.in_flight[0].step_name == "charge"
        if waits and scene.effects.count("flaked", "run-0") and run.failure is not None:
            break
        assert time.monotonic() < deadline, scene.processes.said()
        time.sleep(0.01)
    assert scene.processes.kill(pid) == KILLED
    return summary(scene)


def finish_waiting(scene: Scene, seconds: float) -> None:
    client = Client(
        scene.effects, pause_seconds=0, fails_first=TransientStepError, options=retried_after(seconds)
    )
    assert client.execute(ResumeEngine(scene.store), "run-0").status is RunStatus.COMPLETED


def test_a_wait_survives_the_crash_of_who_waits(scene: Scene) -> None:
    seconds = 3.0
    first = start_waiting(scene, seconds)
    second = kill_while_waiting(scene, seconds)
    assert first.retry_at is not None and second.retry_at == first.retry_at, "the wait did not begin anew"
    assert second.takeovers == 0, "the attempt had not begun: nothing is in doubt"
    [left] = second.in_flight
    assert left.attempt == 2
    finish_waiting(scene, seconds)
    records = [r for r in scene.store.iter_steps("run-0") if r.step_name == "charge"]
    assert [(r.attempt, r.status.value) for r in records] == [(1, "failed"), (2, "completed")]
    begun = records[1].started_at
    assert begun is not None and begun >= first.retry_at
    assert effects_of(scene) == 1


def test_without_the_kept_moment_the_wait_is_lost(scene: Scene) -> None:
    run = start_waiting(scene, 30.0, {VARIABLE: "no_kept_wait"})
    assert run.retry_at is None
    started = time.monotonic()
    finish_waiting(scene, 30.0)
    assert time.monotonic() - started < 20


def test_a_crash_in_the_second_attempt_is_an_interruption(scene: Scene) -> None:
    ResumeEngine(scene.store).start_run("orders", run_id="run-0")
    place = {"RESUME_ENGINE_FAILPOINT": "after_effect:2"}  # the first attempt of `charge` has no effect
    run = kill_in(scene, "run-0", place, retry_seconds=0.05)
    assert run.retry_at is None and run.in_flight[0].attempt == 2
    with pytest.raises(ResumeBlockedError):
        resume(scene, on_interrupted="gate")
    assert effects_of(scene) == 1


# Forks


def test_the_child_of_a_fork_writes_nothing(scene: Scene) -> None:
    ResumeEngine(scene.store).start_run("orders", run_id="run-0")
    assert scene.run("fork_in_a_step", run="run-0") == 0, scene.processes.said()
    outcomes = {e.step: e.nonce for e in scene.effects.journal("outcome")}
    assert outcomes == {"child": "LeaseLostError", "parent": "NoneType"}
    run = summary(scene)
    assert (run.status, run.steps_completed) == (RunStatus.COMPLETED, 6)
    assert len({r.worker for r in scene.store.iter_steps("run-0")}) == 1
    assert effects_of(scene, "ship") == 1 and effects_of(scene) == 2, (
        "the fork is in the step, as is its effect"
    )


def test_a_child_that_is_not_told_from_its_parent_goes_on_with_the_run(scene: Scene) -> None:
    ResumeEngine(scene.store).start_run("orders", run_id="run-0")
    scene.run("fork_in_a_step", run="run-0", env={VARIABLE: "shared_connections"})
    outcomes = {e.step: e.nonce for e in scene.effects.journal("outcome")}
    assert outcomes == {"child": "NoneType", "parent": "LeaseLostError"}

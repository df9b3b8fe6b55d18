"""An owner trusts its lease for as long as is certain, and not a moment longer."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from resume_engine.core.clock import ManualClock, replaced_by
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import InvalidValueError, LeaseLostError, RunBusyError
from resume_engine.core.failure_classifier import PermanentStepError, TransientStepError
from resume_engine.core.lease import Lease
from resume_engine.core.run import Environment, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import failing, passing
from tests.stores.changes import new_run, summary

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECONDS = 30


class SlowAnswers:
    """Let the store answer so late to what concerns the lease."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, store: SqlCheckpointStore, clock: ManualClock
    ) -> None:
        self.asked, self.delay = 0, 0.0
        for name in ("renew_lease", "commit"):
            monkeypatch.setattr(store, name, self._slow(getattr(store, name), clock))

    def _slow(self, call: Any, clock: ManualClock) -> Any:
        def answer(*arguments: Any) -> Any:
            self.asked += call.__name__ == "renew_lease"
            found = call(*arguments)
            clock.advance(self.delay)
            return found

        return answer


@pytest.mark.parametrize(
    ("delay", "asks_again"), [(0.0, False), (0.8, False), (0.9, True), (1.1, True)], ids=str
)
def test_a_slow_answer_does_not_stretch_a_lease(
    store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch, delay: float, asks_again: bool
) -> None:
    """Trust counts from before the question: the margin of a sixth is all that an answer may take."""
    clock = ManualClock(NOON)
    with replaced_by(clock):
        answers = SlowAnswers(monkeypatch, store, clock)
        answers.delay = delay * SECONDS
        lease = Lease(store, "worker-1", SECONDS, exclusive=True)
        before = new_run(store)
        run = lease.take(RunChange(before=before, after=before))
        answers.delay = 0
        lease.assert_trusted(run)
        assert answers.asked == asks_again
        answers.delay, answers.asked = delay * SECONDS, 0
        assert lease.renew(run)
        lease.assert_trusted(run)
        assert answers.asked == 1 + asks_again


def test_no_step_starts_once_the_lease_may_have_ended(store: SqlCheckpointStore) -> None:
    clock, called = ManualClock(NOON), []
    new_run(store)

    def slow(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        called.append("slow")
        return {}

    def after_the_record(*_: Any) -> None:
        clock.advance(SECONDS + 1)
        other = summary(store)
        Lease(store, "worker-2", 60, exclusive=True).take(RunChange(before=other, after=other))

    commit = store.commit

    def committed(change: RunChange) -> Any:
        done = commit(change)
        if change.record is not None and len(called) == 1:
            store.commit = commit  # type: ignore[method-assign]
            after_the_record()
        return done

    store.commit = committed  # type: ignore[method-assign]
    try:
        with replaced_by(clock), pytest.raises(LeaseLostError):
            ResumeEngine(store, owner="worker-1", lease_seconds=SECONDS).execute_workflow(
                "run-1", [("a", slow), ("b", slow)]
            )
    finally:
        store.commit = commit  # type: ignore[method-assign]
    assert called == ["slow"], "the second step was not called"
    assert [r.is_failed for r in store.iter_steps("run-1")] == [False], "nor is it recorded as failed"
    assert summary(store).lease_owner == "worker-2"


def test_the_heartbeat_of_a_late_owner_ends_and_leaves_the_new_lease_alone(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 'x.db'}") as store:
        engine = ResumeEngine(store, owner="worker-1", lease_seconds=0.3)
        run_id = engine.start_run("billing").run_id
        seen: list[Any] = []

        def slow(_input: dict[str, Any], _key: str) -> dict[str, Any]:
            heart = next(t for t in threading.enumerate() if t.name.startswith("lease-"))
            mine = summary(store, run_id)
            store.renew_lease(run_id, "worker-1", mine.lease_token, 0)
            ended = summary(store, run_id)
            taken = Lease(store, "worker-2", 60, exclusive=True).take(RunChange(before=ended, after=ended))
            heart.join(5)
            seen.extend([heart.is_alive(), taken.lease_token - mine.lease_token, summary(store, run_id)])
            return {}

        with pytest.raises(LeaseLostError):
            engine.execute_workflow(run_id, [("a", slow)])
        alive, tokens, during = seen
        assert not alive and tokens == 1
        assert summary(store, run_id) == during.evolve(lease_live=True), "nor did it give the new lease up"
        assert (during.lease_expires_at - datetime.now(UTC)).total_seconds() > 30


# A run that is driven step by step has no owner between two steps.


def overtaken(store: SqlCheckpointStore, clock: ManualClock, error: Exception | None) -> Any:
    """Return a step during which the lease ends and somebody else does the same step."""

    def late(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        clock.advance(3_600)
        ResumeEngine(store, owner="worker-2").execute_step("run-1", "charge", 0, {}, passing({"by": 2}))
        if error is not None:
            raise error
        return {"by": 1}

    return late


@pytest.mark.parametrize("error", [None, TransientStepError("late"), PermanentStepError("late")])
def test_the_late_owner_of_a_single_step_writes_nothing(
    store: SqlCheckpointStore, error: Exception | None
) -> None:
    new_run(store)
    clock = ManualClock(NOON)
    with replaced_by(clock), pytest.raises(LeaseLostError):
        ResumeEngine(store, owner="worker-1").execute_step(
            "run-1", "charge", 0, {}, overtaken(store, clock, error)
        )
    assert [(r.worker, r.output_data) for r in store.iter_steps("run-1")] == [("worker-2", {"by": 2})]
    run = summary(store)
    assert run.failure is None and run.status is RunStatus.RUNNING and run.blocked_by == ()


def test_a_block_that_lost_its_run_does_not_fail_it(store: SqlCheckpointStore) -> None:
    clock = ManualClock(NOON)
    engine = ResumeEngine(store, owner="worker-1")
    with replaced_by(clock), pytest.raises(LeaseLostError), engine.run("billing", run_id="run-1"):
        engine.execute_step("run-1", "charge", 0, {}, overtaken(store, clock, None))
    run = summary(store)
    assert run.failure is None and run.status is RunStatus.RUNNING
    assert ResumeEngine(store).complete_run("run-1").status is RunStatus.COMPLETED


@pytest.mark.parametrize("status", [RunStatus.PAUSED, RunStatus.FAILED, RunStatus.COMPLETED])
@pytest.mark.parametrize("passed", [0, 31])
def test_a_run_in_the_hands_of_an_executor_gets_no_other_status(
    store: SqlCheckpointStore, status: RunStatus, passed: float
) -> None:
    """Else an interrupted run in prod would go on without its acknowledgement."""
    clock = ManualClock(NOON)
    with replaced_by(clock):
        before = new_run(store, environment=Environment.PROD)
        Lease(store, "worker-1", 30, exclusive=True).take(RunChange(before=before, after=before))
        clock.advance(passed)
        run = store.get_run("run-1")
        assert run is not None
        run.status = status
        with pytest.raises(InvalidValueError, match="in the hands of worker-1"):
            store.update_run(run)


# Branches of one executor share its lease.


def test_a_branch_that_fails_leaves_the_others_their_lease(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 'x.db'}") as store:
        engine = ResumeEngine(store, owner="worker-1", lease_seconds=0.4)
        run_id = engine.start_run("billing").run_id
        begun, go_on = threading.Event(), threading.Event()

        def slow(_input: dict[str, Any], _key: str) -> dict[str, Any]:
            begun.set()
            assert go_on.wait(10)
            return {}

        with ThreadPoolExecutor(1) as pool:
            branch = pool.submit(engine.execute_step, run_id, "slow", 1, {}, slow)
            begun.wait(10)
            with pytest.raises(TransientStepError):
                engine.execute_step(run_id, "broken", 0, {}, failing(TransientStepError("x")))
            time.sleep(0.6)
            held = summary(store, run_id)
            assert held.status is RunStatus.FAILED and [s.step_name for s in held.in_flight] == ["slow"]
            with pytest.raises(RunBusyError):
                ResumeEngine(store, owner="worker-2").execute_step(run_id, "slow", 1, {}, passing({}))
            go_on.set()
            assert branch.result(10).is_completed
        after = summary(store, run_id)
        assert after.lease_owner is None and after.in_flight == () and after.status is RunStatus.FAILED

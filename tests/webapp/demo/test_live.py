"""The live part of the demo: what an operator clears goes on within a second or two."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resume_engine import ResumeEngine, RunStatus
from resume_engine.core.run_summary import RunState
from resume_engine.storage.open_store import open_store
from resume_engine.storage.run_filter import RunFilter
from resume_engine.storage.run_queries import RunQueries
from resume_engine.storage.sql_store import SqlCheckpointStore
from webapp.demo import live
from webapp.demo.filling import fill
from webapp.demo.live import LiveTraffic, ResumedStage, needs_somebody
from webapp.demo.people import OPERATOR
from webapp.demo.plan import DEMO_RUN_IDS, STEADY, WAITING
from webapp.demo.workflows import BILLING

SECONDS_TO_RESUME = 20.0
"""The demo promises a second or two; the tests share their cores."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlCheckpointStore]:
    with open_store(f"sqlite:///{tmp_path / 'demo.db'}") as opened:
        fill(opened, ordinary_runs=0)
        yield opened


@pytest.fixture
def traffic(store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveTraffic]:
    monkeypatch.setattr(live, "SECONDS_BETWEEN_RUNS", (0.05, 0.1))
    monkeypatch.setattr(live, "STEP_SECONDS", (0.001, 0.02))
    running = LiveTraffic(store, seed=5)
    running.start()
    yield running
    running.stop()


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_the_fixed_runs_are_resumed_and_completed_after_their_decision(
    store: SqlCheckpointStore, traffic: LiveTraffic
) -> None:
    engine = ResumeEngine(store)
    for run_id in DEMO_RUN_IDS:
        (blocker,) = engine.get_resume_blockers(run_id)
        engine.decide(run_id, blocker.required_action, OPERATOR.actor(), note="Checked.")

        def completed(run_id: str = run_id) -> bool:
            run = store.load_summary(run_id)
            return run is not None and run.status is RunStatus.COMPLETED

        wait_for(completed, SECONDS_TO_RESUME)


def test_runs_keep_coming_and_the_queue_stays_workable(
    store: SqlCheckpointStore, traffic: LiveTraffic
) -> None:
    queries = RunQueries(store)
    before = len(WAITING)
    wait_for(lambda: len(queries.list_runs(RunFilter(), limit=1_000).items) > before + 30, 30)
    # Every run that was under way when the limit was reached may still close a gate.
    most = live.OPEN_GATES_MOST + live.RUNS_AT_ONCE
    assert sum(waiting.count for waiting in queries.count_blocked()) <= most


def test_stopping_leaves_no_run_in_the_middle(store: SqlCheckpointStore, traffic: LiveTraffic) -> None:
    queries = RunQueries(store)
    wait_for(lambda: len(queries.list_runs(RunFilter(), limit=1_000).items) > len(WAITING) + 5, 30)
    traffic.stop()
    running = queries.list_runs(RunFilter(state=RunState.RUNNING), limit=100).items
    assert running == []


def test_a_resumed_step_fails_at_most_once_more_and_never_in_the_fixed_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "SECOND_FAILURE_SHARE", 1.0)
    stage = ResumedStage(threading.Event())
    step = BILLING.step("charge_cards")
    with pytest.raises(Exception, match=r".+"):
        stage.strike(step, {}, "key")
    stage.strike(step, {}, "key")
    stage.strike(step, {**STEADY, "batch": "BILL-1"}, "another key")
    stage.strike(BILLING.step("reconcile"), {}, "a step that never fails")


def test_a_full_queue_lets_only_failures_through_that_need_nobody(
    store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "OPEN_GATES_MOST", 1)
    traffic = LiveTraffic(store, seed=5)
    stories = [traffic._next_story() for _ in range(300)]
    assert any(story.trouble for story in stories)
    assert not any(needs_somebody(story) for story in stories)

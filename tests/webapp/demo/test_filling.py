"""The filled database: written by the engine, in order, with every state a page can show."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from resume_engine import ResumeEngine
from resume_engine.core import clock
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.run_summary import RunState, RunSummary
from resume_engine.storage.audit_queries import AuditQueries, EventFilter
from resume_engine.storage.open_store import open_store
from resume_engine.storage.run_filter import RunFilter
from resume_engine.storage.run_queries import RunQueries
from resume_engine.storage.sql_store import SqlCheckpointStore
from webapp.accounts.store import AccountStore
from webapp.demo.filling import DatabaseInUseError, fill
from webapp.demo.people import EVERYBODY
from webapp.demo.plan import DEMO_RUN_IDS
from webapp.demo.workflows import ALL
from webapp.demo.workflows.definition import DemoStep, State, playable

SECONDS_TO_FILL = 120.0
"""Ample: it takes about seven seconds on two free cores, and the tests share theirs."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlCheckpointStore]:
    with open_store(f"sqlite:///{tmp_path_factory.mktemp('demo') / 'demo.db'}") as store:
        started = time.monotonic()
        fill(store)
        assert time.monotonic() - started < SECONDS_TO_FILL
        yield store


@pytest.fixture(scope="module")
def runs(filled: SqlCheckpointStore) -> list[RunSummary]:
    return list(RunQueries(filled).list_runs(RunFilter(), limit=1_000).items)


@pytest.fixture(scope="module")
def events(filled: SqlCheckpointStore) -> list[AuditEvent]:
    return list(AuditQueries(filled).stream(EventFilter()))


def test_there_are_a_few_hundred_runs_of_the_past_week(runs: list[RunSummary]) -> None:
    assert 250 < len(runs) < 400
    now = clock.utc_now()
    assert all(now - timedelta(days=8) < run.created_at <= run.updated_at < now for run in runs)


def test_every_state_is_there(runs: list[RunSummary]) -> None:
    states = Counter(run.state(clock.utc_now()) for run in runs)
    # `pending` is a state of imported runs, `running` comes from the live traffic.
    assert set(states) == set(RunState) - {RunState.PENDING, RunState.RUNNING}
    assert states[RunState.COMPLETED] > 200
    assert 10 <= states[RunState.BLOCKED] <= 15


def test_every_combination_of_gates_is_there(runs: list[RunSummary]) -> None:
    assert {"+".join(run.blocked_by) for run in runs} == {
        "",
        "compensation",
        "compensation+prod_resume_ack",
        "human_approval",
        "human_approval+prod_resume_ack",
        "prod_resume_ack",
    }


def test_events_are_written_in_the_order_of_time(events: list[AuditEvent]) -> None:
    moments: list[datetime] = [event.created_at for event in events]
    assert moments == sorted(moments)


def test_decisions_carry_a_person_and_a_note(events: list[AuditEvent]) -> None:
    decided = [event for event in events if event.event_type.startswith("gate.")]
    operators = {person.email for person in EVERYBODY if person.role == "operator"}
    assert {event.event_type for event in decided} == {
        EventType.GATE_APPROVED,
        EventType.GATE_COMPENSATED,
        EventType.GATE_PROD_RESUME_ACK,
        EventType.GATE_REJECTED,
    }
    assert all(event.actor in operators and event.note for event in decided)


def test_the_three_fixed_runs_wait_for_one_gate_each(filled: SqlCheckpointStore) -> None:
    engine = ResumeEngine(filled)
    waiting = {
        run_id: [blocker.required_action for blocker in engine.get_resume_blockers(run_id)]
        for run_id in DEMO_RUN_IDS
    }
    assert list(waiting.values()) == [["prod_resume_ack"], ["compensation"], ["human_approval"]]
    first = filled.load_summary(DEMO_RUN_IDS[0])
    assert first is not None and first.environment == "prod"


class NoStage:
    """Where no step may be played: a replay calls none."""

    def spend(self, seconds: float) -> None:
        raise AssertionError("a step was called")

    def strike(self, step: DemoStep, state: State, key: str) -> None:
        raise AssertionError("a step was called")


def test_the_runs_stand_up_to_a_replay(filled: SqlCheckpointStore, runs: list[RunSummary]) -> None:
    """The engine wrote them: names, inputs and keys of every completed step can be computed again."""
    engine = ResumeEngine(filled)
    steps = {workflow.name: playable(workflow, NoStage()) for workflow in ALL}
    for run in runs[::7]:
        trace = engine.replay_run(run.run_id, steps[run.workflow_name])[1]
        assert trace == engine.get_audit_log(run.run_id)


def test_steps_took_believable_times(filled: SqlCheckpointStore, runs: list[RunSummary]) -> None:
    run = filled.get_run(runs[100].run_id)
    assert run is not None
    for step in run.steps:
        assert step.duration_ms is not None and 100 < step.duration_ms < 120_000
        assert step.started_at is not None
        assert step.timestamp - step.started_at == pytest.approx(
            timedelta(milliseconds=step.duration_ms), abs=timedelta(milliseconds=1)
        )


def test_everybody_has_an_account(filled: SqlCheckpointStore) -> None:
    people = AccountStore(filled).list_people()
    assert {(person.email, person.role) for person in people} == {(p.email, p.role) for p in EVERYBODY}


def test_the_same_seed_gives_the_same_records(tmp_path: Path) -> None:
    traces = []
    for name in ("a", "b"):
        with open_store(f"sqlite:///{tmp_path / name}.db") as store:
            fill(store, ordinary_runs=12)
            found = RunQueries(store).list_runs(RunFilter(), limit=100).items
            traces.append(sorted(ResumeEngine(store).get_audit_log(run.run_id) for run in found))
    assert traces[0] == traces[1]


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with open_store(f"sqlite:///{tmp_path / 'demo.db'}") as store:
        total = fill(store, ordinary_runs=3, report=lambda done, of: told.append((done, of)))
    assert told == [(number, total) for number in range(1, total + 1)]


def test_a_database_in_use_is_left_alone(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 'mine.db'}") as store:
        run = ResumeEngine(store).start_run("orders")
        with pytest.raises(DatabaseInUseError, match="not empty"):
            fill(store)
        assert [r.run_id for r in RunQueries(store).list_runs(RunFilter()).items] == [run.run_id]


def test_postgres_can_be_filled_too(postgres_url: str) -> None:
    with open_store(postgres_url) as store:
        total = fill(store, ordinary_runs=5)
        assert len(RunQueries(store).list_runs(RunFilter(), limit=100).items) == total

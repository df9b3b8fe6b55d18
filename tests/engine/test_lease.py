"""A lease: one executor at a time, and a late one writes nothing."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from resume_engine.core.clock import ManualClock, replaced_by, utc_now
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import InvalidValueError, RunBusyError, StaleRunError
from resume_engine.core.failure_classifier import TransientStepError
from resume_engine.core.idempotency import hash_input
from resume_engine.core.lease import Lease, lease_seconds_from_environment
from resume_engine.core.run import RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunState
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import failing, passing, steps
from tests.stores.changes import new_run, summary

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def take(store: SqlCheckpointStore, owner: str, seconds: float = 30) -> Any:
    run = summary(store)
    after = run.evolve(steps_total=3, initial_input_hash=hash_input({"a": 1}))
    lease = Lease(store, owner, seconds, exclusive=True)
    return lease.take(RunChange(before=run, after=after, initial_input={"a": 1}))


def test_taking_a_run_sets_it_running(store: SqlCheckpointStore) -> None:
    new_run(store, status=RunStatus.PENDING)
    with replaced_by(ManualClock(NOON)):
        held = take(store, "worker-1")
        assert held == summary(store)
    assert (held.status, held.lease_owner, held.lease_token) == (RunStatus.RUNNING, "worker-1", 1)
    assert held.lease_expires_at is not None and (held.lease_expires_at - NOON).total_seconds() == 30
    assert held.steps_total == 3 and store.load_initial_input("run-1") == {"a": 1}


def test_a_live_lease_keeps_everybody_else_out(store: SqlCheckpointStore) -> None:
    new_run(store)
    with replaced_by(ManualClock(NOON)) as _:
        take(store, "worker-1")
        for owner in ("worker-2", "worker-1"):
            with pytest.raises(
                RunBusyError, match=r"executed by worker-1, whose claim ends at 2026-03-01T12:00:30"
            ):
                take(store, owner)


def test_an_expired_lease_can_be_taken_over(store: SqlCheckpointStore) -> None:
    new_run(store)
    clock = ManualClock(NOON)
    with replaced_by(clock):
        take(store, "worker-1")
        clock.advance(30)
        second = take(store, "worker-2")
    assert (second.lease_owner, second.lease_token) == ("worker-2", 2)


def test_of_many_at_once_one_takes_it_and_the_others_are_told_who(store: SqlCheckpointStore) -> None:
    new_run(store)
    seen = summary(store)
    together = threading.Barrier(20)

    def attempt(number: int) -> str:
        lease = Lease(store, f"worker-{number}", 30, exclusive=True)
        together.wait()
        try:
            return lease.take(RunChange(before=seen, after=seen)).lease_owner or ""
        except RunBusyError as refusal:
            return f"busy: {refusal.owner}"

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(attempt, range(20)))
    [winner] = [answer for answer in answers if not answer.startswith("busy")]
    assert answers.count(f"busy: {winner}") == 19


@pytest.mark.parametrize("round_number", range(3))
def test_of_many_resuming_at_once_each_step_runs_once(store: SqlCheckpointStore, round_number: int) -> None:
    first = ResumeEngine(store)
    run_id = first.start_run("billing").run_id
    with pytest.raises(TransientStepError):
        first.execute_workflow(run_id, steps(4, fail_at=1, error=TransientStepError("x")))
    calls: list[str] = []
    together = threading.Barrier(10)

    def step(name: str) -> Any:
        def call(_input: dict[str, Any], _key: str) -> dict[str, Any]:
            calls.append(name)
            return {}

        return call

    def resume(_: int) -> str:
        engine = ResumeEngine(store)
        together.wait()
        try:
            workflow = [(f"step_{index}", step(f"step_{index}")) for index in range(4)]
            return engine.resume(run_id, workflow).status.value
        except (RunBusyError, StaleRunError):
            return "refused"

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(resume, range(10)))
    assert calls == ["step_1", "step_2", "step_3"]
    assert set(answers) <= {"completed", "refused"} and "completed" in answers
    assert len(list(store.iter_steps(run_id))) == 5


def test_a_late_owner_writes_nothing(store: SqlCheckpointStore) -> None:
    """Its step comes to an end after somebody else took the run over: the late result is refused."""
    new_run(store)
    clock = ManualClock(NOON)
    taken_over: list[RunStatus] = []

    def slow(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        clock.advance(3_600)  # its heart stops for an hour
        other = ResumeEngine(store, owner="worker-2")
        taken_over.append(other.resume("run-1", steps(2)).status)
        return {"late": True}

    with replaced_by(clock), pytest.raises(StaleRunError, match="run-1 moved on.*Nothing was written"):
        ResumeEngine(store, owner="worker-1", lease_seconds=3_599).execute_workflow(
            "run-1", [("step_0", slow), ("step_1", passing({}))]
        )
    assert taken_over == [RunStatus.COMPLETED]
    records = list(store.iter_steps("run-1"))
    assert [record.worker for record in records] == ["worker-2", "worker-2"]
    assert all(record.output_data != {"late": True} for record in records)
    assert summary(store).lease_owner is None


def test_a_late_failure_is_not_written_either(store: SqlCheckpointStore) -> None:
    new_run(store)
    clock = ManualClock(NOON)

    def slow(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        clock.advance(3_600)
        ResumeEngine(store, owner="worker-2").resume("run-1", steps(1))
        raise ValueError("too late")

    with replaced_by(clock), pytest.raises(StaleRunError):
        ResumeEngine(store, owner="worker-1", lease_seconds=3_599).execute_workflow(
            "run-1", [("step_0", slow)]
        )
    assert summary(store).status is RunStatus.COMPLETED


@pytest.fixture
def file_store(tmp_path: Path) -> Any:
    """A store with more than one connection: the heart beats beside the step."""
    with open_store(f"sqlite:///{tmp_path / 'x.db'}") as opened:
        yield opened


def test_a_slow_step_keeps_its_lease(file_store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(file_store, lease_seconds=0.3)
    run_id = engine.start_run("billing").run_id
    refused: list[str] = []

    def slow(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            with pytest.raises(RunBusyError) as caught:
                ResumeEngine(file_store).resume(run_id, steps(1))
            refused.append(caught.value.owner)
            time.sleep(0.1)
        return {}

    assert engine.execute_workflow(run_id, [("step_0", slow)]).status is RunStatus.COMPLETED
    assert set(refused) == {engine.owner} and len(refused) > 3


def test_the_heart_beats_on_when_the_database_was_away(
    file_store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = ResumeEngine(file_store, lease_seconds=0.3)
    run_id = engine.start_run("billing").run_id
    renew = file_store.renew_lease
    outcomes: list[str] = []

    def sometimes(*arguments: Any) -> bool:
        if len(outcomes) < 2:
            outcomes.append("away")
            raise OperationalError("UPDATE", {}, Exception("server closed the connection"))
        outcomes.append("renewed")
        return renew(*arguments)

    monkeypatch.setattr(file_store, "renew_lease", sometimes)
    engine.execute_workflow(run_id, [("step_0", lambda _input, _key: time.sleep(0.6) or {})])
    assert outcomes[:2] == ["away", "away"] and "renewed" in outcomes
    assert "could not be renewed" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_executor_that_is_stopped_gives_the_run_up_at_once(
    store: SqlCheckpointStore, error: type[BaseException]
) -> None:
    new_run(store)

    def stopped(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        raise error

    with pytest.raises(error):
        ResumeEngine(store).execute_workflow("run-1", [("step_0", stopped)])
    assert summary(store).state(utc_now()) is RunState.INTERRUPTED
    assert ResumeEngine(store).resume("run-1", steps(1)).status is RunStatus.COMPLETED


def test_no_heart_beats_after_the_end(store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(store)
    engine.execute_workflow(engine.start_run("billing").run_id, steps(2))
    with pytest.raises(TransientStepError):
        engine.execute_workflow(engine.start_run("b").run_id, [("a", failing(TransientStepError("x")))])
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("lease-")] == []


@pytest.mark.parametrize(("text", "seconds"), [("", 30), ("60", 60), ("1.5", 1.5), ("86400", 86_400)])
def test_the_time_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, seconds: float
) -> None:
    monkeypatch.setenv("RESUME_ENGINE_LEASE_SECONDS", text)
    assert lease_seconds_from_environment() == seconds


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf", "1e9", "30s", " "])
def test_a_time_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RESUME_ENGINE_LEASE_SECONDS", text)
    with pytest.raises(InvalidValueError, match="^RESUME_ENGINE_LEASE_SECONDS: must be a number of seconds"):
        lease_seconds_from_environment()

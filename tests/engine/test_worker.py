"""The worker: what it finds, when it retries, and that many of them never do a thing twice."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from resume_engine import (
    PartialStepError,
    PermanentStepError,
    ResumeEngine,
    SQLiteCheckpointStore,
    TransientStepError,
)
from resume_engine.core import clock
from resume_engine.core.actor import Channel
from resume_engine.core.audit import EventType
from resume_engine.core.errors import InvalidValueError
from resume_engine.core.run import RunStatus
from resume_engine.storage.open_store import open_store
from resume_engine.worker import RUNS_PER_PASS, Backoff, Worker
from tests.engine import worker_process

NO_JITTER = Backoff(jitter=0)
WORKERS = 4
RUNS = 40


class Service:
    """An outside service: fails with the given errors first, then works; counts its calls."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, state: dict[str, Any], key: str) -> dict[str, Any]:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return {"done": True}


@pytest.fixture(autouse=True)
def news_and_warnings(caplog: pytest.LogCaptureFixture) -> None:
    """Capture them whatever level another test of this process left behind."""
    caplog.set_level(logging.INFO, logger="resume_engine.worker")


@pytest.fixture
def now() -> Iterator[clock.ManualClock]:
    manual = clock.ManualClock(datetime(2026, 3, 2, 3, 0, tzinfo=UTC))
    with clock.replaced_by(manual):
        yield manual


@pytest.fixture
def engine() -> Iterator[ResumeEngine]:
    with SQLiteCheckpointStore("sqlite:///:memory:") as store:
        yield ResumeEngine(store, owner="runner")


def failed_run(engine: ResumeEngine, service: Service, *, workflow: str = "orders", **options: Any) -> str:
    run = engine.start_run(workflow, **options)
    with pytest.raises(type(service.errors[0])):
        engine.execute_workflow(run.run_id, [("call", service)])
    return run.run_id


def worker_for(engine: ResumeEngine, service: Service, **options: Any) -> Worker:
    options.setdefault("backoff", NO_JITTER)
    return Worker(engine, {"orders": [("call", service)]}, name="worker-1", **options)


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def status(engine: ResumeEngine, run_id: str) -> RunStatus:
    run = engine.store.load_summary(run_id)
    assert run is not None
    return run.status


# What it takes


def test_a_transient_failure_is_retried_after_its_wait(engine: ResumeEngine, now: clock.ManualClock) -> None:
    service = Service(TimeoutError("gateway timeout"))
    run_id = failed_run(engine, service)
    worker = worker_for(engine, service)
    now.advance(1.9)
    assert worker.run_once() == 0
    now.advance(0.1)
    assert worker.run_once() == 1
    assert status(engine, run_id) is RunStatus.COMPLETED
    assert service.calls == 2


def test_the_resume_is_recorded_under_the_workers_name(engine: ResumeEngine, now: clock.ManualClock) -> None:
    service = Service(TimeoutError("gateway timeout"))
    run_id = failed_run(engine, service)
    now.advance(60)
    worker_for(engine, service).run_once()
    resumed = [e for e in engine.store.list_events(run_id) if e.event_type == EventType.RUN_RESUMED]
    assert [(e.actor, e.role, e.channel) for e in resumed] == [("worker-1", "runner", Channel.WORKER)]


@pytest.mark.parametrize(
    ("error", "environment"),
    [
        (PermanentStepError("Invalid API key"), "dev"),
        (PartialStepError("Email sent, ledger write failed"), "staging"),
        (TransientStepError("timeout"), "prod"),
    ],
)
def test_a_closed_gate_is_never_passed(
    engine: ResumeEngine, now: clock.ManualClock, error: Exception, environment: str
) -> None:
    service = Service(error)
    run_id = failed_run(engine, service, environment=environment)
    now.advance(86_400)
    assert worker_for(engine, service).run_once() == 0
    assert (service.calls, status(engine, run_id)) == (1, RunStatus.FAILED)


def test_a_cleared_run_is_resumed_at_once(engine: ResumeEngine, now: clock.ManualClock) -> None:
    service = Service(PermanentStepError("Invalid API key"))
    run_id = failed_run(engine, service, environment="prod")
    worker = worker_for(engine, service)
    engine.grant_human_approval(run_id, "ana@example.com", note="API key rotated")
    assert worker.run_once() == 0, "the prod acknowledgement is still missing"
    engine.ack_prod_resume(run_id, "ana@example.com")
    assert worker.run_once() == 1
    assert status(engine, run_id) is RunStatus.COMPLETED


def test_a_second_failure_after_a_decision_needs_a_new_decision(
    engine: ResumeEngine, now: clock.ManualClock
) -> None:
    service = Service(PermanentStepError("Invalid API key"), PermanentStepError("Invalid API key"))
    run_id = failed_run(engine, service)
    engine.grant_human_approval(run_id, "ana@example.com")
    worker = worker_for(engine, service)
    assert worker.run_once() == 1
    now.advance(86_400)
    assert worker.run_once() == 0
    assert [b.required_action for b in engine.get_resume_blockers(run_id)] == ["human_approval"]


def test_a_rejected_run_is_left_alone(engine: ResumeEngine, now: clock.ManualClock) -> None:
    service = Service(TimeoutError("gateway timeout"))
    run_id = failed_run(engine, service)
    engine.reject_run(run_id, "ana@example.com", note="customer withdrew")
    now.advance(86_400)
    assert worker_for(engine, service).run_once() == 0
    assert status(engine, run_id) is RunStatus.CANCELLED


def test_runs_of_other_workflows_are_left_alone(engine: ResumeEngine, now: clock.ManualClock) -> None:
    service = Service(TimeoutError("gateway timeout"))
    failed_run(engine, service, workflow="refunds")
    now.advance(86_400)
    assert worker_for(engine, service).run_once() == 0


def test_cleared_runs_come_before_retries(engine: ResumeEngine, now: clock.ManualClock) -> None:
    order: list[str] = []

    def step(state: dict[str, Any], key: str) -> dict[str, Any]:
        order.append(state["name"])
        return {}

    for name, error in (("retry", TimeoutError()), ("cleared", PermanentStepError("no"))):
        run = engine.start_run("orders", run_id=name)
        with pytest.raises(type(error)):
            engine.execute_workflow(run.run_id, [("call", Service(error))], initial_input={"name": name})
        now.advance(60)
    engine.grant_human_approval("cleared", "ana@example.com")
    assert Worker(engine, {"orders": [("call", step)]}).run_once() == 2
    assert order == ["cleared", "retry"]


# Backoff


def test_waits_grow_with_every_failure_and_end_with_max_attempts(
    engine: ResumeEngine, now: clock.ManualClock
) -> None:
    """The example of the docstring: attempts at 0, 2, 8, 26 and 80 seconds, then a person."""
    service = Service(*[TimeoutError(f"timeout {n}") for n in range(5)])
    start = now.now()
    run_id = failed_run(engine, service)
    worker = worker_for(engine, service)
    at: list[float] = []
    for _ in range(4 * 200):
        now.advance(0.25)
        if worker.run_once():
            at.append((now.now() - start).total_seconds())
    assert at == [2, 8, 26, 80]
    run = engine.store.load_summary(run_id)
    assert run is not None and run.failure is not None
    assert (run.status, run.failure.attempts) == (RunStatus.FAILED, 5)
    now.advance(86_400)
    assert worker.run_once() == 0


@pytest.mark.parametrize(
    ("failures", "wait", "most"),
    [
        (1, 2, 2.2),
        (2, 6, 6.6),
        (3, 18, 19.8),
        (4, 54, 59.4),
        (5, 162, 178.2),
        (6, 300, 330),
        (10_000, 300, 330),
    ],
)
def test_the_table_of_the_docstring_holds(failures: int, wait: float, most: float) -> None:
    assert NO_JITTER.seconds(failures, "a run") == wait
    waits = [Backoff().seconds(failures, f"run {n}") for n in range(200)]
    assert wait <= min(waits) < max(waits) <= most
    assert f"| {wait:.1f}" in (Backoff.__doc__ or "")


def test_the_jitter_is_the_same_on_every_machine() -> None:
    assert Backoff().seconds(3, "d0000001") == Backoff().seconds(3, "d0000001")
    assert Backoff().seconds(3, "d0000001") != Backoff().seconds(3, "d0000002")


@pytest.mark.parametrize(
    "options",
    [{"base_seconds": -1}, {"factor": 0.5}, {"cap_seconds": 1}, {"jitter": -0.1}, {"jitter": float("nan")}],
)
def test_a_backoff_that_makes_no_sense_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match=next(iter(options))):
        Backoff(**options)


def test_options_that_make_no_sense_are_refused(engine: ResumeEngine) -> None:
    with pytest.raises(InvalidValueError, match="poll_seconds"):
        Worker(engine, {}, poll_seconds=0)
    with pytest.raises(InvalidValueError, match="max_attempts"):
        Worker(engine, {}, max_attempts=0)
    with pytest.raises(InvalidValueError, match="steps"):
        Worker(engine, {"orders": ["not a step"]})  # type: ignore[list-item]


def test_runs_that_still_wait_do_not_hide_one_that_is_due(
    engine: ResumeEngine, now: clock.ManualClock
) -> None:
    """More runs than a pass reads are in their long wait; a younger one is due all the same."""
    patient = [Service(*[TimeoutError()] * 3) for _ in range(RUNS_PER_PASS + 5)]
    for service in patient:
        run = engine.start_run("orders")
        for _ in range(3):
            with pytest.raises(TimeoutError):
                engine.resume(run.run_id, [("call", service)])
    now.advance(3)
    due = Service(TimeoutError())
    run_id = failed_run(engine, due)
    now.advance(3)
    assert worker_for(engine, due).run_once() == 1
    assert status(engine, run_id) is RunStatus.COMPLETED


# What goes wrong


def test_a_failing_step_is_news_but_no_warning(
    engine: ResumeEngine, now: clock.ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(TimeoutError("first"), TimeoutError("second"))
    failed_run(engine, service)
    now.advance(60)
    assert worker_for(engine, service).run_once() == 1
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert "failed again: second" in caplog.text


def test_a_workflow_that_does_not_fit_backs_off_and_holds_nobody_up(
    engine: ResumeEngine, now: clock.ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    renamed = engine.start_run("orders")
    with pytest.raises(TimeoutError):
        engine.execute_workflow(renamed.run_id, [("old_name", Service(TimeoutError()))])
    service = Service(TimeoutError())
    good = failed_run(engine, service)
    worker = worker_for(engine, service)
    now.advance(2)
    assert worker.run_once() == 1
    assert status(engine, good) is RunStatus.COMPLETED
    assert [record.levelname for record in warnings(caplog)] == ["WARNING"]
    assert "next try in 2.0 s" in caplog.text

    for _ in range(20):
        worker.run_once()
    assert len(warnings(caplog)) == 1, "the run is set aside, not tried on every pass"
    now.advance(2)
    assert worker.run_once() == 0
    assert "next try in 6.0 s" in caplog.text


def test_a_run_set_aside_is_resumed_once_the_workflow_fits(
    engine: ResumeEngine, now: clock.ManualClock
) -> None:
    service = Service(TimeoutError())
    run_id = failed_run(engine, service)
    worker = Worker(engine, {"orders": [("renamed", service)]}, backoff=NO_JITTER)
    now.advance(2)
    assert worker.run_once() == 0
    worker._workflows["orders"] = worker_for(engine, service)._workflows["orders"]
    now.advance(2)
    assert worker.run_once() == 1
    assert status(engine, run_id) is RunStatus.COMPLETED


def test_a_store_that_fails_for_a_while_does_not_end_the_worker(
    engine: ResumeEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(TimeoutError())
    run_id = failed_run(engine, service)
    answers: list[Callable[..., Any]] = []
    real = engine.store.find_resumable

    def sometimes(*args: Any, **options: Any) -> Any:
        answers.append(real)
        if len(answers) < 3:
            raise ConnectionError("database is restarting")
        return real(*args, **options)

    monkeypatch.setattr(engine.store, "find_resumable", sometimes)
    worker = worker_for(
        engine, service, poll_seconds=0.01, backoff=Backoff(base_seconds=0.01, cap_seconds=0.01, jitter=0)
    )
    worker.start()
    wait_until(lambda: status(engine, run_id) is RunStatus.COMPLETED)
    assert worker.stop(timeout=5)
    assert "database is restarting" in caplog.text


def test_a_run_that_another_worker_took_is_skipped_silently(
    engine: ResumeEngine, now: clock.ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(TimeoutError())
    run_id = failed_run(engine, service)
    now.advance(60)
    seen_by_both = worker_for(engine, service)._due()
    first, second = worker_for(engine, service), worker_for(engine, service)
    assert [first._resume(run) for run in seen_by_both] == [True]
    assert [second._resume(run) for run in seen_by_both] == [False]
    assert service.calls == 2
    assert not warnings(caplog)
    assert status(engine, run_id) is RunStatus.COMPLETED


def test_a_busy_run_is_skipped_silently(
    engine: ResumeEngine, now: clock.ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """While one worker is inside a step, the other finds the claim taken."""
    answers: list[bool] = []

    def slow(state: dict[str, Any], key: str) -> dict[str, Any]:
        answers.extend(other._resume(run) for run in seen)
        return {}

    failed_run(engine, Service(TimeoutError()))
    now.advance(60)
    worker = Worker(engine, {"orders": [("call", slow)]})
    other = Worker(engine, {"orders": [("call", slow)]})
    seen = worker._due()
    other._moved_on = lambda run: False  # type: ignore[method-assign]
    assert worker.run_once() == 1
    assert answers == [False]
    assert not warnings(caplog)


# Threads


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_a_started_worker_resumes_what_is_cleared_within_a_poll(engine: ResumeEngine) -> None:
    service = Service(PermanentStepError("no"))
    run_id = failed_run(engine, service)
    worker = worker_for(engine, service, poll_seconds=0.02)
    worker.start()
    worker.start()  # does nothing
    engine.grant_human_approval(run_id, "ana@example.com")
    wait_until(lambda: status(engine, run_id) is RunStatus.COMPLETED)
    assert worker.stop(timeout=5)
    assert worker.stop(timeout=5)
    assert service.calls == 2


def test_stopping_finishes_the_run_under_way_and_leaves_the_next(engine: ResumeEngine) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(state: dict[str, Any], key: str) -> dict[str, Any]:
        inside.set()
        assert go_on.wait(10)
        return {}

    runs = [failed_run(engine, Service(PermanentStepError("no"))) for _ in range(2)]
    for run_id in runs:
        engine.grant_human_approval(run_id, "ana@example.com")
    worker = Worker(engine, {"orders": [("call", slow)]}, poll_seconds=0.02)
    worker.start()
    assert inside.wait(10)
    assert not worker.stop(timeout=0.05)
    go_on.set()
    assert worker.stop(timeout=10)
    assert sorted(status(engine, run_id) for run_id in runs) == [RunStatus.COMPLETED, RunStatus.PAUSED]


# Many workers, one database


def fail_many(url: str, effects: Path) -> None:
    """Leave runs that a worker may take: every other one cleared by a person, the rest transient."""
    with open_store(url) as store:
        engine = ResumeEngine(store)
        for number in range(RUNS):
            error = PermanentStepError("no") if number % 2 else TimeoutError("late")
            steps = worker_process.steps(str(effects))
            steps[1] = ("charge", Service(error))
            run = engine.start_run("orders")
            with pytest.raises(type(error)):
                engine.execute_workflow(run.run_id, steps, initial_input={"order": number})
            if number % 2:
                engine.grant_human_approval(run.run_id, "ana@example.com")


def assert_everything_happened_once(url: str, effects: Path) -> None:
    lines = Counter(effects.read_text().splitlines())
    assert len(lines) == RUNS * 3
    assert set(lines.values()) == {1}, "a step had its effect twice"
    with open_store(url) as store:
        resumed: Counter[str] = Counter()
        for number in {line.rpartition(":")[2] for line in lines}:
            assert store.get_step_by_idempotency_key(number) is not None
        for run in store.find_resumable(["orders"], failed_before=clock.utc_now(), max_attempts=9, limit=99):
            raise AssertionError(f"{run.run_id} was left behind")
        for run_id in run_ids(store):
            found = store.get_run(run_id)
            assert found is not None and found.status is RunStatus.COMPLETED
            done = [step.step_name for step in found.steps if step.is_completed]
            assert done == list(worker_process.STEPS)
            resumed[run_id] = sum(e.event_type == EventType.RUN_RESUMED for e in store.list_events(run_id))
        assert set(resumed.values()) == {1}, "a run was resumed twice"


def run_ids(store: Any) -> list[str]:
    with store.engine.connect() as conn:
        return [row[0] for row in conn.exec_driver_sql("SELECT run_id FROM runs")]


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


def test_workers_in_threads_never_do_a_thing_twice(database_url: str, tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    fail_many(database_url, effects)
    with ThreadPoolExecutor(WORKERS) as pool:
        taken = list(
            pool.map(lambda n: worker_process.work(database_url, str(effects), f"worker-{n}"), range(WORKERS))
        )
    assert sum(taken) == RUNS
    assert_everything_happened_once(database_url, effects)


@pytest.mark.slow
def test_workers_in_processes_never_do_a_thing_twice(database_url: str, tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    fail_many(database_url, effects)
    script = str(Path(worker_process.__file__))
    processes = [
        subprocess.Popen(
            [sys.executable, script, database_url, str(effects), f"worker-{n}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(WORKERS)
    ]
    taken = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * WORKERS
    assert sum(taken) == RUNS
    assert_everything_happened_once(database_url, effects)

"""The database did what it was asked, and the answer got lost on the way."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import LeaseLostError
from resume_engine.core.failure_classifier import PermanentStepError, TransientStepError
from resume_engine.core.retry import Backoff, RetryPolicy
from resume_engine.core.run import RunStatus
from resume_engine.core.step import Step
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.verification import verify
from tests.crash.broken import taken_out
from tests.crash.proxy import Proxy
from tests.crash.scale import schedule, tell, times

Loses = Callable[[int], bool]
AT_ONCE = RetryPolicy(attempts=3, backoff=Backoff(base_seconds=0, cap_seconds=0))


def story(store: SqlCheckpointStore, run_id: str) -> Counter[str]:
    """Start, retry, fail, approve, resume and complete a run; return how often each step was called."""
    calls: Counter[str] = Counter()

    def step(name: str, fail: Callable[[int], Exception | None] = lambda _: None) -> Step:
        def act(_state: dict[str, Any], _key: str) -> dict[str, Any]:
            calls[name] += 1
            error = fail(calls[name])
            if error is not None:
                raise error
            return {name: calls[name]}

        return Step(name, act, retry=AT_ONCE)

    steps = [
        step("fetch"),
        step("flaky", lambda call: TransientStepError("not now") if call == 1 else None),
        step("check"),
        step("charge", lambda call: PermanentStepError("no such card") if call == 1 else None),
        step("notify"),
    ]
    engine = ResumeEngine(store)
    engine.start_run("orders", run_id=run_id)
    with pytest.raises(PermanentStepError):
        engine.execute_workflow(run_id, steps)
    engine.grant_human_approval(run_id, "olga@example.com")
    assert engine.resume(run_id, steps).status is RunStatus.COMPLETED
    engine.start_run("orders", run_id=f"{run_id}-by-step")
    engine.execute_step(f"{run_id}-by-step", "only", 0, {}, steps[0].fn)
    engine.complete_run(f"{run_id}-by-step")
    return calls


def assert_nothing_doubled(store: SqlCheckpointStore, run_id: str, calls: Counter[str]) -> None:
    assert calls == {"fetch": 2, "flaky": 2, "check": 1, "charge": 2, "notify": 1}
    records = [(r.step_name, r.status.value) for r in store.iter_steps(run_id)]
    assert records == [
        ("fetch", "completed"),
        ("flaky", "failed"),
        ("flaky", "completed"),
        ("check", "completed"),
        ("charge", "failed"),
        ("charge", "completed"),
        ("notify", "completed"),
    ]
    assert len(store.list_decisions(run_id)) == 1
    kinds = [e.event_type for e in store.list_events(run_id)]
    assert kinds == ["run.started", "gate.approved", "run.resumed", "run.completed"]
    assert verify(store) == []


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    """A proxy before a fresh database."""
    made = Proxy(postgres_url)
    yield made
    made.close()


class _Losing:
    """What decides for SQLite's driver; it stands for a disk that writes and reports an error."""

    def __init__(self) -> None:
        self.begin(lambda _: False)

    def begin(self, loses: Loses) -> None:
        self.loses, self.writes, self.lost = loses, 0, 0

    def committed(self) -> None:
        self.writes += 1
        if self.loses(self.writes):
            self.lost += 1
            raise sqlite3.OperationalError("disk I/O error")


def losing_sqlite(store: SqlCheckpointStore, path: Path) -> _Losing:
    """Let the driver of a store report an error after commits that were done."""
    losing = _Losing()

    class Cursor(sqlite3.Cursor):
        def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
            done = super().execute(statement, *parameters)
            if statement == "COMMIT":
                losing.committed()
            return done

    class Connection(sqlite3.Connection):
        def cursor(self, *_: Any, **__: Any) -> Any:
            return super().cursor(Cursor)

        def commit(self) -> None:
            wrote = self.in_transaction and self.total_changes > self._seen
            self._seen = self.total_changes
            super().commit()
            if wrote:
                losing.committed()

        _seen = 0

    @event.listens_for(store.engine, "do_connect")
    def _connect(*_: Any) -> sqlite3.Connection:
        return sqlite3.connect(path, check_same_thread=False, timeout=15, factory=Connection)

    store.engine.dispose()
    return losing


def sweep(store: SqlCheckpointStore, losses: Proxy | _Losing) -> int:
    """Lose the answer to the first write of the story, then to the second, and so on; return how many."""
    number = 0
    while True:
        number += 1
        losses.begin(lambda write, lost=number: write == lost)  # type: ignore[misc]
        calls = story(store, f"run-{number}")
        lost = losses.lost
        losses.begin(lambda _: False)
        if not lost:
            return number - 1
        assert_nothing_doubled(store, f"run-{number}", calls)


def lose_many(store: SqlCheckpointStore, losses: Proxy | _Losing, rounds: int) -> int:
    """Lose every fifth answer on the average; return how many were lost."""
    chance, lost = schedule("lost replies"), 0
    for number in range(rounds):
        losses.begin(lambda _: chance.random() < 0.2)
        calls = story(store, f"random-{number}")
        lost += losses.lost
        losses.begin(lambda _: False)
        assert_nothing_doubled(store, f"random-{number}", calls)
    return lost


def test_no_lost_answer_of_postgres_doubles_or_stops_anything(proxy: Proxy) -> None:
    with open_store(proxy.url) as store:
        writes = sweep(store, proxy)
        lost = lose_many(store, proxy, times(short=1, long=100))
    tell(f"lost answers, postgres: each of {writes} writes once, {lost} at random")
    assert writes >= 17


def test_no_lost_answer_of_sqlite_doubles_or_stops_anything(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with open_store(f"sqlite:///{path}") as store:
        losing = losing_sqlite(store, path)
        writes = sweep(store, losing)
        lost = lose_many(store, losing, times(short=1, long=100))
    tell(f"lost answers, sqlite: each of {writes} writes once, {lost} at random")
    assert writes >= 17


def test_without_change_ids_the_run_stops(proxy: Proxy, tmp_path: Path) -> None:
    with taken_out("no_change_id"):
        with open_store(proxy.url) as store:
            proxy.begin(lambda write: write == 3)
            with pytest.raises(LeaseLostError):
                story(store, "run-0")
        path = tmp_path / "x.db"
        with open_store(f"sqlite:///{path}") as store:
            losing_sqlite(store, path).begin(lambda write: write == 3)
            with pytest.raises(OperationalError):
                story(store, "run-0")


def test_without_the_check_of_the_version_an_attempt_is_recorded_twice(proxy: Proxy) -> None:
    doubled = False
    with taken_out("no_change_id+no_version_check"), open_store(proxy.url) as store:
        for number in range(1, 25):
            proxy.begin(lambda write, lost=number: write == lost)  # type: ignore[misc]
            with suppress(Exception):
                story(store, f"run-{number}")
            failed = [r for r in store.iter_steps(f"run-{number}") if r.is_failed]
            doubled |= len(failed) > 2
    assert doubled, "a failed attempt has no unique key: it is the one that is written twice"

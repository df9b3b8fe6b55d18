"""When a failed step is tried again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from resume_engine.core.clock import ManualClock, replaced_by
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import InvalidValueError, LeaseLostError
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError, TransientStepError
from resume_engine.core.lease import Lease
from resume_engine.core.retry import NO_RETRY, Backoff, RetryPolicy
from resume_engine.core.run import RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.step import Step
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.stores.changes import summary

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PLAIN = Backoff(base_seconds=1, factor=2, cap_seconds=60, jitter=0)


# How long


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 1), (1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (10_000, 60)]
)
def test_a_wait_grows_up_to_its_cap(failures: int, seconds: float) -> None:
    assert PLAIN.seconds(failures, "run-1") == seconds


def test_jitter_spreads_runs_and_is_the_same_everywhere() -> None:
    backoff = Backoff(base_seconds=10, factor=1, cap_seconds=10, jitter=0.5)
    waits = [backoff.seconds(1, f"run-{number}") for number in range(200)]
    assert waits == [backoff.seconds(1, f"run-{number}") for number in range(200)]
    assert 10 <= min(waits) < 10.5 and 14.5 < max(waits) <= 15
    assert len(set(waits)) == 200


class _Response:
    def __init__(self, value: object) -> None:
        self.headers = {"Retry-After": value}


def asking(**fields: Any) -> Exception:
    error = Exception("busy")
    for name, value in fields.items():
        setattr(error, name, value)
    return error


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (Exception("no wish"), 2),
        (TransientStepError("x", retry_after=5), 5),
        (TransientStepError("x", retry_after=0.5), 2),  # shorter than our own wait
        (TransientStepError("x", retry_after=1_000), 60),  # longer than we are ready to wait
        (TransientStepError("x", retry_after=0), 2),
        (asking(retry_after="7"), 7),
        (asking(retry_after=-3), 2),
        (asking(retry_after="soon"), 2),
        (asking(retry_after=float("inf")), 2),
        (asking(retry_after=float("nan")), 2),
        (asking(retry_after=object()), 2),
        (asking(response=_Response("9")), 9),
        (asking(response=_Response("Wed, 21 Oct 2026 07:28:00 GMT")), 2),
        (asking(response=_Response(None)), 2),
        (asking(response=SimpleNamespace(headers=None)), 2),
        (asking(response=None), 2),
    ],
)
def test_a_receiver_may_ask_for_a_longer_wait(error: Exception, seconds: float) -> None:
    assert RetryPolicy(backoff=PLAIN).wait_seconds(2, "run-1", error) == seconds


@pytest.mark.parametrize("attempts", [0, -1, 1.5, True, "3", None])
def test_attempts_are_a_whole_number_from_one(attempts: Any) -> None:
    with pytest.raises(InvalidValueError, match="^attempts: must be a whole number from 1"):
        RetryPolicy(attempts=attempts)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("base_seconds", {"base_seconds": -1}),
        ("factor", {"factor": 0.5}),
        ("cap_seconds", {"base_seconds": 5, "cap_seconds": 4}),
        ("jitter", {"jitter": -0.1}),
        ("jitter", {"jitter": float("nan")}),
    ],
)
def test_a_backoff_that_makes_no_sense_is_named(field: str, fields: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match=f"^{field}: must be at least"):
        Backoff(**fields)


# In a run


class Scripted:
    """A step that raises what it is given in turn, then completes."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls: list[tuple[datetime, str]] = []

    def __call__(self, _input: dict[str, Any], key: str) -> dict[str, Any]:
        from resume_engine.core.clock import utc_now

        self.calls.append((utc_now(), key))
        if self.errors:
            raise self.errors.pop(0)
        return {"calls": len(self.calls)}


def step(act: Scripted, attempts: int = 3) -> list[Step]:
    return [Step("call", act, retry=RetryPolicy(attempts=attempts, backoff=PLAIN))]


def attempts_of(store: SqlCheckpointStore, run_id: str) -> list[tuple[int, str, int]]:
    return [(r.attempt, r.status.value, r.sequence) for r in store.iter_steps(run_id)]


def test_every_attempt_is_recorded_with_the_same_key_and_its_wait_before_it(
    store: SqlCheckpointStore,
) -> None:
    act = Scripted(TransientStepError("a"), TransientStepError("b"))
    engine = ResumeEngine(store)
    with replaced_by(ManualClock(NOON)):
        run_id = engine.start_run("billing").run_id
        done = engine.execute_workflow(run_id, step(act))
    assert done.status is RunStatus.COMPLETED
    assert attempts_of(store, run_id) == [(1, "failed", 0), (2, "failed", 1), (3, "completed", 2)]
    assert [(moment - NOON).total_seconds() for moment, _ in act.calls] == [0, 1, 3]
    assert len({key for _, key in act.calls}) == 1
    run = summary(store, run_id)
    assert run.failure is None and run.retry_at is None and run.steps_completed == 1


@pytest.mark.parametrize(
    ("errors", "calls", "status"),
    [
        ([TransientStepError("x")] * 3, 3, RunStatus.FAILED),
        ([PermanentStepError("x")], 1, RunStatus.FAILED),
        ([PartialStepError("x")], 1, RunStatus.FAILED),
        ([TransientStepError("x"), PermanentStepError("y")], 2, RunStatus.FAILED),
        ([ConnectionError("x"), TimeoutError("y")], 3, RunStatus.COMPLETED),
    ],
)
def test_only_transient_failures_are_tried_again_and_so_often(
    store: SqlCheckpointStore, errors: list[Exception], calls: int, status: RunStatus
) -> None:
    act, engine = Scripted(*errors), ResumeEngine(store)
    with replaced_by(ManualClock(NOON)):
        run_id = engine.start_run("billing").run_id
        if status is RunStatus.FAILED:
            with pytest.raises(type(errors[-1])):
                engine.execute_workflow(run_id, step(act))
        else:
            engine.execute_workflow(run_id, step(act))
    run = summary(store, run_id)
    assert len(act.calls) == calls and run.status is status and run.retry_at is None
    assert run.lease_owner is None and run.in_flight == ()


def test_a_resume_has_all_attempts_again(store: SqlCheckpointStore) -> None:
    act, engine = Scripted(*[TransientStepError("x")] * 5), ResumeEngine(store)
    with replaced_by(ManualClock(NOON)):
        run_id = engine.start_run("billing").run_id
        with pytest.raises(TransientStepError):
            engine.execute_workflow(run_id, step(act))
        failure = summary(store, run_id).failure
        assert failure is not None and failure.attempts == 3
        assert engine.resume(run_id, step(act)).status is RunStatus.COMPLETED
    assert [attempt for attempt, _, _ in attempts_of(store, run_id)] == [1, 2, 3, 4, 5, 6]


def test_without_a_policy_a_failure_ends_the_execution(store: SqlCheckpointStore) -> None:
    act, engine = Scripted(TransientStepError("x")), ResumeEngine(store)
    run_id = engine.start_run("billing").run_id
    with pytest.raises(TransientStepError):
        engine.execute_workflow(run_id, [("call", act)])
    assert len(act.calls) == 1 and NO_RETRY.attempts == 1


def test_in_prod_a_retry_within_the_execution_asks_nobody(store: SqlCheckpointStore) -> None:
    act, engine = Scripted(TransientStepError("x")), ResumeEngine(store)
    with replaced_by(ManualClock(NOON)):
        run_id = engine.start_run("billing", environment="prod").run_id
        assert engine.execute_workflow(run_id, step(act)).status is RunStatus.COMPLETED


class DiesWaiting(ManualClock):
    """A clock of a process that ends in its first wait, so many seconds into it."""

    def __init__(self, moment: datetime, after: float) -> None:
        super().__init__(moment)
        self.after: float | None = after

    def advance(self, seconds: float) -> None:
        if self.after is None:
            super().advance(seconds)
            return
        super().advance(self.after)
        self.after = None
        raise KeyboardInterrupt


@pytest.mark.parametrize(("passed", "left"), [(0.2, 0.8), (5, 0)])
def test_the_rest_of_a_wait_is_waited_by_whoever_takes_over(
    store: SqlCheckpointStore, passed: float, left: float
) -> None:
    act, engine = Scripted(TransientStepError("x")), ResumeEngine(store)
    clock = DiesWaiting(NOON, passed)
    with replaced_by(clock):
        run_id = engine.start_run("billing").run_id
        with pytest.raises(KeyboardInterrupt):
            engine.execute_workflow(run_id, step(act))
        waiting = summary(store, run_id)
        assert waiting.retry_at == NOON + timedelta(seconds=1)
        assert [s.attempt for s in waiting.in_flight] == [2]
        engine.resume(run_id, step(act))
    assert [(moment - NOON).total_seconds() for moment, _ in act.calls] == [0, passed + left]
    assert attempts_of(store, run_id) == [(1, "failed", 0), (2, "completed", 1)]
    [resumed] = [e for e in store.list_events(run_id) if e.event_type == "run.resumed"]
    assert "interrupted" not in resumed.payload, "the attempt had not begun"


def test_a_run_that_was_taken_away_during_a_wait_is_let_go(store: SqlCheckpointStore) -> None:
    act, engine = Scripted(TransientStepError("x")), ResumeEngine(store, owner="worker-1")

    class Slow(ManualClock):
        def advance(self, seconds: float) -> None:
            super().advance(3_600)
            run = summary(store, run_id)
            Lease(store, "worker-2", 60, exclusive=True).take(RunChange(before=run, after=run))

    with replaced_by(Slow(NOON)):
        run_id = engine.start_run("billing").run_id
        with pytest.raises(LeaseLostError):
            engine.execute_workflow(run_id, step(act))
    assert len(act.calls) == 1

"""A cancelled caller: which step is stopped, what is recorded, and who may go on."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any

import pytest

from resume_engine.core.clock import utc_now
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.failure_classifier import TransientStepError
from resume_engine.core.retry import Backoff, RetryPolicy
from resume_engine.core.run import RunStatus
from resume_engine.core.run_summary import RunState
from resume_engine.core.step import Step
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.engine.coroutines import PROMPT, State, run
from tests.factories import passing
from tests.stores.changes import summary


class Cancelling:
    """Start a workflow as a task, cancel it once a step says that it has begun, and await its end."""

    def __init__(self, engine: ResumeEngine) -> None:
        self.engine = engine
        self.run_id = engine.start_run("billing").run_id
        self.begun = threading.Event()
        self.calls: list[str] = []

    async def at_work(self, workflow: list[Any], *, twice: bool = False) -> None:
        task = asyncio.ensure_future(self.engine.aexecute_workflow(self.run_id, workflow))
        while not self.begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        if twice:
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def slow(self, _state: State, _key: str) -> State:
        self.calls.append("slow")
        self.begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.calls.append("cancelled")
            raise
        return {}

    def slow_function(self, _state: State, _key: str) -> State:
        self.calls.append("slow")
        self.begun.set()
        time.sleep(0.2)
        return {"slow": True}

    def after(self, _state: State, _key: str) -> State:
        self.calls.append("after")
        return {}


@pytest.mark.parametrize("twice", [False, True])
def test_a_cancellation_stops_the_step_under_way_and_starts_no_other(
    engine: ResumeEngine, store: SqlCheckpointStore, twice: bool
) -> None:
    case = Cancelling(engine)
    started = time.monotonic()
    workflow = [("first", passing({"a": 1})), ("slow", case.slow), ("after", case.after)]
    run(case.at_work(workflow, twice=twice))
    assert case.calls == ["slow", "cancelled"] and time.monotonic() - started < PROMPT
    left = summary(store, case.run_id)
    assert left.state(utc_now()) is RunState.INTERRUPTED
    assert [step.step_name for step in left.in_flight] == ["slow"]
    assert [step.step_name for step in store.iter_steps(case.run_id)] == ["first"]
    # The lease is free: somebody else goes on at once, with the same key.
    other = ResumeEngine(store, owner="worker-2")
    keys: list[str] = []
    again = [workflow[0], ("slow", lambda _state, key: keys.append(key) or {}), workflow[2]]
    assert other.resume(case.run_id, again).status is RunStatus.COMPLETED
    assert keys == [left.in_flight[0].idempotency_key]


def test_a_function_under_way_is_recorded_before_a_cancellation_takes_effect(
    engine: ResumeEngine, store: SqlCheckpointStore
) -> None:
    case = Cancelling(engine)
    run(case.at_work([("slow", case.slow_function), ("after", case.after)]))
    assert case.calls == ["slow"]
    assert [step.output_data for step in store.iter_steps(case.run_id)] == [{"slow": True}]
    assert summary(store, case.run_id).state(utc_now()) is RunState.INTERRUPTED


def test_a_cancellation_ends_the_wait_for_a_retry(engine: ResumeEngine, store: SqlCheckpointStore) -> None:
    case = Cancelling(engine)

    async def flaky(_state: State, _key: str) -> State:
        case.begun.set()
        raise TransientStepError("not now")

    policy = RetryPolicy(attempts=2, backoff=Backoff(base_seconds=50, cap_seconds=60))
    started = time.monotonic()
    run(case.at_work([Step("a", flaky, retry=policy)]))
    assert time.monotonic() - started < PROMPT
    assert summary(store, case.run_id).state(utc_now()) is RunState.INTERRUPTED


def test_the_last_step_may_end_in_spite_of_a_cancellation(
    engine: ResumeEngine, store: SqlCheckpointStore
) -> None:
    case = Cancelling(engine)
    run(case.at_work([("slow", case.slow_function)]))
    assert summary(store, case.run_id).status is RunStatus.COMPLETED


def test_the_end_of_the_program_leaves_no_run_behind(engine: ResumeEngine, store: SqlCheckpointStore) -> None:
    """`asyncio.run` cancels what is still under way when its main coroutine ends."""
    case = Cancelling(engine)

    async def main() -> None:
        task = asyncio.ensure_future(engine.aexecute_workflow(case.run_id, [("slow", case.slow)]))
        while not case.begun.is_set():
            await asyncio.sleep(0.001)
        assert not task.done()

    asyncio.run(main())
    assert case.calls == ["slow", "cancelled"]
    assert summary(store, case.run_id).state(utc_now()) is RunState.INTERRUPTED
    ours = [t for t in threading.enumerate() if t.name.startswith(("lease-", "resume-engine"))]
    for thread in ours:  # each is on its last lines at most
        thread.join(5)
    assert [t.name for t in ours if t.is_alive()] == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the loop's own making
def test_a_loop_that_was_closed_ends_the_wait(engine: ResumeEngine, store: SqlCheckpointStore) -> None:
    case = Cancelling(engine)
    loop = asyncio.new_event_loop()
    tasks: list[Any] = []

    async def start() -> None:
        tasks.append(loop.create_task(engine.aexecute_workflow(case.run_id, [("slow", case.slow)])))
        while not case.begun.is_set():
            await asyncio.sleep(0.001)

    loop.run_until_complete(start())
    loop.close()
    deadline = time.monotonic() + PROMPT
    while summary(store, case.run_id).lease_live and time.monotonic() < deadline:
        time.sleep(0.05)
    assert summary(store, case.run_id).state(utc_now()) is RunState.INTERRUPTED
    tasks.clear()
    gc.collect()

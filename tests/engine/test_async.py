"""Coroutine steps: the same engine, records and rules, awaited."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import inspect
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from resume_engine.core.clock import ManualClock, replaced_by, utc_now
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import (
    InvalidValueError,
    OutputNotDictError,
    ResumeBlockedError,
    RunBusyError,
    StepTimeoutError,
)
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError, TransientStepError
from resume_engine.core.retry import Backoff, RetryPolicy
from resume_engine.core.run import RunStatus
from resume_engine.core.run_summary import RunState
from resume_engine.core.step import Step
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.worker import Worker
from tests.factories import failing, passing, steps
from tests.stores.changes import NOON, summary

State = dict[str, Any]
PROMPT = 5.0  # seconds that only a test which hangs would need


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def coroutines(count: int, *, fail_at: int | None = None, error: Exception | None = None) -> list[Any]:
    """Return what `tests.factories.steps` returns, as coroutine functions."""

    def coroutine_of(step: Any) -> Any:
        async def call(state: State, key: str) -> State:
            await asyncio.sleep(0)
            output: State = step(state, key)
            return output

        return call

    return [(name, coroutine_of(fn)) for name, fn in steps(count, fail_at=fail_at, error=error)]


@pytest.fixture
def file_store(tmp_path: Path) -> Any:
    """A store with more than one connection: the heart beats beside the step."""
    with open_store(f"sqlite:///{tmp_path / 'x.db'}") as opened:
        yield opened


# The same records


def test_coroutine_steps_leave_the_records_that_functions_leave(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing", run_id="run-1").run_id
    done = run(engine.aexecute_workflow(run_id, coroutines(3), initial_input={"order": 7}))
    assert done.status is RunStatus.COMPLETED
    trace = engine.get_audit_log(run_id)
    with open_store("sqlite:///:memory:") as other_store:
        other = ResumeEngine(other_store)
        other.start_run("billing", run_id="run-1")
        other.execute_workflow("run-1", steps(3), initial_input={"order": 7})
        assert other.get_audit_log("run-1") == trace
    assert engine.replay_run(run_id, coroutines(3))[1] == trace


def test_steps_of_both_kinds_mix(engine: ResumeEngine) -> None:
    threads: list[str] = []

    async def on_the_loop(state: State, _key: str) -> State:
        threads.append(threading.current_thread().name)
        return {"loop": state["first"] + 1}

    def in_the_thread(_state: State, _key: str) -> State:
        threads.append(threading.current_thread().name)
        return {"first": 1}

    run_id = engine.start_run("billing").run_id
    workflow = [("first", in_the_thread), ("second", on_the_loop), ("third", passing({"c": 3}))]
    done = run(engine.aexecute_workflow(run_id, workflow))
    assert [step.output_data for step in done.steps] == [{"first": 1}, {"loop": 2}, {"c": 3}]
    assert threads[1] == threading.main_thread().name != threads[0]


class _Callable:
    async def __call__(self, state: State, _key: str) -> State:
        return {"of": "an object"}


async def _with_option(option: str, _state: State, _key: str) -> State:
    return {"of": option}


COROUTINE_STEPS: dict[str, Any] = {
    "an object": _Callable(),
    "a partial": functools.partial(_with_option, "a partial"),
    "a lambda": lambda state, key: _with_option("a lambda", state, key),
}


@pytest.mark.parametrize("kind", COROUTINE_STEPS)
def test_anything_that_makes_a_coroutine_is_awaited(engine: ResumeEngine, kind: str) -> None:
    run_id = engine.start_run("billing").run_id
    done = run(engine.aexecute_workflow(run_id, [("a", COROUTINE_STEPS[kind])]))
    assert done.steps[0].output_data == {"of": kind}


def test_a_failed_run_is_resumed_with_its_recorded_state(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    broken = coroutines(4, fail_at=2, error=TransientStepError("timed out"))
    with pytest.raises(TransientStepError, match="timed out"):
        run(engine.aexecute_workflow(run_id, broken, initial_input={"order": 7}))
    assert summary(engine.store, run_id).status is RunStatus.FAILED
    done = run(engine.aresume(run_id, coroutines(4)))
    assert done.status is RunStatus.COMPLETED
    assert done.steps[-1].input_data == {"order": 7, "out_0": 0, "out_1": 1, "out_2": 2}


def test_gates_hold(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(PermanentStepError):
        run(engine.aexecute_workflow(run_id, coroutines(2, fail_at=1)))
    with pytest.raises(ResumeBlockedError):
        run(engine.aresume(run_id, coroutines(2)))
    engine.grant_human_approval(run_id, "olga@example.com")
    assert run(engine.aresume(run_id, coroutines(2))).status is RunStatus.COMPLETED


def test_a_single_step_is_awaited_and_not_repeated(engine: ResumeEngine) -> None:
    calls: list[str] = []

    async def step(_state: State, key: str) -> State:
        calls.append(key)
        return {"done": True}

    async def both(run_id: str) -> list[Any]:
        first = await engine.aexecute_step(run_id, "a", 0, {"x": 1}, step)
        return [first, await engine.aexecute_step(run_id, "a", 0, {"x": 1}, step)]

    first, second = run(both(engine.start_run("billing").run_id))
    assert first.output_data == second.output_data == {"done": True}
    assert calls == [first.idempotency_key]


def test_branches_of_one_run_go_on_beside_each_other(file_store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(file_store)
    met = asyncio.Barrier(4)

    async def branch(_state: State, _key: str) -> State:
        await met.wait()  # none of them ends before all have begun
        return {}

    async def all_of(run_id: str) -> None:
        calls = (engine.aexecute_step(run_id, f"step_{i}", i, {}, branch) for i in range(4))
        await asyncio.gather(*calls)

    with engine.run("billing") as started:
        run(all_of(started.run_id))
    assert sorted(step.step_index for step in file_store.iter_steps(started.run_id)) == [0, 1, 2, 3]


def test_many_runs_wait_for_each_other_without_waiting_for_a_thread(file_store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(file_store)
    met = asyncio.Barrier(40)

    async def meet(_state: State, _key: str) -> State:
        await met.wait()
        return {}

    async def all_of() -> list[Any]:
        ids = [engine.start_run("billing").run_id for _ in range(40)]
        return await asyncio.gather(*(engine.aexecute_workflow(i, [("meet", meet)]) for i in ids))

    assert {done.status for done in run(all_of())} == {RunStatus.COMPLETED}


def test_a_compensation_may_be_a_coroutine_function(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(PartialStepError):
        run(engine.aexecute_workflow(run_id, coroutines(2, fail_at=1, error=PartialStepError("half"))))
    undone = run(engine.aexecute_compensation(run_id, _with_option_undo))
    assert undone.output_data == {"undone": True}
    assert run(engine.aresume(run_id, coroutines(2))).status is RunStatus.COMPLETED


async def _with_option_undo(_state: State, _key: str) -> State:
    return {"undone": True}


def test_a_reconciliation_may_be_a_coroutine_function(engine: ResumeEngine) -> None:
    async def found(state: State, _key: str) -> State:
        return {"found": state["order"]}

    run_id = engine.start_run("billing").run_id
    with pytest.raises(KeyboardInterrupt):
        engine.execute_workflow(run_id, [("a", _stopped)], initial_input={"order": 7})
    done = run(engine.aresume(run_id, [Step("a", coroutines(1)[0][1], reconcile=found)]))
    assert done.steps[0].output_data == {"found": 7}


def _stopped(_state: State, _key: str) -> State:
    raise KeyboardInterrupt


def test_what_a_coroutine_returns_is_checked(engine: ResumeEngine) -> None:
    async def nothing(_state: State, _key: str) -> None:
        return None

    with pytest.raises(OutputNotDictError, match="returned NoneType"):
        run(engine.aexecute_workflow(engine.start_run("billing").run_id, [("a", nothing)]))


def test_a_worker_resumes_runs_with_coroutine_steps(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(PermanentStepError):
        run(engine.aexecute_workflow(run_id, coroutines(3, fail_at=1)))
    engine.grant_human_approval(run_id, "olga@example.com")
    worker = Worker(engine, {"billing": coroutines(3)})
    assert worker.run_once() == 1
    assert summary(engine.store, run_id).status is RunStatus.COMPLETED


# Without a loop


@pytest.mark.parametrize("kind", ["fn", "reconcile"])
def test_the_plain_call_refuses_a_coroutine_function_before_it_writes(
    engine: ResumeEngine, store: SqlCheckpointStore, kind: str
) -> None:
    step = {"fn": passing({}), kind: _with_option_undo}
    workflow = [("first", passing({})), Step("second", **step)]
    run_id = engine.start_run("billing").run_id
    before = summary(store, run_id)
    for call in (engine.execute_workflow, engine.resume):
        with pytest.raises(InvalidValueError, match=r"^steps: 'second' is a coroutine .*aexecute_workflow"):
            call(run_id, workflow)
    assert summary(store, run_id) == before


def test_a_plain_single_step_refuses_it_too(engine: ResumeEngine, store: SqlCheckpointStore) -> None:
    run_id = engine.start_run("billing").run_id
    before = summary(store, run_id)
    with pytest.raises(InvalidValueError, match="coroutine function"):
        engine.execute_step(run_id, "a", 0, {}, _with_option_undo)
    assert summary(store, run_id) == before


def test_a_coroutine_that_nobody_could_foresee_fails_its_step(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(InvalidValueError, match="'a' returned something to await; it was not run"):
        engine.execute_workflow(run_id, [("a", COROUTINE_STEPS["a lambda"])])
    failure = summary(engine.store, run_id).failure
    assert failure is not None and failure.classification is FailureClassification.PERMANENT


def test_a_plain_call_inside_a_coroutine_step_refuses_instead_of_waiting_for_itself(
    engine: ResumeEngine,
) -> None:
    inner_id = engine.start_run("inner").run_id

    async def outer(_state: State, _key: str) -> State:
        with pytest.raises(InvalidValueError, match="coroutine function"):
            engine.execute_workflow(inner_id, coroutines(1))
        done = await engine.aexecute_workflow(inner_id, coroutines(1))
        return {"inner": done.status.value}

    done = run(engine.aexecute_workflow(engine.start_run("outer").run_id, [("a", outer)]))
    assert done.steps[0].output_data == {"inner": "completed"}


# Context variables

request = contextvars.ContextVar("request", default="none")


def test_steps_see_the_context_variables_of_the_caller(engine: ResumeEngine) -> None:
    seen: list[str] = []

    async def coroutine(_state: State, _key: str) -> State:
        seen.append(request.get())
        request.set("changed by a step")
        return {}

    def function(_state: State, _key: str) -> State:
        seen.append(request.get())
        return {}

    async def call(run_id: str) -> str:
        request.set("r-1")
        await engine.aexecute_workflow(
            run_id, [("a", coroutine), Step("b", function, timeout=10), Step("c", coroutine, timeout=10)]
        )
        return request.get()

    assert run(call(engine.start_run("billing").run_id)) == "r-1"
    assert seen == ["r-1"] * 3


# Timeouts and retries


def test_a_coroutine_that_takes_too_long_is_cancelled(engine: ResumeEngine) -> None:
    ended: list[str] = []

    async def slow(_state: State, _key: str) -> State:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")
        return {}

    run_id = engine.start_run("billing").run_id
    started = time.monotonic()
    with pytest.raises(StepTimeoutError, match=r"'a' took longer than its timeout of 0.05 s"):
        run(engine.aexecute_workflow(run_id, [Step("a", slow, timeout=0.05)]))
    assert ended == ["cancelled"] and time.monotonic() - started < PROMPT
    failure = summary(engine.store, run_id).failure
    assert failure is not None and failure.error_type == "StepTimeoutError"
    assert failure.classification is FailureClassification.TRANSIENT


def test_a_timeout_of_the_step_itself_is_its_own(engine: ResumeEngine) -> None:
    async def impatient(_state: State, _key: str) -> State:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)
        return {}

    with pytest.raises(TimeoutError) as caught:
        run(engine.aexecute_workflow(engine.start_run("b").run_id, [Step("a", impatient, timeout=30)]))
    assert not isinstance(caught.value, StepTimeoutError)


def test_a_coroutine_that_was_cancelled_by_someone_else_has_failed(engine: ResumeEngine) -> None:
    async def gone(_state: State, _key: str) -> State:
        other = asyncio.ensure_future(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(other.cancel)
        await other
        return {}

    with pytest.raises(TransientStepError, match="was cancelled, though not by its caller"):
        run(engine.aexecute_workflow(engine.start_run("billing").run_id, [("a", gone)]))


def test_failures_are_retried(engine: ResumeEngine) -> None:
    left = [TransientStepError("one"), TransientStepError("two")]

    async def flaky(_state: State, _key: str) -> State:
        if left:
            raise left.pop()
        return {}

    policy = RetryPolicy(attempts=3, backoff=Backoff(base_seconds=30, cap_seconds=60))
    run_id = engine.start_run("billing").run_id
    with replaced_by(ManualClock(NOON)) as _:
        done = run(engine.aexecute_workflow(run_id, [Step("a", flaky, retry=policy)]))
    assert [step.attempt for step in done.steps] == [1, 2, 3]


# Cancellation


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


def test_the_heart_beats_while_a_coroutine_works(file_store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(file_store, lease_seconds=0.3)
    run_id = engine.start_run("billing").run_id

    async def slow(_state: State, _key: str) -> State:
        for _ in range(4):
            await asyncio.sleep(0.2)
            with pytest.raises(RunBusyError):
                ResumeEngine(file_store).resume(run_id, [("a", failing(ValueError("never")))])
        return {}

    assert run(engine.aexecute_workflow(run_id, [("a", slow)])).status is RunStatus.COMPLETED


# What a developer sees


def test_the_awaitable_calls_tell_their_names_and_arguments() -> None:
    for name in ("execute_workflow", "resume", "execute_step", "execute_compensation"):
        call = getattr(ResumeEngine, f"a{name}")
        assert inspect.iscoroutinefunction(call) and call.__name__ == f"a{name}"
        assert inspect.signature(call).parameters == inspect.signature(getattr(ResumeEngine, name)).parameters
        assert f"`{name}`" in (call.__doc__ or "")


def test_importing_the_engine_does_not_import_asyncio() -> None:
    script = "import sys, resume_engine; print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

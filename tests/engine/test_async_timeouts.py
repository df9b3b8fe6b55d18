"""Coroutine steps that take too long, are cancelled by others, or are tried again."""

from __future__ import annotations

import asyncio
import time

import pytest

from resume_engine.core.clock import ManualClock, replaced_by
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import StepTimeoutError
from resume_engine.core.failure_classifier import TransientStepError
from resume_engine.core.retry import Backoff, RetryPolicy
from resume_engine.core.step import Step
from resume_engine.core.step_record import FailureClassification
from tests.engine.coroutines import PROMPT, State, run
from tests.stores.changes import NOON, summary


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

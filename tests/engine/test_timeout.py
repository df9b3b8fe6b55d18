"""Steps that take too long."""

from __future__ import annotations

import contextvars
import threading
import time
from typing import Any

import pytest

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import InvalidValueError, StepTimeoutError
from resume_engine.core.failure_classifier import PermanentStepError
from resume_engine.core.retry import Backoff, RetryPolicy
from resume_engine.core.run import RunStatus
from resume_engine.core.step import Step
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import passing
from tests.stores.changes import summary

AT_ONCE = RetryPolicy(attempts=2, backoff=Backoff(base_seconds=0, cap_seconds=0))


def start(engine: ResumeEngine) -> str:
    return engine.start_run("billing").run_id


def test_a_step_that_takes_too_long_is_a_transient_failure(engine: ResumeEngine) -> None:
    released = threading.Event()

    def slow(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        released.wait(10)
        return {"late": True}

    run_id, begun = start(engine), time.monotonic()
    with pytest.raises(StepTimeoutError, match=r"took longer than its timeout of 0\.05 s"):
        engine.execute_workflow(run_id, [Step("slow", slow, timeout=0.05)])
    assert time.monotonic() - begun < 5
    released.set()
    run = summary(engine.store, run_id)
    assert run.failure is not None and run.failure.classification is FailureClassification.TRANSIENT
    assert run.failure.error_type == "StepTimeoutError" and run.status is RunStatus.FAILED
    [record] = engine.store.iter_steps(run_id)
    assert record.output_data is None and (record.duration_ms or 0) >= 50
    assert engine.resume(run_id, [("slow", passing({}))]).status is RunStatus.COMPLETED
    assert [r.output_data for r in engine.store.iter_steps(run_id)] == [None, {}], (
        "what came late is not kept"
    )


def test_the_next_attempt_has_the_same_key_while_the_first_may_still_run(engine: ResumeEngine) -> None:
    keys: list[str] = []
    released = threading.Event()

    def slow_once(_input: dict[str, Any], key: str) -> dict[str, Any]:
        keys.append(key)
        if len(keys) == 1:
            released.wait(10)
        return {"call": len(keys)}

    run_id = start(engine)
    done = engine.execute_workflow(run_id, [Step("s", slow_once, timeout=0.1, retry=AT_ONCE)])
    released.set()
    assert done.status is RunStatus.COMPLETED and len(set(keys)) == 1 and len(keys) == 2
    assert [r.status.value for r in done.steps] == ["failed", "completed"]


def test_a_step_in_time_is_what_it_would_be_without_a_timeout(engine: ResumeEngine) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    variable.set("of the caller")
    done = engine.execute_workflow(
        start(engine),
        [Step("s", lambda given, key: {"seen": variable.get(), "key": key, **given}, timeout=10)],
        initial_input={"a": 1},
    )
    [record] = done.steps
    assert record.output_data == {"seen": "of the caller", "key": record.idempotency_key, "a": 1}


@pytest.mark.parametrize("error", [PermanentStepError("no such card"), KeyError("amount")])
def test_what_a_step_raises_in_time_comes_out_as_it_is(engine: ResumeEngine, error: Exception) -> None:
    def fail(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        raise error

    with pytest.raises(type(error)) as caught:
        engine.execute_workflow(start(engine), [Step("s", fail, timeout=10)])
    assert caught.value is error


def test_an_output_that_is_no_object_is_refused_as_without_a_timeout(engine: ResumeEngine) -> None:
    run_id = start(engine)
    with pytest.raises(TypeError):
        engine.execute_workflow(run_id, [Step("s", lambda _i, _k: None, timeout=10)])  # type: ignore[arg-type,return-value]
    assert summary(engine.store, run_id).blocked_by == ("compensation",)


def test_the_lease_outlasts_a_step_with_a_timeout(store: SqlCheckpointStore) -> None:
    engine = ResumeEngine(store, lease_seconds=0.3)
    run_id = start(engine)
    done = engine.execute_workflow(run_id, [Step("s", lambda _i, _k: time.sleep(0.5) or {}, timeout=10)])
    assert done.status is RunStatus.COMPLETED


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_a_timeout_that_makes_no_sense_is_named(timeout: float) -> None:
    with pytest.raises(InvalidValueError, match="^timeout: of step 's' must be more than 0 s"):
        Step("s", passing({}), timeout=timeout)

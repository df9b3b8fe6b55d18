"""Runs that are started, driven step by step, and completed by their user."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import InvalidValueError, ResumeBlockedError, RunExistsError
from resume_engine.core.failure_classifier import PermanentStepError, TransientStepError
from resume_engine.core.run import Environment, RunStatus
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import failing, passing
from tests.stores.changes import summary

# Starting


def test_a_run_is_started(engine: ResumeEngine) -> None:
    run = engine.start_run("billing", metadata={"customer": 7}, environment="staging")
    assert (run.workflow_name, run.status, run.environment) == (
        "billing",
        RunStatus.RUNNING,
        Environment.STAGING,
    )
    assert engine.get_run_status(run.run_id) == run
    assert engine.get_run_status("none") is None


def test_a_run_id_is_used_once(engine: ResumeEngine) -> None:
    engine.start_run("billing", run_id="run-1")
    with pytest.raises(RunExistsError, match="run-1"):
        engine.start_run("billing", run_id="run-1")
    with pytest.raises(InvalidValueError, match="^run_id: "):
        engine.start_run("billing", run_id="")


def test_metadata_is_what_was_recorded_not_what_the_caller_holds(engine: ResumeEngine) -> None:
    metadata = {"tags": ["a"]}
    run = engine.start_run("billing", metadata=metadata)
    metadata["tags"].append("b")
    assert run.metadata == {"tags": ["a"]}


@pytest.mark.parametrize("seconds", [0, -1, 0.01, 90_000, "soon", float("nan")])
def test_a_lease_time_that_makes_no_sense_is_refused(store: SqlCheckpointStore, seconds: Any) -> None:
    with pytest.raises(InvalidValueError, match="^lease_seconds: "):
        ResumeEngine(store, lease_seconds=seconds)


def test_the_name_of_the_executor_is_recorded(store: SqlCheckpointStore) -> None:
    assert ResumeEngine(store).owner != ResumeEngine(store).owner
    engine = ResumeEngine(store, owner="worker-7")
    record = engine.execute_step(engine.start_run("billing").run_id, "a", 0, {}, passing({}))
    assert record.worker == "worker-7"
    with pytest.raises(InvalidValueError, match="^owner: "):
        ResumeEngine(store, owner="x" * 256)


def test_threads_share_one_executor_from_the_first_call(store: SqlCheckpointStore) -> None:
    """Parallel branches are known by it as branches of one run."""
    for _ in range(50):
        engine = ResumeEngine(store)
        together = threading.Barrier(4)

        def owner(_: int, engine: ResumeEngine = engine, barrier: threading.Barrier = together) -> str:
            barrier.wait()
            return engine.owner

        with ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(owner, range(4)))) == 1


# Runs driven step by step


def test_a_run_block_completes_the_run(engine: ResumeEngine) -> None:
    with engine.run("billing", metadata={"a": 1}, environment="staging") as run:
        engine.execute_step(run.run_id, "a", 0, {}, passing({}))
    found = engine.get_run_status(run.run_id)
    assert found is not None and found.status is RunStatus.COMPLETED


def test_a_run_block_left_by_a_failed_step_fails_the_run(
    engine: ResumeEngine, store: SqlCheckpointStore
) -> None:
    with pytest.raises(PermanentStepError), engine.run("billing") as run:
        engine.execute_step(run.run_id, "a", 0, {}, failing(PermanentStepError("x")))
    found = summary(store, run.run_id)
    assert found.failure is not None and (found.status, found.failure.step_name) == (RunStatus.FAILED, "a")
    assert found.next_sequence == 1, "recorded once, by the step"


@pytest.mark.parametrize(("error", "blocked"), [(ValueError("x"), True), (ConnectionError("x"), False)])
def test_a_run_block_left_by_another_exception_fails_the_run_too(
    engine: ResumeEngine, store: SqlCheckpointStore, error: Exception, blocked: bool
) -> None:
    with pytest.raises(type(error)), engine.run("billing") as run:
        engine.execute_step(run.run_id, "a", 0, {}, passing({}))
        raise error
    found = summary(store, run.run_id)
    assert found.failure is not None
    assert (found.status, found.failure.key, found.failure.step_name) == (RunStatus.FAILED, "1:1", "__run__")
    assert bool(found.blocked_by) == blocked
    if blocked:
        with pytest.raises(ResumeBlockedError):
            engine.complete_run(run.run_id)
        engine.grant_human_approval(run.run_id, "olga@example.com")
    assert engine.complete_run(run.run_id).status is RunStatus.COMPLETED
    assert summary(store, run.run_id).failure is None


def test_a_failed_step_must_be_mended_before_the_run_completes(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(TransientStepError):
        engine.execute_step(run_id, "a", 0, {}, failing(TransientStepError("x")))
    with pytest.raises(InvalidValueError, match="failed at step 0; resume it before completing it"):
        engine.complete_run(run_id)
    engine.execute_step(run_id, "a", 0, {}, passing({}))
    assert engine.complete_run(run_id).status is RunStatus.COMPLETED

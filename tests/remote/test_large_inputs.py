"""Inputs near the size that a control plane takes at once: refused before the call, or recorded."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from flask import Flask

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import OutputTooLargeError, RemoteTooLargeError
from resume_engine.core.payload import encode, sent_length
from resume_engine.core.retry import Backoff, RetryPolicy
from resume_engine.core.run import RunStatus
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step import Step
from resume_engine.storage.remote_backend import RemoteCheckpointStore
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.remote.conftest import Caller

MOST = 9_900_000 - sent_length(encode({"x": ""}))  # characters in the one field
LONG = "é" * 20_000  # six bytes each when it is sent


@pytest.fixture
def engine(app: Flask, operator: Caller) -> ResumeEngine:
    """An engine whose record is kept by the application in this process."""
    transport = httpx.WSGITransport(app, raise_app_exceptions=False)
    return ResumeEngine(
        RemoteCheckpointStore("http://localhost/api", api_key=operator.key, transport=transport)
    )


class Step0:
    """A step that notes its calls, then returns or raises."""

    def __init__(self, outcome: dict[str, Any] | Exception) -> None:
        self.outcome, self.calls = outcome, 0

    def __call__(self, _input: dict[str, Any], _key: str) -> dict[str, Any]:
        self.calls += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def _row(store: SqlCheckpointStore, run_id: str) -> RunSummary:
    found = store.load_summary(run_id)
    assert found is not None
    return found


@pytest.mark.parametrize("size", [MOST + 1, 11_000_000])
@pytest.mark.parametrize(("character", "sent"), [("x", 1), ('"', 4), ("é", 7)])
def test_an_input_that_is_too_large_is_refused_before_the_call(
    page_store: SqlCheckpointStore, engine: ResumeEngine, size: int, character: str, sent: int
) -> None:
    run, step = engine.start_run("billing"), Step0({})
    given = {"x": character * (size // sent + 1)}
    for _ in range(2):
        with pytest.raises(RemoteTooLargeError, match=r"^Step 0 'big' of run .* was not called"):
            engine.execute_step(run.run_id, "big", 0, given, step)
    left = _row(page_store, run.run_id)
    assert (step.calls, left.next_sequence, left.in_flight, left.lease_owner) == (0, 0, (), None)


def test_the_largest_input_is_recorded(page_store: SqlCheckpointStore, engine: ResumeEngine) -> None:
    run = engine.start_run("billing")
    engine.execute_step(run.run_id, "big", 0, {"x": "x" * MOST}, Step0({"rows": 3}))
    assert page_store.load_step(run.run_id, 0).output_data == {"rows": 3}  # type: ignore[union-attr]


def test_how_a_step_failed_is_recorded_beside_the_largest_input(
    page_store: SqlCheckpointStore, engine: ResumeEngine
) -> None:
    run, failing = engine.start_run("billing"), Step0(ValueError(LONG))
    with pytest.raises(ValueError, match="éééé"):
        engine.execute_workflow(run.run_id, [("a", failing)], initial_input={"x": "x" * MOST})
    left, record = _row(page_store, run.run_id), page_store.load_step(run.run_id, 0)
    assert (left.status, left.in_flight, failing.calls) == (RunStatus.FAILED, (), 1)
    assert record is not None and record.error_message == "é" * 1_000
    assert record.error_traceback is not None and len(record.error_traceback) == 1_000


def test_what_is_tried_again_is_recorded_beside_the_largest_input(
    page_store: SqlCheckpointStore, engine: ResumeEngine
) -> None:
    run, failing = engine.start_run("billing"), Step0(ConnectionError(LONG))
    again = RetryPolicy(attempts=2, backoff=Backoff(base_seconds=0, cap_seconds=0))
    steps = [Step("a", failing, retry=again)]
    with pytest.raises(ConnectionError, match="éééé"):
        engine.execute_workflow(run.run_id, steps, initial_input={"x": "x" * MOST})
    assert failing.calls == 2 and _row(page_store, run.run_id).next_sequence == 2


def test_an_output_beside_the_largest_input_fails_the_step_on_record(
    page_store: SqlCheckpointStore, engine: ResumeEngine
) -> None:
    run = engine.start_run("billing")
    with pytest.raises(OutputTooLargeError, match="returned .* characters of JSON"):
        engine.execute_step(run.run_id, "big", 0, {"x": "x" * MOST}, Step0({"y": "y" * 200_000}))
    left = _row(page_store, run.run_id)
    assert (left.status, left.blocked_by, left.in_flight) == (RunStatus.FAILED, ("compensation",), ())


def test_a_state_that_grew_too_large_lets_no_step_begin(
    page_store: SqlCheckpointStore, engine: ResumeEngine
) -> None:
    first, second = Step0({"y": "y" * 80_000}), Step0({})
    run, steps = engine.start_run("billing"), [("first", first), ("second", second)]
    given = {"x": "x" * (MOST - 40_000)}
    with pytest.raises(RemoteTooLargeError, match=r"^Step 1 'second' of run .* was not called"):
        engine.execute_workflow(run.run_id, steps, initial_input=given)
    left = _row(page_store, run.run_id)
    assert left.failure is not None and left.failure.error_type == "RemoteTooLargeError"
    assert (left.status, left.blocked_by, left.in_flight) == (RunStatus.FAILED, ("human_approval",), ())
    engine.grant_human_approval(run.run_id, "ana")
    with pytest.raises(RemoteTooLargeError, match=r"^Step 1 'second' of run .* was not called"):
        engine.resume(run.run_id, steps)
    left = _row(page_store, run.run_id)
    assert (first.calls, second.calls, left.steps_completed, left.takeovers) == (1, 0, 1, 0)

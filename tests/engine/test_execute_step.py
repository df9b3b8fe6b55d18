"""One step: what it gets, what is recorded of it, and what cannot be recorded."""

from __future__ import annotations

from typing import Any

import pytest

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import (
    InputNotSerializableError,
    InvalidValueError,
    OutputNotDictError,
    OutputNotSerializableError,
    ReplayDivergenceError,
)
from resume_engine.core.failure_classifier import PermanentStepError, TransientStepError
from resume_engine.core.idempotency import generate_idempotency_key, hash_input
from resume_engine.core.step_record import FailureClassification, StepStatus
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.engine.counted import Counted
from tests.factories import failing
from tests.stores.changes import summary


def test_a_step_gets_input_and_key_and_its_output_is_recorded(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    step = Counted({"paid": True})
    record = engine.execute_step(run_id, "charge", 3, {"amount": 7}, step)
    key = generate_idempotency_key(run_id, "charge", 3, hash_input({"amount": 7}))
    assert step.calls == [({"amount": 7}, key)]
    assert (record.idempotency_key, record.output_data, record.status) == (
        key,
        {"paid": True},
        StepStatus.COMPLETED,
    )
    assert record.duration_ms is not None and record.started_at is not None


def test_a_completed_step_is_not_run_again(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    step = Counted({"n": 1})
    first = engine.execute_step(run_id, "a", 0, {"x": 1}, step)
    assert engine.execute_step(run_id, "a", 0, {"x": 1}, step) == first
    assert len(step.calls) == 1
    engine.execute_step(run_id, "a", 0, {"x": 2}, step)
    assert len(step.calls) == 2, "another input is another call: graphs have loops"


def test_a_step_cannot_change_what_is_recorded_of_its_input(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id

    def meddle(state: dict[str, Any], _key: str) -> dict[str, Any]:
        state["list"].append("meddled")
        return {"seen": state["list"]}

    record = engine.execute_step(run_id, "a", 0, {"list": []}, meddle)
    assert (record.input_data, record.output_data) == ({"list": []}, {"seen": ["meddled"]})


def test_a_failure_is_recorded_and_raised(engine: ResumeEngine, store: SqlCheckpointStore) -> None:
    run_id = engine.start_run("billing").run_id
    error = PermanentStepError("invalid API key")
    with pytest.raises(PermanentStepError) as caught:
        engine.execute_step(run_id, "charge", 0, {"amount": 7}, failing(error))
    assert caught.value is error
    [record] = store.iter_steps(run_id)
    assert (record.status, record.output_data, record.failure_classification) == (
        StepStatus.FAILED,
        None,
        FailureClassification.PERMANENT,
    )
    assert (record.error_type, record.error_message, record.classified_by) == (
        "PermanentStepError",
        "invalid API key",
        "raised as PermanentStepError",
    )
    assert record.error_traceback is not None and "raise error" in record.error_traceback


class Speechless(Exception):
    """An exception whose own text fails."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError(), "ValueError"),
        (ValueError("nul \x00 and half \ud800"), "nul \\x00 and half \\ud800"),
        (ValueError("x" * 10_000), "x" * 8_000),
        (KeyError("amount"), "'amount'"),
        (Speechless(), "Speechless"),
    ],
    ids=["no text", "not storable", "long", "key", "text fails"],
)
def test_whatever_an_error_says_it_is_recorded(
    engine: ResumeEngine, store: SqlCheckpointStore, error: Exception, message: str
) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(type(error)):
        engine.execute_step(run_id, "a", 0, {}, failing(error))
    run = summary(store, run_id)
    assert run.failure is not None and run.failure.message == message
    [record] = store.iter_steps(run_id)
    assert record.error_message == message and len(record.error_traceback or "") <= 16_000


def test_attempts_of_a_step_are_counted(engine: ResumeEngine, store: SqlCheckpointStore) -> None:
    run_id = engine.start_run("billing").run_id
    step = Counted({}, TransientStepError("1"), TransientStepError("2"))
    for _ in range(2):
        with pytest.raises(TransientStepError):
            engine.execute_step(run_id, "a", 0, {}, step)
    engine.execute_step(run_id, "a", 0, {}, step)
    engine.execute_step(run_id, "b", 1, {}, step)
    assert [record.attempt for record in store.iter_steps(run_id)] == [1, 2, 3, 1]


@pytest.mark.parametrize("value", [{"x": object()}, {"x": float("nan")}, {("a",): 1}, [1], None, "text"])
def test_an_input_that_cannot_be_recorded_stops_before_the_step(
    engine: ResumeEngine, store: SqlCheckpointStore, value: Any
) -> None:
    run_id = engine.start_run("billing").run_id
    step = Counted()
    with pytest.raises(InputNotSerializableError, match=f"(?s)step 2 'charge' of run {run_id}.*not called"):
        engine.execute_step(run_id, "charge", 2, value, step)
    assert step.calls == [] and summary(store, run_id).next_sequence == 0


@pytest.mark.parametrize(
    ("output", "error"),
    [
        (None, OutputNotDictError),
        ([1], OutputNotDictError),
        ("text", OutputNotDictError),
        ({"x": object()}, OutputNotSerializableError),
        ({"x": float("inf")}, OutputNotSerializableError),
        ({("a",): 1}, OutputNotSerializableError),
    ],
)
def test_an_output_that_cannot_be_recorded_asks_for_a_compensation(
    engine: ResumeEngine, store: SqlCheckpointStore, output: Any, error: type[Exception]
) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(error, match=f"Step 2 'charge' of run {run_id} returned .* compensate, then resume"):
        engine.execute_step(run_id, "charge", 2, {}, lambda _input, _key: output)
    run = summary(store, run_id)
    assert run.failure is not None and run.failure.classification is FailureClassification.PARTIAL
    assert [action.value for action in run.blocked_by] == ["compensation"]


@pytest.mark.parametrize(
    ("field", "name", "index"),
    [
        ("step_name", "", 0),
        ("step_name", "x" * 256, 0),
        ("step_name", None, 0),
        ("step_index", "a", -1),
        ("step_index", "a", True),
        ("step_index", "a", 1.0),
        ("step_index", "a", "1"),
    ],
)
def test_a_step_that_cannot_be_recorded_names_its_field(
    engine: ResumeEngine, field: str, name: Any, index: Any
) -> None:
    step = Counted()
    with pytest.raises(InvalidValueError, match=f"^{field}: "):
        engine.execute_step(engine.start_run("billing").run_id, name, index, {}, step)
    assert step.calls == []


def test_replay_mode_calls_nothing(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    step = Counted({"n": 1})
    made = engine.execute_step(run_id, "a", 0, {}, step)
    assert engine.execute_step(run_id, "a", 0, {}, failing(AssertionError()), replay_mode=True) == made
    with pytest.raises(ReplayDivergenceError, match=r"step 0 'a': no completed record has this input"):
        engine.execute_step(run_id, "a", 0, {"x": 1}, step, replay_mode=True)
    assert len(step.calls) == 1

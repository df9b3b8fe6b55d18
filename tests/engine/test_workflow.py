"""Where an ordered workflow goes on, with which state, and what does not fit its record."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import (
    InputMismatchError,
    InputNotSerializableError,
    InvalidValueError,
    UnknownEnvironmentError,
    WorkflowMismatchError,
)
from resume_engine.core.executor import Continuation
from resume_engine.core.failure_classifier import TransientStepError
from resume_engine.core.run import Environment, RunStatus
from resume_engine.core.step import Step, as_steps
from resume_engine.core.workflow import new_run, plan
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import failing, passing, steps
from tests.stores.changes import summary


def started(engine: ResumeEngine, *, fail_at: int | None = 2, count: int = 4, **options: Any) -> str:
    run_id = engine.start_run("billing").run_id
    plan_ = steps(count, fail_at=fail_at, error=TransientStepError("timed out"))
    with suppress(TransientStepError):
        engine.execute_workflow(run_id, plan_, initial_input={"order": 7}, **options)
    return run_id


def test_a_new_run_starts_at_the_first_step(engine: ResumeEngine, store: SqlCheckpointStore) -> None:
    run_id = engine.start_run("billing").run_id
    made = plan(
        store,
        summary(store, run_id),
        as_steps(steps(3)),
        Continuation(initial_input={"order": 7}, start_index=0),
    )
    assert (made.first_index, made.initial_input, made.outputs, made.retry_input) == (
        0,
        {"order": 7},
        {},
        None,
    )


def test_a_failed_run_goes_on_at_the_failed_step_with_its_recorded_input(
    engine: ResumeEngine, store: SqlCheckpointStore
) -> None:
    run_id = started(engine)
    made = plan(store, summary(store, run_id), as_steps(steps(4)), Continuation())
    assert made.first_index == 2
    assert made.state == {"order": 7, "out_0": 0, "out_1": 1}
    assert made.outputs == {}
    assert made.retry_input == {"order": 7, "out_0": 0, "out_1": 1}


def test_a_finished_record_leaves_nothing(engine: ResumeEngine, store: SqlCheckpointStore) -> None:
    run_id = started(engine, fail_at=None)
    assert plan(store, summary(store, run_id), as_steps(steps(4)), Continuation()).first_index == 4


def test_the_recorded_input_of_the_failed_attempt_is_authoritative(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(TransientStepError):
        engine.execute_step(run_id, "charge", 0, {"amount": 10}, failing(TransientStepError("x")))
    seen: list[dict[str, Any]] = []

    def charge(state: dict[str, Any], _key: str) -> dict[str, Any]:
        seen.append(state)
        return {}

    engine.resume(run_id, [("charge", charge)])
    assert seen == [{"amount": 10}]


def test_another_input_for_the_failed_first_step_is_refused(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(TransientStepError):
        engine.execute_step(run_id, "charge", 0, {"amount": 10}, failing(TransientStepError("x")))
    with pytest.raises(InputMismatchError, match=f"{run_id} was started with another initial input"):
        engine.resume(run_id, [("charge", passing({}))], initial_input={"amount": 11})


def test_another_initial_input_is_refused(engine: ResumeEngine) -> None:
    run_id = started(engine)
    with pytest.raises(InputMismatchError, match="Leave initial_input out"):
        engine.resume(run_id, steps(4), initial_input={"order": 8})
    assert engine.resume(run_id, steps(4), initial_input={"order": 7}).status is RunStatus.COMPLETED


MISMATCHES: dict[str, tuple[list[tuple[str, Any]], str]] = {
    "a completed step renamed": (
        [("other", passing({})), *steps(4)[1:]],
        "step 0: the record says 'step_0', the workflow given says 'other'",
    ),
    "the failed step renamed": (
        [*steps(4)[:2], ("other", passing({})), steps(4)[3]],
        "step 2: the record says 'step_2', the workflow given says 'other'",
    ),
    "two steps exchanged": (
        [steps(4)[1], steps(4)[0], *steps(4)[2:]],
        "step 0: the record says 'step_0', the workflow given says 'step_1'",
    ),
    "a step removed": (steps(4)[1:], "step 0: the record says 'step_0', the workflow given says 'step_1'"),
    "the last step removed": (
        steps(3),
        "says 'step_3', the workflow given says no step. Recorded: step_0, step_1, step_2, step_3. Given: ",
    ),
    "a step added": (steps(5), "step 4: the record says no step, the workflow given says 'step_4'"),
    "no steps": ([], "the record says 'step_0', the workflow given says no step. .*Given: no steps."),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_a_workflow_that_is_not_that_of_the_record_is_refused(
    engine: ResumeEngine, store: SqlCheckpointStore, case: str
) -> None:
    given, message = MISMATCHES[case]
    run_id = started(engine)
    before = summary(store, run_id)
    with pytest.raises(WorkflowMismatchError, match=message) as caught:
        engine.resume(run_id, given)
    assert run_id in str(caught.value) and "Resume with the workflow that started the run" in str(
        caught.value
    )
    assert summary(store, run_id) == before


def test_fewer_steps_than_completed_are_refused_without_a_recorded_total(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    for index in range(3):
        engine.execute_step(run_id, f"step_{index}", index, {}, passing({}))
    with pytest.raises(WorkflowMismatchError, match="only 2 steps"):
        engine.resume(run_id, steps(2))


@pytest.mark.parametrize("start_index", [-1, 5, True, "1", 1.0])
def test_a_start_index_outside_the_workflow_is_refused(engine: ResumeEngine, start_index: Any) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(InvalidValueError, match="^start_index: "):
        engine.execute_workflow(run_id, steps(4), start_index=start_index)


def test_a_workflow_may_start_further_on(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    run = engine.execute_workflow(run_id, steps(4), initial_input={"a": 1}, start_index=2)
    assert [step.step_name for step in run.steps] == ["step_2", "step_3"]
    assert run.steps[0].input_data == {"a": 1}


@pytest.mark.parametrize("value", [{"x": object()}, {"x": float("nan")}, {("a",): 1}])
def test_an_initial_input_that_cannot_be_recorded_is_refused(
    engine: ResumeEngine, store: SqlCheckpointStore, value: dict[Any, Any]
) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(InputNotSerializableError, match=f"(?s)initial_input.*{run_id}"):
        engine.execute_workflow(run_id, steps(1), initial_input=value)
    assert summary(store, run_id).next_sequence == 0


# Starting


@pytest.mark.parametrize(
    ("environment", "metadata", "expected"),
    [
        (None, None, Environment.DEV),
        ("prod", None, Environment.PROD),
        (Environment.STAGING, {}, Environment.STAGING),
        (None, {"environment": "prod"}, Environment.PROD),
        ("prod", {"environment": "prod"}, Environment.PROD),
    ],
)
def test_the_environment_is_said_in_either_way(
    environment: Any, metadata: dict[str, Any] | None, expected: Environment
) -> None:
    assert new_run("billing", "run-1", metadata, environment).environment is expected


@pytest.mark.parametrize(
    ("environment", "metadata"),
    [
        ("production", None),
        ("PROD", None),
        ("", None),
        (None, {"environment": "qa"}),
        (None, {"environment": []}),
    ],
)
def test_an_unknown_environment_is_refused(environment: Any, metadata: dict[str, Any] | None) -> None:
    with pytest.raises(UnknownEnvironmentError, match=r"environment: .* use one of dev, staging, prod"):
        new_run("billing", "run-1", metadata, environment)


def test_two_different_environments_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="prod given, but metadata says dev"):
        new_run("billing", "run-1", {"environment": "dev"}, "prod")


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("workflow_name", ("", "run-1", None)),
        ("workflow_name", ("  ", "run-1", None)),
        ("workflow_name", ("x" * 256, "run-1", None)),
        ("workflow_name", ("nul\x00", "run-1", None)),
        ("workflow_name", (None, "run-1", None)),
        ("run_id", ("billing", "", None)),
        ("run_id", ("billing", "x" * 37, None)),
        ("run_id", ("billing", 7, None)),
        ("metadata", ("billing", "run-1", [1])),
        ("metadata", ("billing", "run-1", "text")),
        ("metadata", ("billing", "run-1", {"x": object()})),
        ("metadata", ("billing", "run-1", {"x": float("inf")})),
    ],
)
def test_what_cannot_start_a_run_names_its_field(field: str, arguments: tuple[Any, Any, Any]) -> None:
    with pytest.raises(InvalidValueError, match=f"^{field}: "):
        new_run(*arguments, None)


# Steps


def test_steps_are_pairs_or_objects() -> None:
    step = Step("a", passing({}))
    assert [parsed.name for parsed in as_steps([step, ("b", passing({}))])] == ["a", "b"]
    assert as_steps([step])[0] is step
    assert len(as_steps(iter(steps(3)))) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([("a",)], "^steps: item 0 must be"),
        ([("a", passing({})), "b"], "^steps: item 1 must be"),
        ([("a", "not callable")], "^steps: item 0 must be"),
        ([passing({})], "^steps: item 0 must be"),
        ([("", passing({}))], "^step_name: "),
        ([("x" * 256, passing({}))], "^step_name: "),
        ([(7, passing({}))], "^step_name: "),
    ],
)
def test_what_is_no_step_is_named(given: list[Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        as_steps(given)

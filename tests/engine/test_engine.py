"""The engine as its users call it: start, execute, resume, decide, complete."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import (
    AlreadyDecidedError,
    DecisionInputError,
    InputNotSerializableError,
    InvalidValueError,
    NothingToDecideError,
    OutputNotDictError,
    OutputNotSerializableError,
    ReplayDivergenceError,
    ResumeBlockedError,
    RunBusyError,
    RunExistsError,
    RunFinishedError,
    RunNotFoundError,
)
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError, TransientStepError
from resume_engine.core.idempotency import generate_idempotency_key, hash_input
from resume_engine.core.permissions import Role
from resume_engine.core.run import Environment, RunStatus
from resume_engine.core.run_summary import RunState
from resume_engine.core.step_record import FailureClassification, StepStatus
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory, failing, passing, steps
from tests.stores.changes import summary


class Counted:
    """A step function that counts its calls and fails the first times."""

    def __init__(self, output: dict[str, Any] | None = None, *errors: Exception) -> None:
        self.calls: list[tuple[dict[str, Any], str]] = []
        self._output = output or {}
        self._errors = list(errors)

    def __call__(self, state: dict[str, Any], key: str) -> dict[str, Any]:
        self.calls.append((state, key))
        if self._errors:
            raise self._errors.pop(0)
        return dict(self._output)


@pytest.fixture
def runs(store: SqlCheckpointStore) -> RunFactory:
    """Runs in any state."""
    return RunFactory(store)


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


# Steps


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


# Workflows


def test_the_state_is_the_input_merged_with_each_output(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    first, second, third = Counted({"a": 1, "shared": "first"}), Counted({"shared": "second"}), Counted({})
    run = engine.execute_workflow(
        run_id, [("a", first), ("b", second), ("c", third)], initial_input={"order": 7}
    )
    assert run.status is RunStatus.COMPLETED
    assert [step.calls[0][0] for step in (first, second, third)] == [
        {"order": 7},
        {"order": 7, "a": 1, "shared": "first"},
        {"order": 7, "a": 1, "shared": "second"},
    ]


def test_outputs_reach_the_next_step_as_the_record_holds_them(engine: ResumeEngine) -> None:
    """A first run and a resumed one must see the same values."""
    run_id = engine.start_run("billing").run_id
    second = Counted()
    engine.execute_workflow(run_id, [("a", passing({"pair": (1, 2), 3: "x"})), ("b", second)])
    assert second.calls[0][0] == {"pair": [1, 2], "3": "x"}


def test_executing_again_goes_on_where_it_stopped(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    first, second = Counted({"a": 1}), Counted({"b": 2}, TransientStepError("x"))
    workflow = [("a", first), ("b", second)]
    with pytest.raises(TransientStepError):
        engine.execute_workflow(run_id, workflow, initial_input={"order": 7})
    run = engine.execute_workflow(run_id, workflow, initial_input={"order": 7})
    assert run.status is RunStatus.COMPLETED
    assert (len(first.calls), len(second.calls)) == (1, 2)
    assert second.calls[0] == second.calls[1], "same input, same key"


def test_a_completed_run_is_returned_as_it_is(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    step = Counted({"a": 1})
    done = engine.execute_workflow(run_id, [("a", step)])
    assert engine.resume(run_id, [("a", step)]) == done
    assert engine.execute_workflow(run_id, [("a", step)]) == done
    assert engine.complete_run(run_id) == done
    assert len(step.calls) == 1


def test_a_workflow_without_steps_completes(engine: ResumeEngine) -> None:
    assert engine.execute_workflow(engine.start_run("empty").run_id, []).status is RunStatus.COMPLETED


def test_an_injected_failure_is_transient_and_happens_once(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing").run_id
    step = Counted({"b": 1})
    workflow = [("a", passing({})), ("b", step)]
    with pytest.raises(TransientStepError, match="Injected failure at step 2"):
        engine.execute_workflow(run_id, workflow, inject_failure_at=1)
    assert step.calls == []
    assert engine.resume(run_id, workflow).status is RunStatus.COMPLETED


def test_a_finished_run_takes_no_step(engine: ResumeEngine, runs: RunFactory) -> None:
    for run in (runs.completed(), runs.cancelled()):
        with pytest.raises(RunFinishedError, match=f"Run {run.run_id} is {run.status}"):
            engine.execute_step(run.run_id, "more", 9, {}, passing({}))
    cancelled = runs.cancelled()
    with pytest.raises(RunFinishedError):
        engine.resume(cancelled.run_id, steps(3))
    with pytest.raises(RunFinishedError):
        engine.complete_run(cancelled.run_id)


def test_an_unknown_run_is_not_found(engine: ResumeEngine) -> None:
    for call in (
        lambda: engine.execute_step("none", "a", 0, {}, passing({})),
        lambda: engine.execute_workflow("none", steps(1)),
        lambda: engine.resume("none", steps(1)),
        lambda: engine.replay_run("none", steps(1)),
        lambda: engine.get_resume_blockers("none"),
        lambda: engine.get_audit_log("none"),
        lambda: engine.complete_run("none"),
        lambda: engine.grant_human_approval("none", "olga@example.com"),
        lambda: engine.execute_compensation("none", passing({})),
    ):
        with pytest.raises(RunNotFoundError, match="Run not found: none"):
            call()


def test_a_run_that_someone_executes_is_busy(engine: ResumeEngine, store: SqlCheckpointStore) -> None:
    held = RunFactory(store, worker="worker-2").running()
    for call in (
        lambda: engine.resume(held.run_id, steps(3)),
        lambda: engine.execute_step(held.run_id, "more", 2, {}, passing({})),
        lambda: engine.complete_run(held.run_id),
    ):
        with pytest.raises(RunBusyError, match=f"Run {held.run_id} is being executed by worker-2"):
            call()


# Gates on every path


@pytest.mark.parametrize("environment", Environment)
@pytest.mark.parametrize("kind", ["transient", "permanent", "partial"])
def test_a_closed_gate_stops_every_path(
    engine: ResumeEngine, runs: RunFactory, kind: str, environment: Environment
) -> None:
    run_id = runs.failed(kind, environment=environment.value).run_id
    blockers = engine.get_resume_blockers(run_id)
    if kind == "transient" and environment is not Environment.PROD:
        assert blockers == []
        assert engine.resume(run_id, steps(3)).status is RunStatus.COMPLETED
        return
    spy = Counted({})
    workflow = [(f"step_{index}", spy) for index in range(3)]
    for call in (
        lambda: engine.resume(run_id, workflow),
        lambda: engine.execute_workflow(run_id, workflow),
        lambda: engine.execute_step(run_id, "step_1", 1, {}, spy),
        lambda: engine.execute_step(run_id, "step_9", 9, {}, spy),
        lambda: engine.complete_run(run_id),
    ):
        with pytest.raises(ResumeBlockedError) as caught:
            call()
        assert caught.value.blockers == blockers
    if kind != "partial":
        with pytest.raises(ResumeBlockedError):
            engine.execute_step(run_id, "__compensate__step_1", 1, {}, spy)
    assert spy.calls == []
    for blocker in blockers:
        engine.decide(run_id, blocker.required_action, Actor(name="olga", role=Role.OPERATOR))
    assert engine.resume(run_id, workflow).status is RunStatus.COMPLETED
    assert len(spy.calls) == 2


def test_a_closed_gate_still_answers_what_is_recorded(engine: ResumeEngine, runs: RunFactory) -> None:
    run = runs.blocked()
    [completed, _] = run.steps
    again = engine.execute_step(run.run_id, "step_0", 0, completed.input_data, failing(AssertionError()))
    assert again.idempotency_key == completed.idempotency_key


def test_decisions_by_name(engine: ResumeEngine, runs: RunFactory) -> None:
    permanent = runs.blocked("permanent", environment="prod").run_id
    half = engine.grant_human_approval(permanent, "olga@example.com", note="key rotated")
    assert half.metadata["gates"]["human_approval"]["note"] == "key rotated"
    assert [blocker.required_action for blocker in engine.get_resume_blockers(permanent)] == [
        "prod_resume_ack"
    ]
    assert engine.ack_prod_resume(permanent, "omar@example.com").status is RunStatus.PAUSED
    assert engine.get_resume_blockers(permanent) == []
    partial = runs.blocked("partial").run_id
    noted = engine.record_compensation(partial, result={"refund": "r-1"}, note="by hand")
    assert noted.metadata["gates"]["compensations"]["1:1"]["result"] == {"refund": "r-1"}
    rejected = engine.reject_run(runs.blocked().run_id, "olga@example.com", note="sent twice")
    assert rejected.status is RunStatus.CANCELLED


def test_a_decision_is_made_once(engine: ResumeEngine, runs: RunFactory) -> None:
    run_id = runs.blocked().run_id
    engine.grant_human_approval(run_id, "olga@example.com")
    with pytest.raises(AlreadyDecidedError, match="by olga@example.com") as caught:
        engine.grant_human_approval(run_id, "omar@example.com")
    assert caught.value.decision.actor == "olga@example.com"


def test_what_there_is_nothing_to_decide_about(engine: ResumeEngine, runs: RunFactory) -> None:
    for call in (
        lambda: engine.grant_human_approval(runs.blocked("partial").run_id, "olga"),
        lambda: engine.record_compensation(runs.blocked("permanent").run_id),
        lambda: engine.ack_prod_resume(runs.blocked("permanent").run_id, "olga"),
        lambda: engine.execute_compensation(runs.blocked("permanent").run_id, passing({})),
        lambda: engine.execute_compensation(runs.completed().run_id, passing({})),
        lambda: engine.grant_human_approval(runs.completed().run_id, "olga"),
    ):
        with pytest.raises(NothingToDecideError, match="Nothing was changed"):
            call()
    with pytest.raises(DecisionInputError, match="^kind: "):
        engine.decide(runs.blocked().run_id, "approve", Actor(name="olga", role=Role.OPERATOR))


# Compensations


def test_a_compensation_gets_the_failed_input_and_opens_the_gate(
    engine: ResumeEngine, runs: RunFactory, store: SqlCheckpointStore
) -> None:
    failed = runs.blocked("partial", initial_input={"mail": "m-1"})
    undo = Counted({"recalled": True})
    record = engine.execute_compensation(failed.run_id, undo)
    assert undo.calls[0][0] == {"mail": "m-1", "out_0": 0}
    assert (record.step_name, record.step_index, record.attempt) == ("__compensate__step_1", 1, 1)
    run = summary(store, failed.run_id)
    assert (run.status, run.blocked_by) == (RunStatus.PAUSED, ())
    [decided] = store.list_decisions(failed.run_id)
    assert (decided.result, decided.step_sequence) == ({"recalled": True}, record.sequence)
    assert engine.resume(failed.run_id, steps(3)).status is RunStatus.COMPLETED


def test_a_compensation_may_get_an_input_of_its_own(engine: ResumeEngine, runs: RunFactory) -> None:
    undo = Counted({})
    engine.execute_compensation(runs.blocked("partial").run_id, undo, input_data={"mail": "m-9"})
    assert undo.calls[0][0] == {"mail": "m-9"}


def test_a_compensation_that_fails_leaves_the_gate_closed(
    engine: ResumeEngine, runs: RunFactory, store: SqlCheckpointStore
) -> None:
    run_id = runs.blocked("partial").run_id
    before = summary(store, run_id)
    undo = Counted({}, TransientStepError("mail server is away"))
    with pytest.raises(TransientStepError):
        engine.execute_compensation(run_id, undo)
    after = summary(store, run_id)
    assert (after.failure, after.blocked_by, after.status) == (
        before.failure,
        before.blocked_by,
        before.status,
    )
    engine.execute_compensation(run_id, undo)
    assert len(undo.calls) == 2 and summary(store, run_id).blocked_by == ()


def test_a_compensation_whose_decision_was_lost_is_not_run_again(
    engine: ResumeEngine, runs: RunFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = runs.blocked("partial").run_id
    undo = Counted({"recalled": True})

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("resume_engine.core.compensation.decide", crash)
    with pytest.raises(KeyboardInterrupt):
        engine.execute_compensation(run_id, undo)
    monkeypatch.undo()
    assert engine.get_resume_blockers(run_id)
    engine.execute_compensation(run_id, undo)
    assert len(undo.calls) == 1 and engine.get_resume_blockers(run_id) == []


def test_each_failure_is_compensated_anew(engine: ResumeEngine, store: SqlCheckpointStore) -> None:
    """The same step, the same input, a second side effect: the first compensation does not undo it."""
    run_id = engine.start_run("billing").run_id
    charge = Counted({}, PartialStepError("1"), PartialStepError("2"), PartialStepError("3"))
    undo = Counted({"undone": True})
    for _ in range(3):
        with pytest.raises(PartialStepError):
            engine.execute_step(run_id, "charge", 0, {"amount": 7}, charge)
        engine.execute_compensation(run_id, undo)
    engine.execute_step(run_id, "charge", 0, {"amount": 7}, charge)
    assert len(undo.calls) == 3
    assert len({key for _, key in undo.calls}) == 3, "a receiver that honours keys undoes each of them"
    assert [record.step_name for record in store.iter_steps(run_id) if record.kind == "compensation"] == [
        "__compensate__charge",
        "__compensate__charge#2",
        "__compensate__charge#4",
    ]


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


# What is left behind


def test_every_act_leaves_one_event(engine: ResumeEngine, store: SqlCheckpointStore) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(PermanentStepError):
        engine.execute_workflow(run_id, steps(2, fail_at=1))
    engine.grant_human_approval(run_id, "olga@example.com", note="ok")
    worker = Actor(name="worker-9", role=Role.RUNNER, channel=Channel.WORKER)
    engine.resume(run_id, steps(2), actor=worker)
    events = store.list_events(run_id)
    assert [(event.event_type, event.actor, event.channel) for event in events] == [
        ("run.started", "worker-1", "library"),
        ("gate.approved", "olga@example.com", "library"),
        ("run.resumed", "worker-9", "worker"),
        ("run.completed", "worker-1", "library"),
    ]
    assert events[2].failure_key == "1:1"
    assert events[2].payload["resume_from_index"] == 1


def test_a_finished_run_holds_no_lease_and_no_failure(
    engine: ResumeEngine, store: SqlCheckpointStore
) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(TransientStepError):
        engine.execute_workflow(run_id, steps(2, fail_at=1, error=TransientStepError("x")))
    failed = summary(store, run_id)
    assert (failed.lease_owner, failed.lease_expires_at) == (None, None)
    engine.resume(run_id, steps(2))
    done = summary(store, run_id)
    assert (done.lease_owner, done.lease_expires_at, done.failure) == (None, None, None)
    assert done.finished_at is not None and done.state(done.finished_at) is RunState.COMPLETED
    assert (done.steps_completed, done.steps_total, done.resume_from_index) == (2, 2, 2)


def test_the_trace_is_the_records_without_a_clock(engine: ResumeEngine) -> None:
    run_id = engine.start_run("billing", run_id="run-1").run_id
    engine.execute_workflow(run_id, [("a", passing({"x": "ü"})), ("b", passing({}))], initial_input={"n": 1})
    hashes = [hash_input({"n": 1}), hash_input({"n": 1, "x": "ü"})]
    lines = [
        f'{{"idempotency_key":"{generate_idempotency_key(run_id, name, index, hashes[index])}",'
        f'"input_hash":"{hashes[index]}","output_data":{output},"sequence":{index},"status":"completed",'
        f'"step_index":{index},"step_name":"{name}"}}'
        for index, (name, output) in enumerate((("a", '{"x":"\\u00fc"}'), ("b", "{}")))
    ]
    assert engine.get_audit_log(run_id) == "\n".join(["run-1", "billing", *lines])
    run = engine.get_run_status(run_id)
    assert run is not None and run.audit_trace() == engine.get_audit_log(run_id)

"""Resuming with other steps or another input than the recorded ones: only by name, and on the audit."""

from __future__ import annotations

from typing import Any

import pytest

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.audit import EventType
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import InputMismatchError, WorkflowMismatchError
from resume_engine.core.failure_classifier import TransientStepError
from resume_engine.core.idempotency import hash_input
from resume_engine.core.permissions import Role
from resume_engine.core.run import RunStatus
from resume_engine.core.step import Step
from resume_engine.core.workflow import fingerprint
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import failing, passing
from tests.stores.changes import summary

State = dict[str, Any]
NAMES = ("fetch", "charge", "ship", "notify")
ANA = Actor(name="ana", role=Role.OPERATOR, channel=Channel.CLI)


class Calls:
    """A workflow that notes which steps were called, with what."""

    def __init__(self) -> None:
        self.made: list[tuple[str, State, str]] = []

    def workflow(self, *names: str) -> list[Step]:
        return [Step(name, self.step(name)) for name in names]

    def step(self, name: str) -> Any:
        def call(state: State, key: str) -> State:
            self.made.append((name, state, key))
            return {name: True}

        return call

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.made]


@pytest.fixture
def calls() -> Calls:
    return Calls()


def stopped_at(engine: ResumeEngine, index: int, error: BaseException | None = None) -> str:
    """Return a run of four steps that stopped at one of them."""
    run_id = engine.start_run("orders").run_id
    problem = error or TransientStepError("timed out")
    steps = [(n, failing(problem) if i == index else passing({n: True})) for i, n in enumerate(NAMES)]  # type: ignore[arg-type]
    with pytest.raises(type(problem)):
        engine.execute_workflow(run_id, steps, initial_input={"order": 7})
    return run_id


def events(store: SqlCheckpointStore, run_id: str, kind: EventType) -> list[Any]:
    return [event for event in store.list_events(run_id) if event.event_type == kind]


# Steps that were not begun may change

FUTURES: dict[str, tuple[str, ...]] = {
    "a step inserted after the failure": ("fetch", "charge", "check", "ship", "notify"),
    "a step added at the end": (*NAMES, "archive"),
    "a future step renamed": ("fetch", "charge", "deliver", "notify"),
    "a future step removed": ("fetch", "charge", "notify"),
    "every future step removed": ("fetch", "charge"),
    "future steps exchanged": ("fetch", "charge", "notify", "ship"),
}


@pytest.mark.parametrize("stop", [TransientStepError("timed out"), KeyboardInterrupt()])
@pytest.mark.parametrize("case", FUTURES)
def test_a_changed_future_is_refused_unless_it_is_allowed_by_name(
    engine: ResumeEngine, store: SqlCheckpointStore, calls: Calls, case: str, stop: BaseException
) -> None:
    names = FUTURES[case]
    run_id = stopped_at(engine, 1, stop)
    before = summary(store, run_id)
    with pytest.raises(
        WorkflowMismatchError, match=f"(?s)Recorded: {', '.join(NAMES)}. Given: {', '.join(names)}."
    ):
        engine.resume(run_id, calls.workflow(*names))
    assert summary(store, run_id) == before and calls.made == []
    run = engine.resume(run_id, calls.workflow(*names), allow_workflow_change=True, actor=ANA)
    assert run.status is RunStatus.COMPLETED
    assert calls.names == list(names[1:])
    assert calls.made[0][1] == {"order": 7, "fetch": True}
    [event] = events(store, run_id, EventType.RUN_WORKFLOW_CHANGED)
    assert (event.actor, event.channel) == ("ana", "cli")
    assert event.payload == {"before": list(NAMES), "after": list(names)}


def test_the_step_that_failed_keeps_its_key(
    engine: ResumeEngine, store: SqlCheckpointStore, calls: Calls
) -> None:
    run_id = stopped_at(engine, 1)
    [_, failed] = store.iter_steps(run_id)
    engine.resume(run_id, calls.workflow("fetch", "charge", "check"), allow_workflow_change=True)
    assert calls.made[0][2] == failed.idempotency_key


def test_the_new_steps_are_the_recorded_ones_from_then_on(
    engine: ResumeEngine, store: SqlCheckpointStore, calls: Calls
) -> None:
    run_id = stopped_at(engine, 1)
    names = ("fetch", "charge", "check", "notify")
    broken = [*calls.workflow(*names[:3]), Step("notify", failing(TransientStepError("timed out")))]
    with pytest.raises(TransientStepError):
        engine.resume(run_id, broken, allow_workflow_change=True)
    left = summary(store, run_id)
    assert (left.workflow_hash, left.steps_total) == (fingerprint(names), 4)
    assert list(store.load_workflow(run_id)) == list(names)
    with pytest.raises(WorkflowMismatchError):
        engine.resume(run_id, calls.workflow(*NAMES))
    assert engine.resume(run_id, calls.workflow(*names)).status is RunStatus.COMPLETED
    assert len(events(store, run_id, EventType.RUN_WORKFLOW_CHANGED)) == 1
    assert engine.replay_run(run_id, calls.workflow(*names))[1] == engine.get_audit_log(run_id)


def test_allowing_a_change_that_there_is_not_leaves_no_event(
    engine: ResumeEngine, store: SqlCheckpointStore, calls: Calls
) -> None:
    run_id = stopped_at(engine, 1)
    engine.resume(
        run_id,
        calls.workflow(*NAMES),
        initial_input={"order": 7},
        allow_workflow_change=True,
        allow_input_change=True,
    )
    kinds = {event.event_type for event in store.list_events(run_id)}
    assert not kinds & {EventType.RUN_WORKFLOW_CHANGED.value, EventType.RUN_INPUT_CHANGED.value}


# What was done, and where the run stopped, may not

PASTS: dict[str, tuple[str, ...]] = {
    "a completed step renamed": ("load", "charge", "ship", "notify"),
    "a completed step removed": ("charge", "ship", "notify"),
    "completed steps exchanged": ("charge", "fetch", "ship", "notify"),
    "a step inserted before a completed one": ("check", *NAMES),
    "a step inserted before the failed one": ("fetch", "charge", "check", "ship", "notify"),
    "the failed step renamed": ("fetch", "charge", "deliver", "notify"),
    "the failed step removed": ("fetch", "charge", "notify"),
    "the failed step and all behind it removed": ("fetch", "charge"),
    "everything removed": (),
}


@pytest.mark.parametrize("stop", [TransientStepError("timed out"), KeyboardInterrupt()])
@pytest.mark.parametrize("case", PASTS)
def test_a_changed_past_is_refused_even_when_it_is_allowed(
    engine: ResumeEngine, store: SqlCheckpointStore, calls: Calls, case: str, stop: BaseException
) -> None:
    run_id = stopped_at(engine, 2, stop)
    before = summary(store, run_id)
    with pytest.raises(WorkflowMismatchError):
        engine.resume(run_id, calls.workflow(*PASTS[case]), allow_workflow_change=True)
    assert summary(store, run_id) == before and calls.made == []
    assert events(store, run_id, EventType.RUN_WORKFLOW_CHANGED) == []


def test_a_step_in_doubt_stays_where_it_is_though_a_gate_was_opened_for_it(
    engine: ResumeEngine, store: SqlCheckpointStore, calls: Calls
) -> None:
    run_id = engine.start_run("orders", environment="prod").run_id
    steps = [("fetch", passing({})), ("charge", failing(KeyboardInterrupt()))]  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        engine.execute_workflow(run_id, steps)
    with pytest.raises(Exception, match="prod_resume_ack"):
        engine.resume(run_id, calls.workflow("fetch", "charge"))
    engine.ack_prod_resume(run_id, "olga@example.com")
    with pytest.raises(WorkflowMismatchError):
        engine.resume(run_id, calls.workflow("fetch", "check", "charge"), allow_workflow_change=True)
    assert engine.resume(run_id, calls.workflow("fetch", "charge")).status is RunStatus.COMPLETED


# Another input


def test_another_input_is_refused_unless_it_is_allowed_by_name(
    engine: ResumeEngine, store: SqlCheckpointStore, calls: Calls
) -> None:
    run_id = stopped_at(engine, 1)
    before = summary(store, run_id)
    with pytest.raises(InputMismatchError):
        engine.resume(run_id, calls.workflow(*NAMES), initial_input={"order": 8})
    assert summary(store, run_id) == before and calls.made == []
    engine.resume(
        run_id, calls.workflow(*NAMES), initial_input={"order": 8}, allow_input_change=True, actor=ANA
    )
    assert calls.made[0][:2] == ("charge", {"order": 8, "fetch": True})
    [event] = events(store, run_id, EventType.RUN_INPUT_CHANGED)
    assert event.actor == "ana"
    assert event.payload == {"before": hash_input({"order": 7}), "after": hash_input({"order": 8})}
    assert store.load_initial_input(run_id) == {"order": 8}


def test_the_new_input_is_the_recorded_one_from_then_on(engine: ResumeEngine, calls: Calls) -> None:
    run_id = stopped_at(engine, 1)
    broken = [
        *calls.workflow(*NAMES[:2]),
        Step("ship", failing(TransientStepError("x"))),
        *calls.workflow("notify"),
    ]
    with pytest.raises(TransientStepError):
        engine.resume(run_id, broken, initial_input={"order": 8}, allow_input_change=True)
    with pytest.raises(InputMismatchError):
        engine.resume(run_id, calls.workflow(*NAMES), initial_input={"order": 7})
    engine.resume(run_id, calls.workflow(*NAMES), initial_input={"order": 8})
    assert calls.made[-1][1] == {"order": 8, "fetch": True, "charge": True, "ship": True}


def test_a_changed_input_and_changed_steps_leave_both_events(
    engine: ResumeEngine, store: SqlCheckpointStore, calls: Calls
) -> None:
    run_id = stopped_at(engine, 1)
    engine.resume(
        run_id,
        calls.workflow("fetch", "charge"),
        initial_input={},
        allow_workflow_change=True,
        allow_input_change=True,
    )
    kinds = [event.event_type for event in store.list_events(run_id)]
    assert EventType.RUN_WORKFLOW_CHANGED in kinds and EventType.RUN_INPUT_CHANGED in kinds


# A step in doubt runs again with the key it had


def test_an_interrupted_retry_is_given_what_the_failed_attempt_was_given(
    engine: ResumeEngine, store: SqlCheckpointStore
) -> None:
    """Driven by hand, the input of a step follows from nothing but its own record."""
    run_id = engine.start_run("orders", environment="prod").run_id
    with pytest.raises(TransientStepError):
        engine.execute_step(run_id, "charge", 0, {"by": "hand"}, failing(TransientStepError("x")))
    engine.ack_prod_resume(run_id, "olga@example.com")
    with pytest.raises(KeyboardInterrupt):
        engine.resume(run_id, [("charge", failing(KeyboardInterrupt()))])  # type: ignore[arg-type]
    [in_flight] = summary(store, run_id).in_flight
    keys: list[str] = []
    steps = [("charge", lambda _state, key: keys.append(key) or {})]
    with pytest.raises(Exception, match="prod_resume_ack"):
        engine.resume(run_id, steps)
    engine.ack_prod_resume(run_id, "olga@example.com")
    assert engine.resume(run_id, steps).status is RunStatus.COMPLETED
    assert keys == [in_flight.idempotency_key]


def test_a_step_in_doubt_is_not_run_with_an_input_it_did_not_have(
    engine: ResumeEngine, store: SqlCheckpointStore, calls: Calls
) -> None:
    run_id = engine.start_run("orders").run_id
    with pytest.raises(KeyboardInterrupt):
        engine.execute_step(run_id, "charge", 0, {"by": "hand"}, failing(KeyboardInterrupt()))  # type: ignore[arg-type]
    before = summary(store, run_id)
    with pytest.raises(WorkflowMismatchError, match="an interrupted attempt with the key"):
        engine.resume(run_id, calls.workflow("charge"))
    assert summary(store, run_id) == before and calls.made == []
    assert engine.resume(run_id, calls.workflow("charge"), initial_input={"by": "hand"}).status


def test_a_reconciliation_is_asked_about_its_own_attempt_only(engine: ResumeEngine, calls: Calls) -> None:
    asked: list[str] = []
    run_id = stopped_at(engine, 1, KeyboardInterrupt())
    steps = calls.workflow(*NAMES)
    steps[1] = Step(
        "charge", calls.step("charge"), reconcile=lambda _state, key: asked.append(key) or {"x": 1}
    )
    run = engine.resume(run_id, steps, initial_input={"order": 8}, allow_input_change=True)
    assert run.status is RunStatus.COMPLETED
    assert asked == [] and calls.names == ["charge", "ship", "notify"]

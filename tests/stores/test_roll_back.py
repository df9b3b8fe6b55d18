"""Rolling back: what a run did is undone in reverse order, once, on record, and never half in silence."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.audit import EventType
from resume_engine.core.clock import ManualClock, replaced_by, utc_now
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import (
    DecisionInputError,
    DecisionNotAllowedError,
    InvalidValueError,
    NothingToDecideError,
    ResumeBlockedError,
    RunBusyError,
    RunFinishedError,
    WorkflowMismatchError,
)
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError, TransientStepError
from resume_engine.core.idempotency import generate_idempotency_key, hash_input
from resume_engine.core.permissions import Role
from resume_engine.core.retry import Backoff, RetryPolicy
from resume_engine.core.run import RunStatus
from resume_engine.core.run_summary import RunState
from resume_engine.core.step import Step
from resume_engine.core.step_record import StepKind
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.worker import Worker
from tests.factories import failing, passing
from tests.stores.changes import NOON, completed, summary

State = dict[str, Any]
NOTE = "the customer withdrew"
COUNT = 5


class Undone:
    """A workflow of five steps and what their compensations were called with; the last step fails."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, State, str]] = []
        self.trouble: dict[int, list[BaseException]] = {}

    def steps(
        self,
        count: int = COUNT,
        *,
        without: int | None = None,
        error: Exception | None = None,
        **options: Any,
    ) -> list[Step]:
        last = failing(error or PermanentStepError("declined"))
        made = [
            Step(
                f"step_{index}",
                passing({f"out_{index}": index}),
                compensate=None if index == without else self.undo(index),
                **options,
            )
            for index in range(count)
        ]
        return [*made, Step("last", last, compensate=self.undo(count), **options)]

    def undo(self, index: int) -> Any:
        def call(state: State, key: str) -> State:
            self.calls.append((f"step_{index}", state, key))
            if self.trouble.get(index):
                raise self.trouble[index].pop(0)
            return {f"undone_{index}": True}

        return call

    @property
    def order(self) -> list[int]:
        return [int(name.removeprefix("step_")) for name, _, _ in self.calls]


@pytest.fixture
def engine(store: SqlCheckpointStore) -> ResumeEngine:
    return ResumeEngine(store, owner="worker-1")


@pytest.fixture
def undone() -> Undone:
    return Undone()


def failed(engine: ResumeEngine, steps: list[Step], **options: Any) -> str:
    """Return a run that failed at its last step."""
    run_id = engine.start_run("billing", **options).run_id
    with pytest.raises(Exception, match=r"declined|half|timed out"):
        engine.execute_workflow(run_id, steps, initial_input={"order": 7})
    return run_id


def roll_back(engine: ResumeEngine, run_id: str, steps: list[Step]) -> Any:
    return engine.roll_back(run_id, steps, requested_by="olga@example.com", note=NOTE)


def events(store: SqlCheckpointStore, run_id: str, kind: EventType) -> list[Any]:
    return [event for event in store.list_events(run_id) if event.event_type == kind]


def requested_by(event: Any) -> str:
    """Over HTTP the key is the actor, and who it stands for its display name."""
    return str(event.payload.get("display_name", event.payload["requested_by"]))


# All of it


def test_completed_steps_are_undone_in_reverse_order_and_the_run_is_cancelled(
    engine: ResumeEngine, store: SqlCheckpointStore, undone: Undone
) -> None:
    steps = undone.steps()
    run_id = failed(engine, steps)
    run = roll_back(engine, run_id, steps)
    assert run.status is RunStatus.CANCELLED
    assert undone.order == [4, 3, 2, 1, 0]
    records = [step for step in run.steps if step.kind is StepKind.COMPENSATION]
    assert [step.step_name for step in records] == [f"__compensate__step_{i}" for i in (4, 3, 2, 1, 0)]
    assert all(step.is_completed for step in records)
    assert [step.output_data for step in records][-1] == {"undone_0": True}
    left = summary(store, run_id)
    assert (left.blocked_by, left.lease_owner, left.in_flight, left.failure) == ((), None, (), None)
    assert left.steps_completed == COUNT and left.finished_at is not None


def test_a_compensation_is_given_the_state_its_step_left_and_a_key_of_its_own(
    engine: ResumeEngine, undone: Undone
) -> None:
    steps = undone.steps(2)
    run_id = failed(engine, steps)
    done = roll_back(engine, run_id, steps)
    assert [state for _, state, _ in undone.calls] == [
        {"order": 7, "out_0": 0, "out_1": 1},
        {"order": 7, "out_0": 0},
    ]
    keys = [key for _, _, key in undone.calls]
    assert keys == [s.idempotency_key for s in done.steps if s.kind is StepKind.COMPENSATION]
    wanted = generate_idempotency_key(run_id, "__compensate__step_0", 0, hash_input({"order": 7, "out_0": 0}))
    assert keys[1] == wanted and not set(keys) & {s.idempotency_key for s in done.steps[:3]}


def test_the_audit_says_who_why_what_was_undone_and_what_was_not(
    engine: ResumeEngine, store: SqlCheckpointStore, undone: Undone
) -> None:
    steps = undone.steps(3, without=1)
    run_id = failed(engine, steps)
    roll_back(engine, run_id, steps)
    assert undone.order == [2, 0]
    for kind in (EventType.RUN_ROLLING_BACK, EventType.RUN_ROLLED_BACK):
        [event] = events(store, run_id, kind)
        assert (requested_by(event), event.note) == ("olga@example.com", NOTE)
        assert event.payload["requested_by"] == event.actor
        assert [one["step_name"] for one in event.payload["compensated"]] == ["step_2", "step_0"]
        assert [one["step_name"] for one in event.payload["not_compensated"]] == ["step_1"]
    [begun] = events(store, run_id, EventType.RUN_ROLLING_BACK)
    assert begun.failure_key == "3:3"


def test_a_run_with_nothing_to_undo_is_cancelled(
    engine: ResumeEngine, store: SqlCheckpointStore, undone: Undone
) -> None:
    steps = undone.steps(0)
    run_id = failed(engine, steps)
    assert roll_back(engine, run_id, steps).status is RunStatus.CANCELLED
    assert undone.calls == []
    assert len(events(store, run_id, EventType.RUN_ROLLED_BACK)) == 1


def test_a_run_that_was_rolled_back_stays_as_it_is(
    engine: ResumeEngine, store: SqlCheckpointStore, undone: Undone
) -> None:
    steps = undone.steps(2)
    run_id = failed(engine, steps)
    roll_back(engine, run_id, steps)
    before = summary(store, run_id)
    assert roll_back(engine, run_id, steps).status is RunStatus.CANCELLED
    assert summary(store, run_id) == before and undone.order == [1, 0]


def test_a_replay_of_a_run_that_was_rolled_back_gives_its_trace(engine: ResumeEngine, undone: Undone) -> None:
    steps = undone.steps(2)
    run_id = failed(engine, steps)
    roll_back(engine, run_id, steps)
    assert engine.replay_run(run_id, steps)[1] == engine.get_audit_log(run_id)


# What stands beside completed steps


def test_a_step_that_failed_as_partial_is_undone_first(engine: ResumeEngine, undone: Undone) -> None:
    steps = undone.steps(2, error=PartialStepError("half done"))
    run_id = failed(engine, steps)
    roll_back(engine, run_id, steps)
    assert undone.order == [2, 1, 0]
    assert undone.calls[0][1] == {"order": 7, "out_0": 0, "out_1": 1}


def test_a_partial_failure_that_was_compensated_is_not_undone_again(
    engine: ResumeEngine, undone: Undone
) -> None:
    steps = undone.steps(2, error=PartialStepError("half done"))
    run_id = failed(engine, steps)
    engine.execute_compensation(run_id, steps=steps)
    roll_back(engine, run_id, steps)
    assert undone.order == [2, 1, 0] and len({key for _, _, key in undone.calls}) == 3


def test_a_step_that_was_compensated_mended_and_rolled_back_is_undone_twice(
    engine: ResumeEngine, undone: Undone
) -> None:
    """With an empty output both compensations are given the same: the second must not pass for the first."""
    half = Step("pay", failing(PartialStepError("half done")), compensate=undone.undo(0))
    whole = Step("pay", passing({}), compensate=undone.undo(0))
    after = Step("after", failing(PermanentStepError("declined")))
    run_id = failed(engine, [half, after])
    engine.execute_compensation(run_id, steps=[half, after])
    with pytest.raises(PermanentStepError):
        engine.resume(run_id, [whole, after])
    roll_back(engine, run_id, [whole, after])
    assert undone.order == [0, 0] and len({key for _, _, key in undone.calls}) == 2


def test_a_step_that_timed_out_may_have_acted_and_is_undone(engine: ResumeEngine, undone: Undone) -> None:
    import time

    def slow(_state: State, _key: str) -> State:
        time.sleep(0.1)
        return {}

    steps = [undone.steps(1)[0], Step("last", slow, timeout=0.01, compensate=undone.undo(1))]
    run_id = engine.start_run("billing").run_id
    with pytest.raises(TimeoutError):
        engine.execute_workflow(run_id, steps)
    roll_back(engine, run_id, steps)
    assert undone.order == [1, 0]


def test_a_step_that_failed_cleanly_left_nothing_to_undo(engine: ResumeEngine, undone: Undone) -> None:
    for error in (PermanentStepError("declined"), TransientStepError("timed out")):
        steps = undone.steps(1, error=error)
        roll_back(engine, failed(engine, steps), steps)
    assert undone.order == [0, 0]


def stopped(_state: State, _key: str) -> State:
    raise KeyboardInterrupt


def interrupted(engine: ResumeEngine, steps: list[Step]) -> str:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(KeyboardInterrupt):
        engine.execute_workflow(run_id, steps, initial_input={"order": 7})
    return run_id


def test_a_step_in_doubt_is_undone_with_the_input_it_had(
    engine: ResumeEngine, store: SqlCheckpointStore, undone: Undone
) -> None:
    steps = [*undone.steps(1)[:1], Step("step_1", stopped, compensate=undone.undo(1))]
    run_id = interrupted(engine, steps)
    roll_back(engine, run_id, steps)
    assert [(name, state) for name, state, _ in undone.calls] == [
        ("step_1", {"order": 7, "out_0": 0}),
        ("step_0", {"order": 7, "out_0": 0}),
    ]
    [event] = events(store, run_id, EventType.RUN_ROLLED_BACK)
    assert [one["because"] for one in event.payload["compensated"]] == ["in doubt", "completed"]


def test_a_step_in_doubt_stays_part_of_the_rollback_after_a_crash_of_its_compensation(
    engine: ResumeEngine, undone: Undone
) -> None:
    steps = [*undone.steps(1)[:1], Step("step_1", stopped, compensate=undone.undo(1))]
    run_id = interrupted(engine, steps)
    undone.trouble[1] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        roll_back(engine, run_id, steps)
    roll_back(engine, run_id, steps)
    assert undone.order == [1, 1, 0] and undone.calls[0] == undone.calls[1]


def test_a_step_in_doubt_whose_input_nobody_recorded_is_refused(
    engine: ResumeEngine, store: SqlCheckpointStore, undone: Undone
) -> None:
    run_id = engine.start_run("billing").run_id
    with pytest.raises(KeyboardInterrupt):
        engine.execute_step(run_id, "step_0", 0, {"given": "by hand"}, stopped)
    before = summary(store, run_id)
    with pytest.raises(InvalidValueError, match="step 0 'step_0' .* was interrupted, and its input does not"):
        roll_back(engine, run_id, undone.steps(1))
    assert summary(store, run_id) == before and undone.calls == []


# Crashes and failures


@pytest.mark.parametrize("at", [0, 2, COUNT - 1])
def test_a_crash_in_any_compensation_is_resumed_there(
    engine: ResumeEngine, store: SqlCheckpointStore, undone: Undone, at: int
) -> None:
    steps = undone.steps()
    run_id = failed(engine, steps)
    undone.trouble[at] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        roll_back(engine, run_id, steps)
    left = summary(store, run_id)
    assert left.state(utc_now()) is RunState.INTERRUPTED
    assert [step.step_name for step in left.in_flight] == [f"__compensate__step_{at}"]
    assert roll_back(ResumeEngine(store, owner="other"), run_id, steps).status is RunStatus.CANCELLED
    assert undone.order == [*range(COUNT - 1, at - 1, -1), *range(at, -1, -1)]
    assert len({key for _, _, key in undone.calls}) == COUNT  # the one that was repeated had its key
    assert len(events(store, run_id, EventType.RUN_ROLLED_BACK)) == 1


@pytest.mark.parametrize(
    ("at", "error", "environment"),
    [
        (0, TransientStepError("away"), "prod"),
        (1, PartialStepError("half"), "dev"),
        (2, ValueError("no such order"), "prod"),
        (COUNT - 1, TransientStepError("away"), "dev"),
    ],
)
def test_a_compensation_that_fails_needs_a_person(
    engine: ResumeEngine,
    store: SqlCheckpointStore,
    undone: Undone,
    at: int,
    error: Exception,
    environment: str,
) -> None:
    steps = undone.steps()
    run_id = failed(engine, steps, environment=environment)
    first = summary(store, run_id).failure
    undone.trouble[at] = [error]
    with pytest.raises(type(error)):
        roll_back(engine, run_id, steps)
    left = summary(store, run_id)
    assert left.status is RunStatus.FAILED and left.failure is not None and first is not None
    assert left.failure.step_name == f"__compensate__step_{at}" and left.failure.key != first.key
    wanted = ["human_approval", *(["prod_resume_ack"] if environment == "prod" else [])]
    assert list(left.blocked_by) == wanted
    for call in (
        lambda: roll_back(engine, run_id, steps),
        lambda: engine.resume(run_id, steps),
        lambda: engine.execute_step(run_id, "step_9", 9, {}, passing({})),
    ):
        with pytest.raises(ResumeBlockedError):
            call()
    for action in wanted:
        engine.decide(run_id, action, Actor(name="olga", role=Role.OPERATOR, channel=Channel.LIBRARY))
    assert summary(store, run_id).status is RunStatus.PAUSED
    assert roll_back(engine, run_id, steps).status is RunStatus.CANCELLED
    assert undone.order == [*range(COUNT - 1, at - 1, -1), *range(at, -1, -1)]
    assert len({key for _, _, key in undone.calls}) == COUNT


def test_each_failure_of_a_compensation_is_a_failure_event_of_its_own(
    engine: ResumeEngine, store: SqlCheckpointStore, undone: Undone
) -> None:
    steps = undone.steps(1)
    run_id = failed(engine, steps)
    undone.trouble[0] = [ValueError("x"), ValueError("x")]
    keys = []
    for _ in range(2):
        with pytest.raises(ValueError, match="x"):
            roll_back(engine, run_id, steps)
        failure = summary(store, run_id).failure
        assert failure is not None
        keys.append((failure.key, failure.attempts))
        engine.grant_human_approval(run_id, "olga@example.com")
    assert keys == [("0:2", 1), ("0:3", 2)]
    roll_back(engine, run_id, steps)
    assert [step.attempt for step in store.iter_steps(run_id) if step.kind is StepKind.COMPENSATION] == [
        1,
        2,
        3,
    ]


def test_a_half_done_rollback_can_be_given_up(
    engine: ResumeEngine, store: SqlCheckpointStore, undone: Undone
) -> None:
    steps = undone.steps(2)
    run_id = failed(engine, steps)
    undone.trouble[0] = [ValueError("x")]
    with pytest.raises(ValueError, match="x"):
        roll_back(engine, run_id, steps)
    engine.reject_run(run_id, "olga@example.com", note="done by hand")
    assert summary(store, run_id).status is RunStatus.CANCELLED
    assert events(store, run_id, EventType.RUN_ROLLED_BACK) == []
    with pytest.raises(RunFinishedError):
        roll_back(engine, run_id, steps)


def test_retries_of_the_step_hold_for_its_compensation(
    engine: ResumeEngine, store: SqlCheckpointStore, undone: Undone
) -> None:
    policy = RetryPolicy(attempts=3, backoff=Backoff(base_seconds=30, cap_seconds=60))
    steps = undone.steps(1, retry=policy)
    undone.trouble[0] = [TransientStepError("away"), TransientStepError("away")]
    with replaced_by(ManualClock(NOON)) as _:
        run_id = failed(engine, steps)
        assert roll_back(engine, run_id, steps).status is RunStatus.CANCELLED
    assert undone.order == [0, 0, 0] and len({key for _, _, key in undone.calls}) == 1


def test_without_retries_the_failed_step_gives_its_compensation_no_second_go(
    engine: ResumeEngine, undone: Undone
) -> None:
    steps = undone.steps(0, error=PartialStepError("half done"))
    run_id = failed(engine, steps)
    undone.trouble[0] = [TransientStepError("away")]
    with pytest.raises(TransientStepError):
        roll_back(engine, run_id, steps)
    assert undone.order == [0]


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_a_crash_during_the_wait_for_a_retry_keeps_the_rollback(
    engine: ResumeEngine,
    store: SqlCheckpointStore,
    undone: Undone,
    monkeypatch: pytest.MonkeyPatch,
    environment: str,
) -> None:
    policy = RetryPolicy(attempts=3, backoff=Backoff(base_seconds=30, cap_seconds=60))
    steps = undone.steps(1, retry=policy)
    undone.trouble[0] = [TransientStepError("away")]
    clock = ManualClock(NOON)
    with replaced_by(clock):
        run_id = failed(engine, steps, environment=environment)

        def killed(_seconds: float) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(clock, "advance", killed)
        with pytest.raises(KeyboardInterrupt):
            roll_back(engine, run_id, steps)
        monkeypatch.undo()
        assert summary(store, run_id).retry_at is not None
        if environment == "prod":
            with pytest.raises(ResumeBlockedError):
                engine.resume(run_id, steps)
            engine.ack_prod_resume(run_id, "olga@example.com")
        assert engine.resume(run_id, steps).status is RunStatus.CANCELLED
    assert undone.order == [0, 0]


# From then on there is one way


def half_rolled_back(engine: ResumeEngine, undone: Undone, steps: list[Step]) -> str:
    run_id = failed(engine, steps)
    undone.trouble[1] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        roll_back(engine, run_id, steps)
    return run_id


def test_a_resume_goes_on_rolling_back(
    engine: ResumeEngine, store: SqlCheckpointStore, undone: Undone
) -> None:
    steps = undone.steps(3)
    run_id = half_rolled_back(engine, undone, steps)
    assert engine.resume(run_id, steps).status is RunStatus.CANCELLED
    assert undone.order == [2, 1, 1, 0]
    [resumed] = events(store, run_id, EventType.RUN_RESUMED)
    assert resumed.payload["rolling_back"] is True
    [event] = events(store, run_id, EventType.RUN_ROLLED_BACK)
    assert requested_by(event) == "olga@example.com" and event.note == NOTE


def test_a_worker_goes_on_rolling_back(engine: ResumeEngine, undone: Undone) -> None:
    steps = undone.steps(3)
    run_id = half_rolled_back(engine, undone, steps)
    assert Worker(engine, {"billing": steps}).run_once() == 1
    assert engine.store.load_summary(run_id).status is RunStatus.CANCELLED  # type: ignore[union-attr]
    assert undone.order == [2, 1, 1, 0]


def test_no_step_is_executed_any_more(
    engine: ResumeEngine, store: SqlCheckpointStore, undone: Undone
) -> None:
    steps = undone.steps(3)
    run_id = half_rolled_back(engine, undone, steps)
    before = summary(store, run_id)
    with pytest.raises(RunFinishedError, match="is rolling back: nothing more"):
        engine.execute_step(run_id, "step_9", 9, {}, passing({}))
    with pytest.raises(RunFinishedError, match="is rolling back"):
        store.append_step(run_id, completed(before.next_sequence, run_id=run_id))
    with pytest.raises((InvalidValueError, RunFinishedError)):
        engine.complete_run(run_id)
    assert summary(store, run_id) == before


def test_no_status_written_by_hand_ends_a_rollback(
    engine: ResumeEngine, store: SqlCheckpointStore, undone: Undone
) -> None:
    steps = undone.steps(1)
    run_id = failed(engine, steps)
    undone.trouble[0] = [ValueError("x")]
    with pytest.raises(ValueError, match="x"):
        roll_back(engine, run_id, steps)
    engine.grant_human_approval(run_id, "olga@example.com")
    run = store.get_run(run_id)
    assert run is not None
    for status in (RunStatus.COMPLETED, RunStatus.RUNNING):
        run.status = status
        with pytest.raises(RunFinishedError, match="is rolling back"):
            store.update_run(run)
    assert roll_back(engine, run_id, steps).status is RunStatus.CANCELLED


def test_steps_that_lost_their_compensation_are_refused(
    engine: ResumeEngine, store: SqlCheckpointStore, undone: Undone
) -> None:
    steps = undone.steps(3)
    run_id = half_rolled_back(engine, undone, steps)
    before = summary(store, run_id)
    with pytest.raises(InvalidValueError, match="step 1 'step_1' has no compensate"):
        engine.resume(run_id, undone.steps(3, without=1))
    assert summary(store, run_id) == before


# Who, why, when


def test_a_rollback_needs_a_reason_and_a_role(
    engine: ResumeEngine, store: SqlCheckpointStore, undone: Undone
) -> None:
    steps = undone.steps(1)
    run_id = failed(engine, steps)
    before = summary(store, run_id)
    with pytest.raises(DecisionInputError, match="^note: a rollback cancels the run for good"):
        engine.roll_back(run_id, steps, requested_by="olga@example.com", note=" ")
    runner = Actor(name="ron", role=Role.RUNNER, channel=Channel.LIBRARY)
    with pytest.raises(DecisionNotAllowedError):
        engine.roll_back(run_id, steps, requested_by=runner, note=NOTE)
    assert summary(store, run_id) == before and undone.calls == []


def test_other_steps_are_refused(engine: ResumeEngine, store: SqlCheckpointStore, undone: Undone) -> None:
    steps = undone.steps(2)
    run_id = failed(engine, steps)
    before = summary(store, run_id)
    for others in (steps[:1], [steps[1], steps[0], steps[2]], []):
        with pytest.raises(WorkflowMismatchError):
            roll_back(engine, run_id, others)
    assert summary(store, run_id) == before and undone.calls == []


def test_a_completed_run_is_not_rolled_back(engine: ResumeEngine, undone: Undone) -> None:
    run_id = engine.start_run("billing").run_id
    engine.execute_workflow(run_id, undone.steps(1)[:1])
    with pytest.raises(RunFinishedError, match="is completed"):
        roll_back(engine, run_id, undone.steps(1)[:1])


def test_a_live_executor_is_not_disturbed(engine: ResumeEngine, undone: Undone) -> None:
    steps = undone.steps(1)
    run_id = engine.start_run("billing").run_id

    def meanwhile(_state: State, _key: str) -> State:
        with pytest.raises(RunBusyError):
            roll_back(ResumeEngine(engine.store, owner="other"), run_id, [Step("a", meanwhile), *steps])
        return {}

    engine.execute_workflow(run_id, [("a", meanwhile)])
    assert undone.calls == []


def test_compensations_may_be_coroutine_functions(engine: ResumeEngine, undone: Undone) -> None:
    async def undo(_state: State, _key: str) -> State:
        await asyncio.sleep(0)
        return {"undone": True}

    steps = [Step("step_0", passing({}), compensate=undo), undone.steps(0)[0]]
    run_id = failed(engine, steps)
    with pytest.raises(InvalidValueError, match="coroutine function"):
        roll_back(engine, run_id, steps)
    done = asyncio.run(engine.aroll_back(run_id, steps, requested_by="olga@example.com", note=NOTE))
    assert done.status is RunStatus.CANCELLED and done.steps[-1].output_data == {"undone": True}


# execute_compensation with the steps of the workflow


def test_the_compensation_of_the_failed_step_is_found_in_the_steps(
    engine: ResumeEngine, undone: Undone
) -> None:
    steps = undone.steps(1, error=PartialStepError("half done"))
    run_id = failed(engine, steps)
    record = engine.execute_compensation(run_id, steps=steps)
    assert (record.step_name, record.output_data) == ("__compensate__last", {"undone_1": True})
    assert undone.calls == [("step_1", {"order": 7, "out_0": 0}, record.idempotency_key)]
    assert engine.get_resume_blockers(run_id) == []


def test_a_step_without_compensation_says_so(engine: ResumeEngine, undone: Undone) -> None:
    steps = [Step("last", failing(PartialStepError("half done")))]
    run_id = failed(engine, steps)
    with pytest.raises(InvalidValueError, match="step 0 'last' has no compensate; give it one, or pass"):
        engine.execute_compensation(run_id, steps=steps)
    with pytest.raises(WorkflowMismatchError):
        engine.execute_compensation(run_id, steps=undone.steps(1))
    assert engine.get_resume_blockers(run_id)


def test_either_the_function_or_the_steps_are_given(engine: ResumeEngine, undone: Undone) -> None:
    steps = undone.steps(0, error=PartialStepError("half done"))
    run_id = failed(engine, steps)
    for given in ((), (passing({}), steps)):
        with pytest.raises(InvalidValueError, match="^fn: give either"):
            engine.execute_compensation(run_id, *given[:1], steps=given[1] if given else None)
    other = failed(engine, undone.steps(0))
    with pytest.raises(NothingToDecideError):
        engine.execute_compensation(other, steps=steps)


# A process that dies

_SCRIPT = """
import os, sys
from resume_engine import ResumeEngine, Step
from resume_engine.core.failure_classifier import PermanentStepError
from resume_engine.storage.open_store import open_store

url, sink, command = sys.argv[1:]

def undo(index):
    def call(state, key):
        handle = os.open(sink, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{index} {key}\\n".encode())
        os.close(handle)
        return {}
    return call

def last(state, key):
    raise PermanentStepError("declined")

steps = [Step(f"s{i}", lambda state, key: {}, compensate=undo(i)) for i in range(5)] + [Step("last", last)]
with open_store(url) as store:
    engine = ResumeEngine(store)
    if command == "fail":
        engine.start_run("billing", run_id="run-1")
        try:
            engine.execute_workflow("run-1", steps)
        except PermanentStepError:
            pass
    else:
        engine.roll_back("run-1", steps, requested_by="olga", note="why")
"""


def test_a_process_that_is_killed_again_and_again_undoes_everything_once_by_key(tmp_path: Path) -> None:
    url, sink = f"sqlite:///{tmp_path / 'x.db'}", tmp_path / "sink"
    # Each go gets one compensation further, or none at all.
    points = [
        "before_intent:1",
        "after_intent:1",
        "before_effect:1",
        "after_effect:1",
        "before_commit:1",
        "after_commit:1",
        "after_effect:2",
        "before_effect:2",
        "after_commit:1",
    ]
    kills = 0
    for point in ["", *points, ""]:
        command = "fail" if point == "" and kills == 0 else "roll_back"
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, url, str(sink), command],
            env={**os.environ, "RESUME_ENGINE_FAILPOINT": point, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == (-signal.SIGKILL if point else 0), done.stderr
        kills += bool(point)
        with open_store(url) as store:
            status = store.load_summary("run-1").status  # type: ignore[union-attr]
        assert (status is RunStatus.CANCELLED) == (command == "roll_back" and point == "")
    lines = [line.split() for line in sink.read_text().splitlines()]
    order = [int(index) for index, _ in lines]
    assert order == sorted(order, reverse=True) and set(order) == {0, 1, 2, 3, 4}
    assert len({key for _, key in lines}) == 5 and len(lines) <= 5 + kills
    with open_store(url) as store:
        undone = [r for r in store.iter_steps("run-1") if r.kind is StepKind.COMPENSATION]
    assert [record.step_index for record in undone] == [4, 3, 2, 1, 0]

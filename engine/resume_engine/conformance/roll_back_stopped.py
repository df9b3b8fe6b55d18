"""A rollback that crashes or fails goes on where it was, and never ends half in silence."""

from __future__ import annotations

import pytest

from resume_engine.conformance.samples import (
    NOON,
    completed,
    passing,
    summary,
)
from resume_engine.conformance.undone import (
    COUNT,
    NOTE,
    Undone,
    WithUndone,
    events,
    failed,
    half_rolled_back,
    requested_by,
    roll_back,
)
from resume_engine.core.actor import Actor, Channel
from resume_engine.core.audit import EventType
from resume_engine.core.clock import ManualClock, replaced_by, utc_now
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import (
    InvalidValueError,
    ResumeBlockedError,
    RunFinishedError,
)
from resume_engine.core.failure_classifier import PartialStepError, TransientStepError
from resume_engine.core.permissions import Role
from resume_engine.core.retry import Backoff, RetryPolicy
from resume_engine.core.run import RunStatus
from resume_engine.core.run_summary import RunState
from resume_engine.core.step_record import StepKind
from resume_engine.core.store import CheckpointStore
from resume_engine.worker import Worker


class RollBackStopped(WithUndone):
    """Crashes and failures of a rollback, and that there is no other way from then on."""

    @pytest.mark.parametrize("at", [0, 2, COUNT - 1])
    def test_a_crash_in_any_compensation_is_resumed_there(
        self, engine: ResumeEngine, store: CheckpointStore, undone: Undone, at: int
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
        self,
        engine: ResumeEngine,
        store: CheckpointStore,
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
        self, engine: ResumeEngine, store: CheckpointStore, undone: Undone
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
        self, engine: ResumeEngine, store: CheckpointStore, undone: Undone
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
        self, engine: ResumeEngine, store: CheckpointStore, undone: Undone
    ) -> None:
        policy = RetryPolicy(attempts=3, backoff=Backoff(base_seconds=30, cap_seconds=60))
        steps = undone.steps(1, retry=policy)
        undone.trouble[0] = [TransientStepError("away"), TransientStepError("away")]
        with replaced_by(ManualClock(NOON)) as _:
            run_id = failed(engine, steps)
            assert roll_back(engine, run_id, steps).status is RunStatus.CANCELLED
        assert undone.order == [0, 0, 0] and len({key for _, _, key in undone.calls}) == 1

    def test_without_retries_the_failed_step_gives_its_compensation_no_second_go(
        self, engine: ResumeEngine, undone: Undone
    ) -> None:
        steps = undone.steps(0, error=PartialStepError("half done"))
        run_id = failed(engine, steps)
        undone.trouble[0] = [TransientStepError("away")]
        with pytest.raises(TransientStepError):
            roll_back(engine, run_id, steps)
        assert undone.order == [0]

    @pytest.mark.parametrize("environment", ["dev", "prod"])
    def test_a_crash_during_the_wait_for_a_retry_keeps_the_rollback(
        self,
        engine: ResumeEngine,
        store: CheckpointStore,
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

    def test_a_resume_goes_on_rolling_back(
        self, engine: ResumeEngine, store: CheckpointStore, undone: Undone
    ) -> None:
        steps = undone.steps(3)
        run_id = half_rolled_back(engine, undone, steps)
        assert engine.resume(run_id, steps).status is RunStatus.CANCELLED
        assert undone.order == [2, 1, 1, 0]
        [resumed] = events(store, run_id, EventType.RUN_RESUMED)
        assert resumed.payload["rolling_back"] is True
        [event] = events(store, run_id, EventType.RUN_ROLLED_BACK)
        assert requested_by(event) == "olga@example.com" and event.note == NOTE

    def test_a_worker_goes_on_rolling_back(self, engine: ResumeEngine, undone: Undone) -> None:
        steps = undone.steps(3)
        run_id = half_rolled_back(engine, undone, steps)
        assert Worker(engine, {"billing": steps}).run_once() == 1
        assert engine.store.load_summary(run_id).status is RunStatus.CANCELLED  # type: ignore[union-attr]
        assert undone.order == [2, 1, 1, 0]

    def test_no_step_is_executed_any_more(
        self, engine: ResumeEngine, store: CheckpointStore, undone: Undone
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
        self, engine: ResumeEngine, store: CheckpointStore, undone: Undone
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
        self, engine: ResumeEngine, store: CheckpointStore, undone: Undone
    ) -> None:
        steps = undone.steps(3)
        run_id = half_rolled_back(engine, undone, steps)
        before = summary(store, run_id)
        with pytest.raises(InvalidValueError, match="step 1 'step_1' has no compensate"):
            engine.resume(run_id, undone.steps(3, without=1))
        assert summary(store, run_id) == before

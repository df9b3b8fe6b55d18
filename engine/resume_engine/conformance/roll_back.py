"""What a run did is undone in reverse order, once, on record; who may ask for that."""

from __future__ import annotations

import asyncio
import time

import pytest

from resume_engine.conformance.samples import (
    failing,
    passing,
    summary,
)
from resume_engine.conformance.undone import (
    COUNT,
    NOTE,
    State,
    Undone,
    WithUndone,
    events,
    failed,
    interrupted,
    requested_by,
    roll_back,
    stopped,
)
from resume_engine.core.actor import Actor, Channel
from resume_engine.core.audit import EventType
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import (
    DecisionInputError,
    DecisionNotAllowedError,
    InvalidValueError,
    NothingToDecideError,
    RunBusyError,
    RunFinishedError,
    WorkflowMismatchError,
)
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError, TransientStepError
from resume_engine.core.idempotency import generate_idempotency_key, hash_input
from resume_engine.core.permissions import Role
from resume_engine.core.run import RunStatus
from resume_engine.core.step import Step
from resume_engine.core.step_record import StepKind
from resume_engine.core.store import CheckpointStore


class RollBack(WithUndone):
    """What a rollback undoes, and who may ask for it."""

    def test_completed_steps_are_undone_in_reverse_order_and_the_run_is_cancelled(
        self, engine: ResumeEngine, store: CheckpointStore, undone: Undone
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
        self, engine: ResumeEngine, undone: Undone
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
        wanted = generate_idempotency_key(
            run_id, "__compensate__step_0", 0, hash_input({"order": 7, "out_0": 0})
        )
        assert keys[1] == wanted and not set(keys) & {s.idempotency_key for s in done.steps[:3]}

    def test_the_audit_says_who_why_what_was_undone_and_what_was_not(
        self, engine: ResumeEngine, store: CheckpointStore, undone: Undone
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
        self, engine: ResumeEngine, store: CheckpointStore, undone: Undone
    ) -> None:
        steps = undone.steps(0)
        run_id = failed(engine, steps)
        assert roll_back(engine, run_id, steps).status is RunStatus.CANCELLED
        assert undone.calls == []
        assert len(events(store, run_id, EventType.RUN_ROLLED_BACK)) == 1

    def test_a_run_that_was_rolled_back_stays_as_it_is(
        self, engine: ResumeEngine, store: CheckpointStore, undone: Undone
    ) -> None:
        steps = undone.steps(2)
        run_id = failed(engine, steps)
        roll_back(engine, run_id, steps)
        before = summary(store, run_id)
        assert roll_back(engine, run_id, steps).status is RunStatus.CANCELLED
        assert summary(store, run_id) == before and undone.order == [1, 0]

    def test_a_replay_of_a_run_that_was_rolled_back_gives_its_trace(
        self, engine: ResumeEngine, undone: Undone
    ) -> None:
        steps = undone.steps(2)
        run_id = failed(engine, steps)
        roll_back(engine, run_id, steps)
        assert engine.replay_run(run_id, steps)[1] == engine.get_audit_log(run_id)

    # What stands beside completed steps

    def test_a_step_that_failed_as_partial_is_undone_first(
        self, engine: ResumeEngine, undone: Undone
    ) -> None:
        steps = undone.steps(2, error=PartialStepError("half done"))
        run_id = failed(engine, steps)
        roll_back(engine, run_id, steps)
        assert undone.order == [2, 1, 0]
        assert undone.calls[0][1] == {"order": 7, "out_0": 0, "out_1": 1}

    def test_a_partial_failure_that_was_compensated_is_not_undone_again(
        self, engine: ResumeEngine, undone: Undone
    ) -> None:
        steps = undone.steps(2, error=PartialStepError("half done"))
        run_id = failed(engine, steps)
        engine.execute_compensation(run_id, steps=steps)
        roll_back(engine, run_id, steps)
        assert undone.order == [2, 1, 0] and len({key for _, _, key in undone.calls}) == 3

    def test_a_step_that_was_compensated_mended_and_rolled_back_is_undone_twice(
        self, engine: ResumeEngine, undone: Undone
    ) -> None:
        """With an empty output both compensations are given the same: the second is not the first."""
        half = Step("pay", failing(PartialStepError("half done")), compensate=undone.undo(0))
        whole = Step("pay", passing({}), compensate=undone.undo(0))
        after = Step("after", failing(PermanentStepError("declined")))
        run_id = failed(engine, [half, after])
        engine.execute_compensation(run_id, steps=[half, after])
        with pytest.raises(PermanentStepError):
            engine.resume(run_id, [whole, after])
        roll_back(engine, run_id, [whole, after])
        assert undone.order == [0, 0] and len({key for _, _, key in undone.calls}) == 2

    def test_a_step_that_timed_out_may_have_acted_and_is_undone(
        self, engine: ResumeEngine, undone: Undone
    ) -> None:
        def slow(_state: State, _key: str) -> State:
            time.sleep(0.1)
            return {}

        steps = [undone.steps(1)[0], Step("last", slow, timeout=0.01, compensate=undone.undo(1))]
        run_id = engine.start_run("billing").run_id
        with pytest.raises(TimeoutError):
            engine.execute_workflow(run_id, steps)
        roll_back(engine, run_id, steps)
        assert undone.order == [1, 0]

    def test_a_step_that_failed_cleanly_left_nothing_to_undo(
        self, engine: ResumeEngine, undone: Undone
    ) -> None:
        for error in (PermanentStepError("declined"), TransientStepError("timed out")):
            steps = undone.steps(1, error=error)
            roll_back(engine, failed(engine, steps), steps)
        assert undone.order == [0, 0]

    def test_a_step_in_doubt_is_undone_with_the_input_it_had(
        self, engine: ResumeEngine, store: CheckpointStore, undone: Undone
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
        self, engine: ResumeEngine, undone: Undone
    ) -> None:
        steps = [*undone.steps(1)[:1], Step("step_1", stopped, compensate=undone.undo(1))]
        run_id = interrupted(engine, steps)
        undone.trouble[1] = [KeyboardInterrupt()]
        with pytest.raises(KeyboardInterrupt):
            roll_back(engine, run_id, steps)
        roll_back(engine, run_id, steps)
        assert undone.order == [1, 1, 0] and undone.calls[0] == undone.calls[1]

    def test_a_step_in_doubt_whose_input_nobody_recorded_is_refused(
        self, engine: ResumeEngine, store: CheckpointStore, undone: Undone
    ) -> None:
        run_id = engine.start_run("billing").run_id
        with pytest.raises(KeyboardInterrupt):
            engine.execute_step(run_id, "step_0", 0, {"given": "by hand"}, stopped)
        before = summary(store, run_id)
        with pytest.raises(
            InvalidValueError, match="step 0 'step_0' .* was interrupted, and its input does not"
        ):
            roll_back(engine, run_id, undone.steps(1))
        assert summary(store, run_id) == before and undone.calls == []

    # Who, why, when

    def test_a_rollback_needs_a_reason_and_a_role(
        self, engine: ResumeEngine, store: CheckpointStore, undone: Undone
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

    def test_other_steps_are_refused(
        self, engine: ResumeEngine, store: CheckpointStore, undone: Undone
    ) -> None:
        steps = undone.steps(2)
        run_id = failed(engine, steps)
        before = summary(store, run_id)
        for others in (steps[:1], [steps[1], steps[0], steps[2]], []):
            with pytest.raises(WorkflowMismatchError):
                roll_back(engine, run_id, others)
        assert summary(store, run_id) == before and undone.calls == []

    def test_a_completed_run_is_not_rolled_back(self, engine: ResumeEngine, undone: Undone) -> None:
        run_id = engine.start_run("billing").run_id
        engine.execute_workflow(run_id, undone.steps(1)[:1])
        with pytest.raises(RunFinishedError, match="is completed"):
            roll_back(engine, run_id, undone.steps(1)[:1])

    def test_a_live_executor_is_not_disturbed(self, engine: ResumeEngine, undone: Undone) -> None:
        steps = undone.steps(1)
        run_id = engine.start_run("billing").run_id

        def meanwhile(_state: State, _key: str) -> State:
            with pytest.raises(RunBusyError):
                roll_back(ResumeEngine(engine.store, owner="other"), run_id, [Step("a", meanwhile), *steps])
            return {}

        engine.execute_workflow(run_id, [("a", meanwhile)])
        assert undone.calls == []

    def test_compensations_may_be_coroutine_functions(self, engine: ResumeEngine, undone: Undone) -> None:
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
        self, engine: ResumeEngine, undone: Undone
    ) -> None:
        steps = undone.steps(1, error=PartialStepError("half done"))
        run_id = failed(engine, steps)
        record = engine.execute_compensation(run_id, steps=steps)
        assert (record.step_name, record.output_data) == ("__compensate__last", {"undone_1": True})
        assert undone.calls == [("step_1", {"order": 7, "out_0": 0}, record.idempotency_key)]
        assert engine.get_resume_blockers(run_id) == []

    def test_a_step_without_compensation_says_so(self, engine: ResumeEngine, undone: Undone) -> None:
        steps = [Step("last", failing(PartialStepError("half done")))]
        run_id = failed(engine, steps)
        with pytest.raises(InvalidValueError, match="step 0 'last' has no compensate; give it one, or pass"):
            engine.execute_compensation(run_id, steps=steps)
        with pytest.raises(WorkflowMismatchError):
            engine.execute_compensation(run_id, steps=undone.steps(1))
        assert engine.get_resume_blockers(run_id)

    def test_either_the_function_or_the_steps_are_given(self, engine: ResumeEngine, undone: Undone) -> None:
        steps = undone.steps(0, error=PartialStepError("half done"))
        run_id = failed(engine, steps)
        for given in ((), (passing({}), steps)):
            with pytest.raises(InvalidValueError, match="^fn: give either"):
                engine.execute_compensation(run_id, *given[:1], steps=given[1] if given else None)
        other = failed(engine, undone.steps(0))
        with pytest.raises(NothingToDecideError):
            engine.execute_compensation(other, steps=steps)

"""Roll a run back: what its steps did is undone in reverse order, each on record; then it is cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from resume_engine.core import clock, compensation
from resume_engine.core.actor import Actor
from resume_engine.core.async_bridge import refuse_coroutines
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.decisions import DecisionKind, DecisionRequest, assert_policy, check_request
from resume_engine.core.errors import DecisionInputError, RunFinishedError
from resume_engine.core.execution import RunExecution, assert_open, intent_of
from resume_engine.core.gate_closing import closed_in_time
from resume_engine.core.interruption import assert_may_continue, interrupted_step
from resume_engine.core.lease import Lease, assert_idle
from resume_engine.core.resume_gates import required_actions
from resume_engine.core.roll_back_plan import RollBack, Undoing, begun, input_in_doubt, planned
from resume_engine.core.run import FINISHED_STATUSES, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary, cleared, failure_of, finished
from resume_engine.core.step import Step
from resume_engine.core.step_record import FailureClassification, StepKind, StepRecord

if TYPE_CHECKING:
    from resume_engine.core.executor import Executor
    from resume_engine.core.store import CheckpointStore


def roll_back(executor: Executor, run_id: str, steps: Sequence[Step], actor: Actor, note: str) -> None:
    """Undo what a run did, or go on with that; a run that was rolled back already stays as it is."""
    if not (note or "").strip():
        raise DecisionInputError("note", "a rollback cancels the run for good: give the reason")
    request = DecisionRequest(run_id=run_id, kind=DecisionKind.REJECT, actor=actor, note=note)
    check_request(request)
    run = executor.require(run_id)
    if run.status is RunStatus.CANCELLED and _was_rolled_back(executor.store, run_id):
        return
    if run.status in FINISHED_STATUSES:
        raise RunFinishedError(run_id, run.status)
    wanted = begun(executor.store, run_id)
    if wanted is not None:
        go_on(executor, run, wanted, steps, actor)
        return
    assert_policy(executor.store, run, request, executor.policy)
    _work(executor, run, planned(executor.store, run, steps, actor, note), steps, actor, is_new=True)


def go_on(executor: Executor, run: RunSummary, wanted: RollBack, steps: Sequence[Step], actor: Actor) -> None:
    """Go on with a rollback after a crash, or after a person has looked at a failed compensation."""
    run = closed_in_time(executor.store, run, actor)
    assert_open(run, "")
    assert_may_continue(executor.store, run, None, actor)
    _work(executor, run, wanted, steps, actor, is_new=False)


def _was_rolled_back(store: CheckpointStore, run_id: str) -> bool:
    return any(event.event_type == EventType.RUN_ROLLED_BACK for event in store.list_events(run_id))


def _work(
    executor: Executor,
    run: RunSummary,
    wanted: RollBack,
    steps: Sequence[Step],
    actor: Actor,
    *,
    is_new: bool,
) -> None:
    lease = Lease(executor.store, executor.owner, executor.lease_seconds, exclusive=True)
    execution = RollBackExecution(executor, run, lease, wanted, steps, actor)
    begin = AuditEvent.by(
        actor,
        EventType.RUN_ROLLING_BACK if is_new else EventType.RUN_RESUMED,
        clock.utc_now(),
        run_id=run.run_id,
        failure_key=run.failure.key if run.failure else None,
        note=wanted.note if is_new else None,
        payload=wanted.payload() if is_new else {"rolling_back": True, "executor": executor.owner},
    )
    first = execution.next_attempt()
    if first is None:  # nothing to undo
        assert_idle(run)
        executor.store.commit(execution.change(execution.cancelled(run), events=(begin,)))
        return
    kept = run if not is_new else cleared(run).evolve(takeovers=0)
    after = kept.evolve(
        cleared_until=None,
        in_flight=(intent_of(first),),
        takeovers=kept.takeovers + (not is_new and interrupted_step(run) is not None),
        retry_at=run.retry_at if run.is_interrupted and not is_new else None,
    )
    execution.run = lease.take(RunChange(before=run, after=after, events=(begin,)))
    with lease.heartbeat(execution.run):
        execution.work(first)


class RollBackExecution(RunExecution):
    """Execute compensations as steps: recorded, fenced and retried like them.

    One that fails for good closes a gate, whatever its error: nobody may take the run for undone. The last
    one commits together with the cancellation.
    """

    def __init__(
        self,
        executor: Executor,
        run: RunSummary,
        lease: Lease,
        wanted: RollBack,
        steps: Sequence[Step],
        actor: Actor,
    ) -> None:
        super().__init__(executor.store, run, lease, executor.rules)
        self._wanted = wanted
        self._steps = steps
        self._actor = actor
        done = {
            record.step_index
            for record in executor.store.iter_steps(run.run_id, completed_only=True)
            if record.kind is StepKind.COMPENSATION and record.sequence >= wanted.since
        }
        self._left = [undoing for undoing in wanted.undone if undoing.step_index not in done]
        self._tried: dict[str, int] = {}
        if run.retry_at is None:
            self._tried = {step.step_name: step.attempt for step in run.in_flight}
            if run.failure is not None:
                self._tried[run.failure.step_name] = run.failure.attempts
        refuse_coroutines(self._as_step(undoing, undoing.step_name) for undoing in self._left)

    def work(self, first: StepRecord) -> None:
        """Execute one compensation after the other, beginning with the attempt `first`."""
        attempt: StepRecord | None = first
        self.await_retry(first)
        while attempt is not None:
            step = self._as_step(self._left[0], attempt.step_name)
            attempt = self.call(step, attempt, self._following)[1]

    def _following(self, _: StepRecord) -> StepRecord | None:
        del self._left[0]
        return self.next_attempt()

    def next_attempt(self) -> StepRecord | None:
        """Return the attempt at the next compensation; None when nothing is left to undo."""
        if not self._left:
            return None
        undoing = self._left[0]
        state = self._state_of(undoing)
        name = compensation.name_of(
            self._store, self.run.run_id, undoing.step_name, undoing.step_index, state, self._wanted.since
        )
        return self.prepare(self._as_step(undoing, name), undoing.step_index, state)

    def after(self, record: StepRecord) -> RunSummary:
        """Return the run once a compensation is recorded: going on, failed with its gates, or cancelled."""
        moved = self.run.evolve(next_sequence=record.sequence + 1, updated_at=record.timestamp)
        if record.is_completed:
            running = cleared(moved).evolve(status=RunStatus.RUNNING, takeovers=0)
            return running if self._left else self.cancelled(running)
        before = self.run.failure
        again = before is not None and before.step_name == record.step_name
        actions = required_actions(FailureClassification.PERMANENT, moved.environment)
        return moved.evolve(
            status=RunStatus.FAILED,
            retry_at=None,
            failure=failure_of(record, attempts=before.attempts + 1 if before and again else 1),
            blocked_by=actions,
            blocked_since=record.timestamp,
            cleared_by=None,
            cleared_at=None,
            cleared_until=None,
        )

    def _attempts_before(self, failed: StepRecord) -> int:
        # By name: before its compensation the step itself may have failed, at the same index.
        return self._tried.get(failed.step_name, 0)

    def given_up(self, failed: StepRecord) -> StepRecord:
        """Return the record of a compensation that failed for good: a person must look, always."""
        failed.failure_classification = FailureClassification.PERMANENT
        failed.classified_by = f"a compensation failed ({failed.classified_by})"[:255]
        return failed

    def change(
        self, after: RunSummary, record: StepRecord | None = None, events: tuple[AuditEvent, ...] = ()
    ) -> RunChange:
        """Return the change to `after`; with the event when it ends the rollback."""
        change = super().change(after, record)
        if after.status is not RunStatus.CANCELLED:
            return change
        rolled_back = AuditEvent.by(
            self._actor,
            EventType.RUN_ROLLED_BACK,
            after.updated_at,
            run_id=after.run_id,
            note=self._wanted.note,
            payload=self._wanted.payload(),
        )
        return RunChange(before=change.before, after=after, record=record, events=(*events, rolled_back))

    def cancelled(self, run: RunSummary) -> RunSummary:
        """Return the run with everything undone."""
        return finished(run, RunStatus.CANCELLED, clock.utc_now())

    def _as_step(self, undoing: Undoing, name: str) -> Step:
        index = undoing.step_index
        step = compensation.step_at(self.run.run_id, self._steps, index, undoing.step_name)
        return compensation.as_step(step, index, name)

    def _state_of(self, undoing: Undoing) -> dict[str, Any]:
        """Return what a compensation is given: the state its step left behind."""
        if undoing.sequence is None:
            return input_in_doubt(self._store, self.run.run_id, undoing)
        record = self._store.load_step(self.run.run_id, undoing.sequence)
        assert record is not None  # the plan names records that are there, and nothing removes one
        return record.input_data | (record.output_data or {})

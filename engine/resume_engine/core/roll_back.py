"""Roll a run back: what its steps did is undone in reverse order, each on record; then it is cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resume_engine.core import clock, compensation
from resume_engine.core import roll_back_rules as rules
from resume_engine.core.actor import Actor
from resume_engine.core.async_bridge import refuse_coroutines
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.decisions import assert_policy
from resume_engine.core.errors import RunFinishedError
from resume_engine.core.execution import RunExecution, assert_open, intent_of
from resume_engine.core.gate_closing import closed_in_time
from resume_engine.core.interruption import assert_may_continue
from resume_engine.core.lease import Lease, assert_idle
from resume_engine.core.roll_back_plan import RollBack, Undoing, begun, planned
from resume_engine.core.run import FINISHED_STATUSES, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step import Step
from resume_engine.core.step_record import FailureClassification, StepRecord

if TYPE_CHECKING:
    from resume_engine.core.executor import Executor
    from resume_engine.core.store import CheckpointStore


def roll_back(executor: Executor, run_id: str, steps: Sequence[Step], actor: Actor, note: str) -> None:
    """Undo what a run did, or go on with that; a run that was rolled back already stays as it is."""
    request = rules.checked_request(run_id, actor, note)
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

    def has_compensation(undoing: Undoing) -> bool:
        step = compensation.step_at(run_id, steps, undoing.step_index, undoing.step_name)
        return step.compensate is not None

    wanted = planned(executor.store, run, has_compensation, requested_by=actor.name, note=note)
    _work(executor, run, wanted, steps, actor, is_new=True)


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
    left = list(wanted.undone) if is_new else rules.left_of(run, wanted)
    execution = RollBackExecution(executor, run, lease, wanted, left, steps, actor)
    at = clock.utc_now()
    begin = (
        rules.begin_event(actor, run, wanted, at)
        if is_new
        else rules.resumed_event(actor, run, executor.owner, at)
    )
    first = execution.next_attempt()
    if first is None:  # nothing to undo
        assert_idle(run)
        executor.store.commit(execution.change(rules.cancelled(run, at), events=(begin,)))
        return
    after = rules.taken(run, intent_of(first), is_new=is_new)
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
        left: list[Undoing],
        steps: Sequence[Step],
        actor: Actor,
    ) -> None:
        super().__init__(executor.store, run, lease, executor.rules)
        self._wanted = wanted
        self._left = left
        self._steps = steps
        self._actor = actor
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
        name, state = rules.given_to(self._store, self.run.run_id, undoing, self._wanted.since)
        return self.prepare(self._as_step(undoing, name), undoing.step_index, state)

    def after(self, record: StepRecord) -> RunSummary:
        """Return the run once a compensation is recorded."""
        return rules.after_undoing(self.run, record, is_last=not self._left)

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
        rolled_back = rules.end_event(self._actor, after.run_id, self._wanted, after.updated_at)
        return RunChange(before=change.before, after=after, record=record, events=(*events, rolled_back))

    def _as_step(self, undoing: Undoing, name: str) -> Step:
        index = undoing.step_index
        step = compensation.step_at(self.run.run_id, self._steps, index, undoing.step_name)
        return compensation.as_step(step, index, name)

"""One executor: takes runs, works on them, lets go of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from resume_engine.core import clock, roll_back, workflow
from resume_engine.core.actor import ENGINE_ACTOR, Actor, Channel
from resume_engine.core.async_bridge import refuse_coroutines
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.errors import (
    InvalidValueError,
    LeaseLostError,
    RemoteTooLargeError,
    ReplayDivergenceError,
    RunBusyError,
    RunNotFoundError,
    StaleRunError,
)
from resume_engine.core.execution import RunExecution, assert_open, intent_of
from resume_engine.core.failure_classifier import FailureRule
from resume_engine.core.gate_closing import closed_in_time
from resume_engine.core.interruption import assert_may_continue, interrupted_step, step_in_doubt
from resume_engine.core.lease import Lease, assert_idle, is_held_as, without_dead_owner
from resume_engine.core.permissions import Role
from resume_engine.core.policy import NO_POLICY, Policy
from resume_engine.core.roll_back_plan import assert_none_under_way, under_way
from resume_engine.core.run import FINISHED_STATUSES, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary, finished
from resume_engine.core.step import Step
from resume_engine.core.step_record import StepRecord
from resume_engine.core.store import CheckpointStore

RUN_BLOCK_STEP = "__run__"
"""Name under which a failure outside every step is recorded."""
_ROUNDS = 50  # against parallel branches of this executor that change the same run


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What a caller gives beside the steps when a workflow is executed or resumed."""

    initial_input: dict[str, Any] | None = None
    start_index: int | None = None
    actor: Actor | None = None
    allow_workflow_change: bool = False
    allow_input_change: bool = False
    if_version: int | None = None  # go on only while the run is still as it was when it was chosen


@dataclass(frozen=True)
class Executor:
    """Execute runs of one store under one name."""

    store: CheckpointStore
    owner: str
    lease_seconds: float
    rules: Sequence[FailureRule] = field(default=())
    policy: Policy = NO_POLICY

    def advance(self, run_id: str, steps: Sequence[Step], given: Continuation) -> None:
        """Execute what is left of a workflow; raise what its failing step raised, or why it may not go on."""
        refuse_coroutines(steps)
        run = self.require(run_id)
        if given.if_version not in (None, run.version):
            raise StaleRunError(run_id, f"version {given.if_version}", f"version {run.version}")
        if run.status is RunStatus.COMPLETED:
            return
        actor = given.actor or self.actor()
        run = closed_in_time(self.store, run, actor)
        assert_open(run, RUN_BLOCK_STEP)
        begun = under_way(self.store, run)
        if begun is not None:
            roll_back.go_on(self, run, begun, steps, actor)
            return
        plan = workflow.plan(self.store, run, steps, given)
        lease = Lease(self.store, self.owner, self.lease_seconds, exclusive=True)
        execution = RunExecution(self.store, run, lease, self.rules)
        first = workflow.first_attempt(execution, plan)
        if run.is_interrupted:
            step = steps[first.step_index] if first is not None else None
            assert_may_continue(self.store, run, step, actor)
        doubt = step_in_doubt(run)
        # With an input that was changed by name it is another attempt: nobody knows of its key.
        doubtful = doubt is not None and first is not None and doubt.idempotency_key == first.idempotency_key
        # Planning takes time, and decisions may end meanwhile.
        assert_open(closed_in_time(self.store, run, actor), RUN_BLOCK_STEP)
        execution.run = lease.take(self._claim(run, plan, first, actor))
        with lease.heartbeat(execution.run):
            self._walk(execution, plan, first, in_doubt=doubtful)
        assert_open(execution.run, RUN_BLOCK_STEP)
        self._complete_exclusively(execution.run)

    def step(
        self, run_id: str, step: Step, index: int, input_data: dict[str, Any], *, replay_mode: bool = False
    ) -> StepRecord:
        """Execute one step, or return its record when it was completed with this input before."""
        refuse_coroutines([step])
        lease = Lease(self.store, self.owner, self.lease_seconds, exclusive=False)
        run = self.require(run_id)
        execution = RunExecution(self.store, run, lease, self.rules)
        attempt = execution.prepare(step, index, input_data)
        recorded = self.store.get_step_by_idempotency_key(attempt.idempotency_key)
        if recorded is not None:
            return recorded
        if replay_mode:
            raise ReplayDivergenceError(run_id, index, step.name, "no completed record has this input")
        execution.run = self._begin(lease, run, step, attempt)
        with lease.heartbeat(execution.run):
            return execution.call(step, attempt)[0]

    def _walk(
        self, execution: RunExecution, plan: workflow.Plan, first: StepRecord | None, *, in_doubt: bool
    ) -> None:
        try:
            workflow.walk(execution, plan, first, in_doubt=in_doubt)
        except RemoteTooLargeError as refused:
            run = execution.run
            if run.status is RunStatus.RUNNING and not run.in_flight:  # a step could not begin
                execution.record_failure(RUN_BLOCK_STEP, run.resume_from_index, refused)
            raise

    def complete(self, run: RunSummary) -> None:
        """Mark a run as completed, with its event."""
        at = clock.utc_now()
        after = completed(run, at)
        event = AuditEvent.by(self.actor(), EventType.RUN_COMPLETED, at, run_id=run.run_id)
        self.store.commit(RunChange(before=run, after=after, events=(event,)))

    def fail_outside_steps(self, run_id: str, exc: Exception) -> None:
        """Record that a run driven step by step was left by an exception.

        Not one that says that the run is somebody else's: to that nothing is written.
        """
        if isinstance(exc, StaleRunError | RunBusyError):
            return
        run = self.require(run_id)
        if run.status in FINISHED_STATUSES or run.failure is not None:
            return  # the step that raised has recorded it
        lease = Lease(self.store, self.owner, self.lease_seconds, exclusive=False)
        execution = RunExecution(self.store, run, lease, self.rules)
        execution.record_failure(RUN_BLOCK_STEP, run.resume_from_index, exc)

    def require(self, run_id: str) -> RunSummary:
        """Return the run; raise `RunNotFoundError`."""
        run = self.store.load_summary(run_id)
        if run is None:
            raise RunNotFoundError(run_id)
        return without_dead_owner(run)

    def actor(self, role: Role = ENGINE_ACTOR.role) -> Actor:
        """Return this executor as an actor."""
        return Actor(name=self.owner, role=role, channel=Channel.LIBRARY)

    def _claim(
        self, run: RunSummary, plan: workflow.Plan, first: StepRecord | None, actor: Actor
    ) -> RunChange:
        in_flight = interrupted_step(run)
        after = run.evolve(
            steps_total=len(plan.steps),
            initial_input_hash=plan.initial_input_hash,
            workflow_hash=plan.workflow_hash,
            in_flight=() if first is None else (intent_of(first),),
            takeovers=run.takeovers + (in_flight is not None),
            retry_at=run.retry_at if run.is_interrupted else None,  # the rest of the wait is kept
            cleared_until=None,  # what was decided is used now
        )
        return RunChange(
            before=run,
            after=after,
            events=tuple(self._claim_events(run, plan, actor)),
            initial_input=plan.initial_input if plan.initial_input_hash != run.initial_input_hash else None,
            workflow=plan.names if plan.workflow_hash != run.workflow_hash else None,
        )

    def _claim_events(self, run: RunSummary, plan: workflow.Plan, actor: Actor) -> list[AuditEvent]:
        at = clock.utc_now()
        events = [
            AuditEvent.by(actor, kind, at, run_id=run.run_id, payload=payload)
            for kind, payload in plan.changes
        ]
        if run.next_sequence or run.lease_token:
            events.append(self._resumed(run, plan.first_index, actor))
        return events

    def _resumed(self, run: RunSummary, index: int, actor: Actor) -> AuditEvent:
        payload: dict[str, Any] = {"resume_from_index": index, "executor": self.owner}
        in_flight = interrupted_step(run)
        if in_flight is not None:
            payload["interrupted"] = {
                "step_index": in_flight.step_index,
                "step_name": in_flight.step_name,
                "since": in_flight.since.isoformat(),
                "executor": run.lease_owner,
            }
        return AuditEvent.by(
            actor,
            EventType.RUN_RESUMED,
            clock.utc_now(),
            run_id=run.run_id,
            failure_key=run.failure.key if run.failure else None,
            payload=payload,
        )

    def _begin(self, lease: Lease, run: RunSummary, step: Step, attempt: StepRecord) -> RunSummary:
        """Write the intent of a single step; branches of this executor may be doing the same."""
        for _ in range(_ROUNDS):
            run = closed_in_time(self.store, run, self.actor())
            assert_open(run, step.name)
            assert_none_under_way(self.store, run)
            shared = lease.shares(run)
            if not shared and not run.blocked_by:
                assert_may_continue_step(self.store, run, step, attempt, self.actor())
            lost = interrupted_step(run)
            others = tuple(s for s in run.in_flight if s.idempotency_key != attempt.idempotency_key)
            after = run.evolve(
                in_flight=(*(others if shared else ()), intent_of(attempt)),
                takeovers=run.takeovers + (lost is not None),
                cleared_until=run.cleared_until if run.blocked_by else None,
            )
            events = () if lost is None else (self._resumed(run, attempt.step_index, self.actor()),)
            # Behind a closed gate only a compensation gets here, and it opens nothing by itself.
            status = run.status if run.blocked_by else RunStatus.RUNNING
            try:
                return lease.take(RunChange(before=run, after=after, events=events), status)
            except LeaseLostError:
                raise
            except StaleRunError:
                run = self.require(run.run_id)
        raise StaleRunError(run.run_id, "a quiet moment", f"{_ROUNDS} changes by others")

    def _complete_exclusively(self, run: RunSummary) -> None:
        for _ in range(_ROUNDS):
            try:
                return self.complete(run)
            except StaleRunError as stale:
                current = self.store.load_summary(run.run_id)
                if current is None or not is_held_as(run, current):
                    held_by = current.lease_owner if current is not None else None
                    raise LeaseLostError(run.run_id, self.owner, held_by) from stale
                run = current
        raise StaleRunError(run.run_id, "a quiet moment", f"{_ROUNDS} changes by others")


def completed(run: RunSummary, at: datetime) -> RunSummary:
    """Return the run as completed at the moment `at`."""
    return finished(run, RunStatus.COMPLETED, at)


def assert_may_complete(run: RunSummary) -> None:
    """Raise unless a run that is driven step by step may be completed: nobody at work, nothing open."""
    assert_open(run, RUN_BLOCK_STEP)
    assert_idle(run)
    in_doubt = interrupted_step(run)
    if in_doubt is not None:
        raise InvalidValueError(
            "run_id",
            f"the executor of run {run.run_id} vanished in step {in_doubt.step_index}; "
            "resume it before completing it",
        )
    if run.failure is not None and run.failure.step_name != RUN_BLOCK_STEP:
        raise InvalidValueError(
            "run_id",
            f"run {run.run_id} failed at step {run.failure.step_index}; resume it before completing it",
        )


def assert_may_continue_step(
    store: CheckpointStore, run: RunSummary, step: Step, attempt: StepRecord, actor: Actor
) -> None:
    """Apply the rules for interrupted runs to a run that is driven step by step."""
    in_flight = interrupted_step(run)
    same = in_flight is not None and in_flight.step_name == attempt.step_name
    assert_may_continue(store, run, step if same else None, actor)

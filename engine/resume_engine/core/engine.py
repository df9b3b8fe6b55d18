"""The engine: start, execute, resume, decide, replay."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from resume_engine.core import clock, replay, workflow
from resume_engine.core.actor import ENGINE_ACTOR, Actor, Channel
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.decisions import (
    Decision,
    DecisionKind,
    DecisionRequest,
    check_request,
    decide,
    parse_decision_kind,
)
from resume_engine.core.errors import (
    InvalidValueError,
    NothingToDecideError,
    ReplayDivergenceError,
    RunNotFoundError,
)
from resume_engine.core.execution import RunExecution, assert_idle, assert_open
from resume_engine.core.idempotency import generate_idempotency_key, generate_run_id, hash_input
from resume_engine.core.lease import Lease, check_lease_seconds, lease_seconds_from_environment
from resume_engine.core.permissions import Role
from resume_engine.core.resume_gates import GateAction, ResumeBlocker
from resume_engine.core.run import FINISHED_STATUSES, Environment, Run, RunStatus, trace_lines
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import Failure, RunSummary, blockers_of, cleared
from resume_engine.core.step import Step, StepCallable, StepLike, as_steps, check_text
from resume_engine.core.step_record import COMPENSATION_PREFIX, StepRecord
from resume_engine.core.store import CheckpointStore

RUN_BLOCK_STEP = "__run__"
"""Name under which a failure outside every step is recorded."""


class ResumeEngine:
    """Run workflows whose completed steps never run again.

    `lease_seconds` is how long a vanished executor keeps its run (default: `RESUME_ENGINE_LEASE_SECONDS`
    or 30); `owner` names this executor in records (default: host:pid and a nonce).
    """

    def __init__(
        self, store: CheckpointStore, *, lease_seconds: float | None = None, owner: str | None = None
    ) -> None:
        self._store = store
        self._lease_seconds = (
            lease_seconds_from_environment()
            if lease_seconds is None
            else check_lease_seconds("lease_seconds", lease_seconds)
        )
        self._owner = check_text("owner", owner or _default_owner(), 255)

    @property
    def store(self) -> CheckpointStore:
        """Return the store the engine writes to."""
        return self._store

    @property
    def owner(self) -> str:
        """Return the name of this executor."""
        return self._owner

    # Runs

    def start_run(
        self,
        workflow_name: str,
        *,
        run_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        environment: str | Environment | None = None,
        actor: Actor | None = None,
    ) -> Run:
        """Create a run and write it.

        `environment` is dev, staging or prod; `metadata["environment"]` counts too, default dev.
        Raises `UnknownEnvironmentError`, `RunExistsError`, `InvalidValueError`.
        """
        chosen_id = generate_run_id() if run_id is None else run_id
        run = workflow.new_run(workflow_name, chosen_id, metadata, environment)
        self._store.create_run(run, actor=actor or self._actor())
        return run

    @contextmanager
    def run(
        self,
        workflow_name: str,
        *,
        run_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        environment: str | Environment | None = None,
    ) -> Iterator[Run]:
        """Start a run that is driven step by step; complete it at the end, fail it on an exception."""
        run = self.start_run(workflow_name, run_id=run_id, metadata=metadata, environment=environment)
        try:
            yield run
        except Exception as exc:
            self._fail_outside_steps(run.run_id, exc)
            raise
        self.complete_run(run.run_id)

    def complete_run(self, run_id: str) -> Run:
        """Mark a run as completed; a run that is completed already stays as it is.

        Raises `ResumeBlockedError` while a gate is closed, `RunFinishedError` on a cancelled run,
        `RunBusyError` while an executor works on it, `InvalidValueError` while the failure of a step is
        not mended.
        """
        run = self._require(run_id)
        if run.status is not RunStatus.COMPLETED:
            assert_open(run, RUN_BLOCK_STEP)
            assert_idle(run)
            if run.failure is not None and run.failure.step_name != RUN_BLOCK_STEP:
                raise InvalidValueError(
                    "run_id",
                    f"run {run_id} failed at step {run.failure.step_index}; resume it before completing it",
                )
            self._complete(run)
        return self._full(run_id)

    def get_run_status(self, run_id: str) -> Run | None:
        """Return a run with its records, or None."""
        return self._store.get_run(run_id)

    def get_audit_log(self, run_id: str) -> str:
        """Return the deterministic audit trace; raise `RunNotFoundError`."""
        run = self._require(run_id)
        return "\n".join(trace_lines(run_id, run.workflow_name, self._store.iter_steps(run_id)))

    # Steps

    def execute_step(
        self,
        run_id: str,
        step_name: str,
        step_index: int,
        input_data: dict[str, Any],
        step_fn: StepCallable,
        *,
        replay_mode: bool = False,
    ) -> StepRecord:
        """Execute one step, or return its record when it was completed with this input before.

        `step_fn(input, idempotency_key)` returns a dict. With `replay_mode` it is never called: a step
        without a record raises `ReplayDivergenceError`. A failure is recorded, then raised again. Raises
        `ResumeBlockedError` while a gate is closed, `RunBusyError` while an executor works on the run.
        """
        run = self._require(run_id)
        execution = RunExecution(self._store, run, worker=self._owner)
        attempt = execution.prepare(step_name, step_index, input_data)
        recorded = self._store.get_step_by_idempotency_key(attempt.idempotency_key)
        if recorded is not None:
            return recorded
        if replay_mode:
            raise ReplayDivergenceError(run_id, step_index, step_name, "no completed record has this input")
        assert_idle(run)
        return execution.execute(step_name, step_index, input_data, step_fn)

    def execute_workflow(
        self,
        run_id: str,
        steps: Iterable[StepLike],
        *,
        initial_input: dict[str, Any] | None = None,
        start_index: int = 0,
        replay_mode: bool = False,
        inject_failure_at: int | None = None,
    ) -> Run:
        """Execute steps in order from `start_index`; steps with a completed record are not run again.

        The state is `initial_input` merged with each output in order. `inject_failure_at` makes the step
        at that index fail as transient (for tests and demos). Raises what the failing step raised.
        """
        planned = as_steps(steps)
        if replay_mode:
            return replay.replay(self._store, self._require(run_id), planned, initial_input)[0]
        if inject_failure_at is not None:
            planned = workflow.with_injected_failure(planned, inject_failure_at)
        return self._advance(run_id, planned, initial_input, start_index)

    def resume(
        self,
        run_id: str,
        steps: Iterable[StepLike],
        *,
        initial_input: dict[str, Any] | None = None,
        replay_mode: bool = False,
        actor: Actor | None = None,
    ) -> Run:
        """Continue a run at the first step without a completed record, with the state it had there.

        Raises `ResumeBlockedError` while a gate is closed, `WorkflowMismatchError` when `steps` are not
        those of the record, `InputMismatchError`, `RunBusyError`, `RunFinishedError` on a cancelled run.
        A completed run is returned as it is.
        """
        planned = as_steps(steps)
        if replay_mode:
            return replay.replay(self._store, self._require(run_id), planned, initial_input)[0]
        return self._advance(run_id, planned, initial_input, None, actor=actor)

    def replay_run(
        self, run_id: str, steps: Iterable[StepLike], *, initial_input: dict[str, Any] | None = None
    ) -> tuple[Run, str]:
        """Walk the workflow against the record without calling a step; return run and audit trace.

        Writes nothing. Raises `ReplayDivergenceError` at the first step that differs.
        """
        return replay.replay(self._store, self._require(run_id), as_steps(steps), initial_input)

    # Gates

    def get_resume_blockers(self, run_id: str) -> list[ResumeBlocker]:
        """Return the decisions that are missing before the run may go on."""
        return blockers_of(self._require(run_id))

    def decide(
        self,
        run_id: str,
        kind: DecisionKind | str,
        actor: Actor,
        *,
        failure_key: str | None = None,
        note: str | None = None,
        result: dict[str, Any] | None = None,
    ) -> Decision:
        """Record a decision about the current failure (or the one shown, by `failure_key`)."""
        request = DecisionRequest(
            run_id=run_id,
            kind=parse_decision_kind(kind),
            actor=actor,
            failure_key=failure_key,
            note=note,
            result=result,
        )
        return decide(self._store, request)[1]

    def grant_human_approval(self, run_id: str, approved_by: str, *, note: str | None = None) -> Run:
        """Approve that the step of a permanent failure runs again."""
        self.decide(run_id, DecisionKind.HUMAN_APPROVAL, self._person(approved_by), note=note)
        return self._full(run_id)

    def ack_prod_resume(self, run_id: str, acknowledged_by: str, *, note: str | None = None) -> Run:
        """Acknowledge that a run in prod is resumed, whatever its failure was."""
        self.decide(run_id, DecisionKind.PROD_RESUME_ACK, self._person(acknowledged_by), note=note)
        return self._full(run_id)

    def record_compensation(
        self, run_id: str, *, result: dict[str, Any] | None = None, note: str | None = None
    ) -> Run:
        """Record that the side effects of a partial failure were undone outside the engine."""
        self.decide(run_id, DecisionKind.COMPENSATION, self._actor(Role.OPERATOR), result=result, note=note)
        return self._full(run_id)

    def reject_run(self, run_id: str, rejected_by: str, *, note: str) -> Run:
        """Cancel a failed run for good; `note` is the reason."""
        self.decide(run_id, DecisionKind.REJECT, self._person(rejected_by), note=note)
        return self._full(run_id)

    def execute_compensation(
        self, run_id: str, fn: StepCallable, *, input_data: dict[str, Any] | None = None
    ) -> StepRecord:
        """Run a compensation for the current partial failure, record it and open its gate.

        `fn(input, idempotency_key)` gets the failed attempt's input unless `input_data` is given.
        A compensation that completed for this failure event is not run again.
        """
        run = self._require(run_id)
        if run.failure is None or GateAction.COMPENSATION not in run.blocked_by:
            raise NothingToDecideError(run_id, DecisionKind.COMPENSATION, "no partial failure waits for it")
        if input_data is None:
            failed = self._store.load_step(run_id, run.failure.sequence)
            input_data = failed.input_data if failed else {}
        request = DecisionRequest(
            run_id=run_id,
            kind=DecisionKind.COMPENSATION,
            actor=self._actor(Role.OPERATOR),
            failure_key=run.failure.key,
        )
        check_request(request)
        record = self._compensate(run.run_id, run.failure, input_data, fn)
        decide(self._store, replace(request, result=record.output_data, step_sequence=record.sequence))
        return record

    # Inside

    def _advance(
        self,
        run_id: str,
        steps: Sequence[Step],
        initial_input: dict[str, Any] | None,
        start_index: int | None,
        *,
        actor: Actor | None = None,
    ) -> Run:
        run = self._require(run_id)
        if run.status is RunStatus.COMPLETED:
            return self._full(run_id)
        assert_open(run, RUN_BLOCK_STEP)
        plan = workflow.plan(self._store, run, steps, initial_input, start_index)
        lease = Lease(self._store, self._owner, self._lease_seconds)
        event = self._resumed_event(run, plan, actor) if run.next_sequence else None
        held = lease.take(run, steps_total=len(steps), initial_input=plan.initial_input, event=event)
        execution = RunExecution(self._store, held, worker=self._owner, extend=lease.extend)
        with lease.heartbeat(held):
            workflow.walk(execution, plan)
        assert_open(execution.run, RUN_BLOCK_STEP)
        self._complete(execution.run)
        return self._full(run_id)

    def _compensate(
        self, run_id: str, failure: Failure, input_data: dict[str, Any], fn: StepCallable
    ) -> StepRecord:
        name = f"{COMPENSATION_PREFIX}{failure.step_name}"[:255]
        key = generate_idempotency_key(run_id, name, failure.step_index, hash_input(input_data))
        earlier = self._store.get_step_by_idempotency_key(key)
        if earlier is not None and earlier.sequence < failure.sequence:
            # It undid an earlier failure of this step with this input; the new one needs a key of its own.
            suffix = f"#{failure.sequence}"
            name = name[: 255 - len(suffix)] + suffix
        return self.execute_step(run_id, name, failure.step_index, input_data, fn)

    def _resumed_event(self, run: RunSummary, plan: workflow.Plan, actor: Actor | None) -> AuditEvent:
        return AuditEvent.by(
            actor or self._actor(),
            EventType.RUN_RESUMED,
            clock.utc_now(),
            run_id=run.run_id,
            failure_key=run.failure.key if run.failure else None,
            payload={"resume_from_index": plan.first_index, "executor": self._owner},
        )

    def _complete(self, run: RunSummary) -> None:
        at = clock.utc_now()
        after = replace(
            cleared(run),
            status=RunStatus.COMPLETED,
            updated_at=at,
            finished_at=at,
            lease_owner=None,
            lease_expires_at=None,
        )
        event = AuditEvent.by(self._actor(), EventType.RUN_COMPLETED, at, run_id=run.run_id)
        self._store.commit(RunChange(before=run, after=after, events=(event,)))

    def _fail_outside_steps(self, run_id: str, exc: Exception) -> None:
        run = self._require(run_id)
        if run.status in FINISHED_STATUSES or run.failure is not None:
            return  # the step that raised has recorded it
        execution = RunExecution(self._store, run, worker=self._owner)
        execution.record_failure(RUN_BLOCK_STEP, run.resume_from_index, {}, exc)

    def _require(self, run_id: str) -> RunSummary:
        run = self._store.load_summary(run_id)
        if run is None:
            raise RunNotFoundError(run_id)
        return run

    def _full(self, run_id: str) -> Run:
        run = self._store.get_run(run_id)
        if run is None:
            raise RunNotFoundError(run_id)
        return run

    def _actor(self, role: Role = ENGINE_ACTOR.role) -> Actor:
        return Actor(name=self._owner, role=role, channel=Channel.LIBRARY)

    @staticmethod
    def _person(name: str) -> Actor:
        return Actor(name=name, role=Role.OPERATOR, channel=Channel.LIBRARY)


def _default_owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"

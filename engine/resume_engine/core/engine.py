"""The engine: start, execute, resume, decide, replay."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from resume_engine.core import compensation, replay, roll_back, workflow
from resume_engine.core.actor import Actor, Channel
from resume_engine.core.async_bridge import awaitable
from resume_engine.core.decisions import (
    Decision,
    DecisionKind,
    DecisionRequest,
    decide,
    parse_decision_kind,
)
from resume_engine.core.errors import InvalidValueError, RunNotFoundError
from resume_engine.core.executor import Continuation, Executor, assert_may_complete
from resume_engine.core.failure_classifier import FailureRule
from resume_engine.core.gate_closing import closed_in_time
from resume_engine.core.gate_progress import blockers_now, counts_people
from resume_engine.core.idempotency import generate_run_id
from resume_engine.core.lease import check_lease_seconds, lease_seconds_from_environment
from resume_engine.core.permissions import Role
from resume_engine.core.policy import Policy
from resume_engine.core.policy_file import policy_from_environment
from resume_engine.core.process_identity import new_owner
from resume_engine.core.resume_gates import ResumeBlocker
from resume_engine.core.run import Environment, Run, RunStatus, trace_lines
from resume_engine.core.step import Step, StepCallable, StepLike, as_steps, check_text
from resume_engine.core.step_record import StepRecord
from resume_engine.core.store import CheckpointStore


class ResumeEngine:
    """Run workflows whose completed steps never run again.

    `lease_seconds` is how long a vanished executor keeps its run (default: `RESUME_ENGINE_LEASE_SECONDS`
    or 30); `owner` names this executor in records (default: host, process and a nonce); `rules` classify
    failures before the built-in rules do. `policy` says who may decide what (default: the file that
    `RESUME_ENGINE_POLICY` names, else operators and admins, each alone).
    """

    def __init__(
        self,
        store: CheckpointStore,
        *,
        lease_seconds: float | None = None,
        owner: str | None = None,
        rules: Sequence[FailureRule] = (),
        policy: Policy | None = None,
    ) -> None:
        self._store = store
        self._lease_seconds = (
            lease_seconds_from_environment()
            if lease_seconds is None
            else check_lease_seconds("lease_seconds", lease_seconds)
        )
        self._named = None if owner is None else check_text("owner", owner, 255)
        self._rules = tuple(rules)
        self.policy = policy_from_environment() if policy is None else policy
        self._current = (os.getpid(), self._new_executor())

    @property
    def store(self) -> CheckpointStore:
        """Return the store the engine writes to."""
        return self._store

    @property
    def owner(self) -> str:
        """Return the name of this executor."""
        return self._executor.owner

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
        self._store.create_run(run, actor=actor or self._executor.actor())
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
            self._executor.fail_outside_steps(run.run_id, exc)
            raise
        self.complete_run(run.run_id)

    @counts_people
    def complete_run(self, run_id: str) -> Run:
        """Mark a run as completed; a run that is completed already stays as it is.

        Raises `ResumeBlockedError` while a gate is closed, `RunFinishedError` on a cancelled run,
        `RunBusyError` while an executor works on it, `InvalidValueError` while the failure of a step is
        not mended.
        """
        run = self._executor.require(run_id)
        if run.status is not RunStatus.COMPLETED:
            run = closed_in_time(self._store, run, self._executor.actor())
            assert_may_complete(run)
            self._executor.complete(run)
        return self._full(run_id)

    def get_run_status(self, run_id: str) -> Run | None:
        """Return a run with its records, or None."""
        return self._store.get_run(run_id)

    def get_audit_log(self, run_id: str) -> str:
        """Return the deterministic audit trace; raise `RunNotFoundError`."""
        run = self._executor.require(run_id)
        return "\n".join(trace_lines(run_id, run.workflow_name, self._store.iter_steps(run_id)))

    # Steps

    @counts_people
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
        step = Step(step_name, step_fn)
        return self._executor.step(run_id, step, step_index, input_data, replay_mode=replay_mode)

    @counts_people
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
            return replay.replay(self._store, self._executor.require(run_id), planned, initial_input)[0]
        if inject_failure_at is not None:
            planned = workflow.with_injected_failure(planned, inject_failure_at)
        given = Continuation(initial_input=initial_input, start_index=start_index)
        self._executor.advance(run_id, planned, given)
        return self._full(run_id)

    @counts_people
    def resume(
        self,
        run_id: str,
        steps: Iterable[StepLike],
        *,
        initial_input: dict[str, Any] | None = None,
        replay_mode: bool = False,
        actor: Actor | None = None,
        allow_workflow_change: bool = False,
        allow_input_change: bool = False,
        if_version: int | None = None,
    ) -> Run:
        """Continue a run at the first step without a completed record, with the state it had there.

        Other steps or another initial input than the recorded ones are refused unless the caller allows
        the change by name; then it is an audit event. A run whose executor vanished is taken over once
        its lease has ended, at once when that was a process of this machine. A completed run is returned
        as it is. Raises `ResumeBlockedError` while a gate is closed, `RunBusyError` while an executor
        works on it, `WorkflowMismatchError`, `InputMismatchError`, `RunFinishedError` when cancelled,
        `StaleRunError` when `if_version` is given and the run has moved on from it.
        """
        planned = as_steps(steps)
        if replay_mode:
            return replay.replay(self._store, self._executor.require(run_id), planned, initial_input)[0]
        given = Continuation(
            initial_input=initial_input,
            actor=actor,
            allow_workflow_change=allow_workflow_change,
            allow_input_change=allow_input_change,
            if_version=if_version,
        )
        self._executor.advance(run_id, planned, given)
        return self._full(run_id)

    def replay_run(
        self, run_id: str, steps: Iterable[StepLike], *, initial_input: dict[str, Any] | None = None
    ) -> tuple[Run, str]:
        """Walk the workflow against the record without calling a step; return run and audit trace.

        Writes nothing. Raises `ReplayDivergenceError` at the first step that differs.
        """
        return replay.replay(self._store, self._executor.require(run_id), as_steps(steps), initial_input)

    # Gates

    def get_resume_blockers(self, run_id: str) -> list[ResumeBlocker]:
        """Return the decisions that are missing before the run may go on."""
        return blockers_now(self._store, self._executor.require(run_id), self.policy)

    def decide(
        self,
        run_id: str,
        kind: DecisionKind | str,
        actor: Actor,
        *,
        failure_key: str | None = None,
        note: str | None = None,
        result: dict[str, Any] | None = None,
        display_name: str | None = None,
    ) -> Decision:
        """Record a decision about the current failure (or the one shown, by `failure_key`).

        Where the policy asks for several people the gate stays closed until the last of them decides.
        """
        request = DecisionRequest(
            run_id=run_id,
            kind=parse_decision_kind(kind),
            actor=actor,
            failure_key=failure_key,
            note=note,
            result=result,
            display_name=display_name,
        )
        return decide(self._store, request, self.policy)[1]

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
        self.decide(
            run_id, DecisionKind.COMPENSATION, self._executor.actor(Role.OPERATOR), result=result, note=note
        )
        return self._full(run_id)

    def reject_run(self, run_id: str, rejected_by: str, *, note: str) -> Run:
        """Cancel a failed run for good; `note` is the reason."""
        self.decide(run_id, DecisionKind.REJECT, self._person(rejected_by), note=note)
        return self._full(run_id)

    @counts_people
    def execute_compensation(
        self,
        run_id: str,
        fn: StepCallable | None = None,
        *,
        steps: Iterable[StepLike] | None = None,
        input_data: dict[str, Any] | None = None,
        note: str | None = None,
    ) -> StepRecord:
        """Run a compensation for the current partial failure, record it and open its gate.

        Give either the function or the workflow's `steps`: then it is the `compensate` of the failed step.
        It gets the failed attempt's input unless `input_data` is given, and an idempotency key of its own.
        A compensation that completed for this failure event is not run again.
        """
        if fn is not None and steps is None:
            return compensation.compensate(self._executor, run_id, fn, input_data, note)
        if steps is not None and fn is None:
            return compensation.compensate(self._executor, run_id, as_steps(steps), input_data, note)
        raise InvalidValueError("fn", "give either the function or steps, not both")

    @counts_people
    def roll_back(
        self, run_id: str, steps: Iterable[StepLike], *, requested_by: str | Actor, note: str
    ) -> Run:
        """Undo what a run did, step by step in reverse order, then cancel it for good.

        Runs the `compensate` of every completed step, of one that failed as partial and of one whose outcome
        is unknown, each on record and once by key, with the state its step left behind. Closed gates are
        overruled: `requested_by` decides, `note` is the reason. After a crash, or when a compensation failed
        and its gate was opened, calling it again (or resuming) goes on where it stopped. Steps without
        `compensate` are listed in the event `run.rolled_back`.
        """
        actor = requested_by if isinstance(requested_by, Actor) else self._person(requested_by)
        roll_back.roll_back(self._executor, run_id, as_steps(steps), actor, note)
        return self._full(run_id)

    # To be awaited; steps may be coroutine functions then

    aexecute_step = awaitable(execute_step)
    aexecute_workflow = awaitable(execute_workflow)
    aresume = awaitable(resume)
    aexecute_compensation = awaitable(execute_compensation)
    aroll_back = awaitable(roll_back)

    # Inside

    @property
    def _executor(self) -> Executor:
        """Return the executor of this process; a forked child gets one of its own."""
        process, executor = self._current
        if process != os.getpid():
            executor = self._new_executor()
            self._current = (os.getpid(), executor)
        return executor

    def _new_executor(self) -> Executor:
        owner = self._named or new_owner()
        return Executor(self._store, owner, self._lease_seconds, self._rules, self.policy)

    def _full(self, run_id: str) -> Run:
        run = self._store.load_run(run_id)
        if run is None:
            raise RunNotFoundError(run_id)
        return run

    @staticmethod
    def _person(name: str) -> Actor:
        return Actor(name=name, role=Role.OPERATOR, channel=Channel.LIBRARY)

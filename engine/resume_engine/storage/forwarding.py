"""One run forwarded from the database of a machine to a control plane, in the order of its records.

The control plane is asked what it holds before anything is sent again, so a lost answer neither loses nor
doubles a record. It sees the run executed by `FORWARDER`, and judges failures and gates by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from resume_engine.core import clock
from resume_engine.core.actor import ENGINE_ACTOR
from resume_engine.core.adopted_decisions import adopt
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.decision import Decision
from resume_engine.core.errors import (
    AlreadyDecidedError,
    DecisionError,
    IdempotencyCollisionError,
    InvalidValueError,
    PayloadError,
    RemoteAccessError,
    RemoteTooLargeError,
    ResumeBlockedError,
    RunBusyError,
    RunExistsError,
    RunFinishedError,
    RunNotFoundError,
    StaleRunError,
    SyncConflictError,
)
from resume_engine.core.execution import intent_of
from resume_engine.core.executor import completed
from resume_engine.core.lease import LEASE_SECONDS_MAX
from resume_engine.core.outside_writes import is_same_write
from resume_engine.core.run import FINISHED_STATUSES, Run, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary, after_step, retrying
from resume_engine.core.step_record import FailureClassification, StepKind, StepRecord
from resume_engine.storage.derived_inputs import RunInputs
from resume_engine.storage.forwarding_marks import ForwardingMarks, Mark
from resume_engine.storage.remote_backend import RemoteCheckpointStore
from resume_engine.storage.sql_store import SqlCheckpointStore

FORWARDER = "outage buffer"
"""The executor that a control plane sees; who executed a record is known where it was made."""

_ROUNDS = 5  # against people who decide there meanwhile
_CONTRADICTIONS = (
    DecisionError,
    IdempotencyCollisionError,
    InvalidValueError,
    PayloadError,
    RemoteAccessError,
    RemoteTooLargeError,
    RunBusyError,
    RunExistsError,
    RunFinishedError,
    RunNotFoundError,
)


class Forwarding:
    """Bring what one database holds to a control plane, and what is decided there back."""

    def __init__(
        self, local: SqlCheckpointStore, remote: RemoteCheckpointStore, marks: ForwardingMarks
    ) -> None:
        self._local = local
        self._remote = remote
        remote.expect_protocol()  # none of 0.2.0 is supported: a proxy must not pass for one
        self._marks = marks
        self._known: dict[str, RunSummary] = {}  # runs as they stand there, as far as nobody else acts
        self._exchanged: dict[str, tuple[int, int]] = {}  # versions at which no decision was left to carry
        self._inputs: dict[str, tuple[int, RunInputs]] = {}
        self._found: tuple[str, int] | None = None
        self.progress = 0  # grows while the control plane writes, though its answers may be lost

    def forward(self, run_id: str) -> None:
        """Bring a run to the control plane as far as its gates there let it, and decisions back.

        Raises `SyncConflictError`, on record, when it can never get there; `RemoteError` when later it may.
        """
        mark = self._marks.load(run_id)
        if mark.conflict is not None:
            raise SyncConflictError(run_id, mark.conflict)
        try:
            self._surely(mark)
        except SyncConflictError as conflict:
            self._stop(mark, conflict.reason)
            raise
        except _CONTRADICTIONS as refusal:
            reason = f"{type(refusal).__name__}: {refusal}"
            self._stop(mark, reason)
            raise SyncConflictError(run_id, reason) from refusal
        except BaseException:
            self._forget(run_id)
            raise

    def _surely(self, mark: Mark) -> None:
        refused: type[Exception] | None = None
        for _ in range(_ROUNDS):
            try:
                return self._pass(mark)
            except StaleRunError:
                pass  # somebody acted there, or an answer got lost
            except _CONTRADICTIONS as refusal:
                # Another process that forwards this database may just have done it: what comes again counts.
                if type(refusal) is refused:
                    raise
                refused = type(refusal)
            self._forget(mark.run_id)  # look again
        raise SyncConflictError(mark.run_id, f"it was changed by others in each of {_ROUNDS} rounds.")

    def _stop(self, mark: Mark, reason: str) -> None:
        self._forget(mark.run_id)
        mark.conflict = reason
        self._marks.save(mark)

    def _forget(self, run_id: str) -> None:
        self._known.pop(run_id, None)
        self._exchanged.pop(run_id, None)
        self._inputs.pop(run_id, None)

    def _pass(self, mark: Mark) -> None:
        here = self._local.load_summary(mark.run_id)
        if here is None:
            return  # collected
        there = self._known.get(here.run_id)
        if there is None or there.failure is not None or here.failure is not None:
            there = self._looked_up(here, mark)
        before = (mark.records, mark.version)
        try:
            there = self._records(here, there, mark)
            there = self._exchange(here, there)
            there = self._end(here, there)
            mark.version = here.version
        except ResumeBlockedError:
            return  # the next record waits behind a gate there
        finally:
            if (mark.records, mark.version) != before:
                self._marks.save(mark)
        self._known[here.run_id] = there
        if here.status in FINISHED_STATUSES:
            self._forget(here.run_id)

    # The run and its records

    def _looked_up(self, here: RunSummary, mark: Mark) -> RunSummary:
        """Return the run as the control plane holds it, its records compared with those here."""
        there = self._remote.load_summary(here.run_id)
        if there is None:
            if mark.records:
                raise SyncConflictError(here.run_id, "it was there, and is there no more.")
            there = self._started(here)
        if (there.workflow_name, there.environment) != (here.workflow_name, here.environment):
            raise SyncConflictError(here.run_id, "another run has its id there.")
        self.progress += self._found != (here.run_id, there.version)
        self._found = (here.run_id, there.version)
        while mark.records < there.next_sequence:
            ours = self._local.load_step(here.run_id, mark.records)
            theirs = self._remote.load_step(here.run_id, mark.records)
            if ours is None or theirs is None or not is_same_write(theirs, ours):
                raise SyncConflictError(here.run_id, f"another record is there at sequence {mark.records}.")
            mark.records += 1
        if mark.records > there.next_sequence:
            raise SyncConflictError(here.run_id, "records that were acknowledged are there no more.")
        return there

    def _started(self, here: RunSummary) -> RunSummary:
        run = Run(
            run_id=here.run_id,
            workflow_name=here.workflow_name,
            environment=here.environment,
            metadata=self._local.load_metadata(here.run_id) or {},
        )
        self._remote.create_run(run, change_id=_name_of("start", here.run_id))
        there = self._remote.load_summary(here.run_id)
        if there is None:
            raise RunNotFoundError(here.run_id)
        return there

    def _records(self, here: RunSummary, there: RunSummary, mark: Mark) -> RunSummary:
        position, inputs = self._inputs.pop(here.run_id, (-1, None))
        if position != mark.records or inputs is None:
            inputs = self._local.inputs_behind(here.run_id, mark.records - 1)
        records = self._local.iter_steps(here.run_id, after=mark.records - 1, inputs=inputs)
        while mark.records < here.next_sequence:  # what is written since waits for the next round
            record = next(records)
            if there.blocked_by:
                there = self._exchange(here, there)
            there = self._recorded(here, self._claimed(here, there, record), record)
            self._known[here.run_id] = there
            mark.records += 1
        self._inputs[here.run_id] = (mark.records, inputs)  # a long run need not be read again for each step
        return there

    def _claimed(self, here: RunSummary, there: RunSummary, record: StepRecord) -> RunSummary:
        """Return the run in the hands of the forwarder; what it consists of goes with it."""
        if there.lease_owner == FORWARDER:
            return there
        after = there.evolve(
            status=there.status if there.blocked_by else RunStatus.RUNNING,
            lease_owner=FORWARDER,
            lease_token=there.lease_token + 1,
            in_flight=(intent_of(record),),
            steps_total=here.steps_total,
            retry_at=None,
        )
        resumed = AuditEvent.by(ENGINE_ACTOR, EventType.RUN_RESUMED, clock.utc_now(), run_id=here.run_id)
        new_workflow = here.workflow_hash not in (None, there.workflow_hash)
        new_input = here.initial_input_hash not in (None, there.initial_input_hash)
        return self._remote.commit(
            RunChange(
                before=there,
                after=after,
                events=(resumed,) if there.next_sequence else (),
                workflow=self._local.load_workflow(here.run_id) if new_workflow else None,
                initial_input=self._local.load_initial_input(here.run_id) if new_input else None,
                lease_seconds=LEASE_SECONDS_MAX,  # whether its executor lives is known here
            )
        )

    def _recorded(self, here: RunSummary, there: RunSummary, record: StepRecord) -> RunSummary:
        after = after_step(there, record)
        if self._is_tried_again(here, record):
            after = retrying(there, after, record.timestamp, 0.0)
        elif record.is_failed or after.blocked_by:
            after = after.evolve(lease_owner=None, lease_expires_at=None, lease_live=False)
        change = RunChange(
            before=there,
            after=after.evolve(in_flight=()),
            record=record,
            lease_seconds=LEASE_SECONDS_MAX,
        )
        return self._remote.commit(change)

    def _is_tried_again(self, here: RunSummary, failed: StepRecord) -> bool:
        """Return whether the executor here tried a failed step again by itself, for which no gate closes."""
        if not failed.is_failed or failed.failure_classification is not FailureClassification.TRANSIENT:
            return False
        if self._local.list_decisions(here.run_id, failure_key=failed.failure_key):
            return False
        if failed.kind is StepKind.COMPENSATION:
            return here.lease_owner is not None or failed.sequence + 1 < here.next_sequence
        if here.failure is not None and here.failure.key == failed.failure_key:
            return here.status is RunStatus.RUNNING
        return True

    def _end(self, here: RunSummary, there: RunSummary) -> RunSummary:
        now = self._local.load_summary(here.run_id) or here  # a rejection may just have been taken over
        if here.status is RunStatus.COMPLETED and there.status not in FINISHED_STATUSES:
            return self._remote.commit(RunChange(before=there, after=completed(there, clock.utc_now())))
        if there.status in FINISHED_STATUSES and now.status is not there.status:
            raise SyncConflictError(here.run_id, f"it is {there.status} there, and {now.status} here.")
        if here.status is RunStatus.CANCELLED and there.status is not RunStatus.CANCELLED:
            raise SyncConflictError(here.run_id, "it was rolled back here, which cannot be forwarded.")
        return there

    # Decisions

    def _exchange(self, here: RunSummary, there: RunSummary) -> RunSummary:
        """Carry decisions about the current failure there in both directions."""
        versions = (here.version, there.version)
        if there.failure is None or self._exchanged.get(here.run_id) == versions:
            return there
        key = there.failure.key
        made_there = self._remote.list_decisions(here.run_id, failure_key=key)
        if here.failure is not None and here.failure.key == key and here.status not in FINISHED_STATUSES:
            known = _names(self._local.list_decisions(here.run_id, failure_key=key))
            for decision in made_there:
                if _name(decision) not in known:
                    adopt(self._local, decision, self._remote.api_url)
        known = _names(made_there)
        for decision in self._local.list_decisions(here.run_id, failure_key=key):
            if decision.step_sequence is not None and decision.step_sequence >= there.next_sequence:
                continue  # the record of the compensation that it names goes first
            if _name(decision) not in known:
                there = self._decided(there, decision)
        self._exchanged[here.run_id] = (here.version, there.version)
        return there

    def _decided(self, there: RunSummary, decision: Decision) -> RunSummary:
        name = _name_of("decide", decision.run_id, *map(str, _name(decision)))
        change = RunChange(before=there, after=there, decisions=(decision,), change_id=name)
        try:
            return self._remote.commit(change)
        except AlreadyDecidedError:  # there somebody else was first: the gate is open all the same
            return self._remote.load_summary(decision.run_id) or there


def _name(decision: Decision) -> tuple[str, str, int]:
    return decision.failure_key, decision.kind.value, decision.ordinal


def _names(decisions: Iterable[Decision]) -> set[tuple[str, str, int]]:
    return {_name(decision) for decision in decisions}


def _name_of(*parts: str) -> str:
    """Return the name of a call, the same whenever it is made again."""
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:32]

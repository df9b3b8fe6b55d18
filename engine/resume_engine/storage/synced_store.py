"""A store that records here first and forwards to a control plane: an outage over there stops nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from resume_engine.core.actor import ENGINE_ACTOR, Actor
from resume_engine.core.audit import AuditEvent
from resume_engine.core.decision import Decision
from resume_engine.core.errors import SyncConflictError
from resume_engine.core.masking import masked_logger
from resume_engine.core.run import Run, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import StepOutput, StepRecord
from resume_engine.core.store import CheckpointStore
from resume_engine.storage.forwarding import Forwarding
from resume_engine.storage.forwarding_marks import ForwardingMarks
from resume_engine.storage.forwarding_thread import ForwardingThread
from resume_engine.storage.remote_backend import RemoteCheckpointStore
from resume_engine.storage.sql_store import SqlCheckpointStore

_LOOK_SECONDS = 0.01  # between two looks at what is behind, while somebody waits for it
_log = masked_logger(__name__)
T = TypeVar("T")


class Pending(NamedTuple):
    """How many step records of a run are durable here, and how many of them there."""

    local: int
    remote: int


class SyncedCheckpointStore(CheckpointStore):
    """Write to `local` first; forward every run in it to `remote`, in order, in the background.

    A call that returns is durable in `local`; `pending` and `synced_through` say what is durable there.
    Leases are those of `local`: a run is executed where its database is. Decisions travel in both
    directions, every `poll_seconds` while a run waits for one. `close` waits up to `flush_seconds`.
    """

    def __init__(
        self,
        local: SqlCheckpointStore,
        remote: RemoteCheckpointStore,
        *,
        poll_seconds: float = 5.0,
        flush_seconds: float = 10.0,
    ) -> None:
        self.local = local
        self.remote = remote
        self._flush_seconds = flush_seconds
        self._marks = ForwardingMarks(local)
        self._marks.begin(remote.api_url)
        self._conflicts: dict[str, str] = dict(self._marks.conflicts())
        forwarding = Forwarding(local, remote, self._marks)
        self._thread = ForwardingThread(forwarding, self._marks, poll_seconds, self._note)
        if self._marks.waiting():
            self._thread.wake()

    # What is durable where

    def pending(self) -> Mapping[str, Pending]:
        """Return the runs that are not all there, with the number of their records here and there."""
        return {run_id: Pending(*counts) for run_id, counts in self._marks.behind().items()}

    def synced_through(self, run_id: str) -> int | None:
        """Return the sequence of the last record that the control plane has acknowledged, None for none."""
        records = self._marks.load(run_id).records
        return records - 1 if records else None

    def conflicts(self) -> Mapping[str, str]:
        """Return the runs that are no longer forwarded, and why; their records are kept here."""
        return self._marks.conflicts()

    def retry_conflict(self, run_id: str) -> None:
        """Forward a run again whose conflict was solved: a key that works now, a run removed over there."""
        mark = self._marks.load(run_id)
        mark.conflict = None
        self._marks.save(mark)
        self._conflicts.pop(run_id, None)
        self._thread.wake()

    def wait_until_synced(self, timeout: float | None = None) -> bool:
        """Return True when everything recorded here is there, False after `timeout` seconds.

        Raises `SyncConflictError` for a run that can never get there.
        """
        give_up = None if timeout is None else time.monotonic() + timeout
        self._thread.wake()
        while True:
            behind = self._marks.behind()
            for run_id, reason in self._marks.conflicts().items():
                raise SyncConflictError(run_id, reason)
            if not behind:
                return True
            if give_up is not None and time.monotonic() > give_up:
                return False
            time.sleep(_LOOK_SECONDS)

    def refresh(self, run_id: str) -> None:
        """Take over what was decided about a run on the control plane; while that is away, do nothing."""
        self._thread.forward_now(run_id, patience=1.0)

    def close(self) -> None:
        """Forward what is left for up to `flush_seconds`, say what is left then, release the connections."""
        if self._thread.is_own:
            self._flush()
            self._thread.stop()
        self.remote.close()
        self.local.close()

    def _flush(self) -> None:
        give_up = time.monotonic() + self._flush_seconds
        conflicts = self._marks.conflicts()
        while left := {run_id: c for run_id, c in self.pending().items() if run_id not in conflicts}:
            if time.monotonic() > give_up or self._thread.is_away:
                records = sum(counts.local - counts.remote for counts in left.values())
                _log.warning(
                    "%d runs with %d step records are only here; opening the store again forwards them",
                    len(left),
                    records,
                )
                return
            self._thread.wake()
            time.sleep(_LOOK_SECONDS)
            conflicts = self._marks.conflicts()

    # Writing

    def create_run(self, run: Run, *, actor: Actor = ENGINE_ACTOR, change_id: str | None = None) -> None:
        """Write a new run here; forward it."""
        self._written(run.run_id, lambda: self.local.create_run(run, actor=actor, change_id=change_id))

    def update_run(self, run: Run, *, actor: Actor = ENGINE_ACTOR) -> None:
        """Write status and metadata here; a completion is forwarded, changed metadata is not."""
        self._written(run.run_id, lambda: self.local.update_run(run, actor=actor))

    def append_step(self, run_id: str, step: StepRecord) -> None:
        """Write a record that was made elsewhere here; forward it."""
        self._written(run_id, lambda: self.local.append_step(run_id, step))

    def commit(self, change: RunChange) -> RunSummary:
        """Write a change here; forward it."""
        run_id = change.before.run_id
        if change.record is None:
            return self._written(run_id, lambda: self.local.commit(change))
        after = self.local.commit(change)  # what a step did is recorded, whatever the control plane thinks
        self._thread.wake()
        return after

    def append_event(self, event: AuditEvent) -> None:
        """Write an audit event here; the control plane writes its own."""
        self.local.append_event(event)

    def renew_lease(self, run_id: str, owner: str, token: int, seconds: float) -> bool:
        """Let a lease end so many seconds from now by the clock of the database here; 0 ends it."""
        return self.local.renew_lease(run_id, owner, token, seconds)

    def _written(self, run_id: str, write: Callable[[], T]) -> T:
        """Write unless the run contradicts the one there: then nothing new may begin in it."""
        if run_id in self._conflicts:
            raise SyncConflictError(run_id, self._conflicts[run_id])
        written = write()
        self._thread.wake()
        return written

    def _note(self, conflict: SyncConflictError) -> None:
        if conflict.run_id not in self._conflicts:
            _log.error("%s", conflict)
        self._conflicts[conflict.run_id] = conflict.reason

    # Reading

    def load_summary(self, run_id: str) -> RunSummary | None:
        """Return a run without its records; one that failed with what was decided about it over there."""
        found = self.local.load_summary(run_id)
        waits = found is not None and (found.blocked_by or found.status is RunStatus.FAILED)
        if not waits or run_id in self._conflicts:
            return found
        self.refresh(run_id)
        return self.local.load_summary(run_id)

    def get_run(self, run_id: str) -> Run | None:
        """Return a run with all its records and the view of its decisions, or None."""
        return self.local.get_run(run_id)

    def load_run(self, run_id: str) -> Run | None:
        """Return what `get_run` returns; records are read when they are first asked for."""
        return self.local.load_run(run_id)

    def get_step_by_idempotency_key(self, key: str) -> StepRecord | None:
        """Return the completed record with this key, or None."""
        return self.local.get_step_by_idempotency_key(key)

    def load_initial_input(self, run_id: str) -> dict[str, Any] | None:
        """Return the initial input a workflow was started with, or None when none was recorded."""
        return self.local.load_initial_input(run_id)

    def load_workflow(self, run_id: str) -> Sequence[str]:
        """Return the step names a run was started with, empty when none were recorded."""
        return self.local.load_workflow(run_id)

    def iter_steps(self, run_id: str, *, completed_only: bool = False) -> Iterator[StepRecord]:
        """Yield records by sequence, without holding all of them in memory."""
        return self.local.iter_steps(run_id, completed_only=completed_only)

    def iter_outputs(self, run_id: str) -> Iterator[StepOutput]:
        """Yield what the completed steps of a workflow gave out, by sequence, compensations aside."""
        return self.local.iter_outputs(run_id)

    def list_open_failures(self, run_id: str) -> Sequence[StepRecord]:
        """Return the failed attempts, by sequence, that are the latest of their step, without inputs."""
        return self.local.list_open_failures(run_id)

    def load_step(self, run_id: str, sequence: int) -> StepRecord | None:
        """Return one record of a run by its sequence, or None."""
        return self.local.load_step(run_id, sequence)

    def list_decisions(self, run_id: str, *, failure_key: str | None = None) -> Sequence[Decision]:
        """Return the decisions of a run, oldest first; only those of one failure event if given."""
        return self.local.list_decisions(run_id, failure_key=failure_key)

    def list_events(self, run_id: str) -> Sequence[AuditEvent]:
        """Return the audit events stored here, oldest first."""
        return self.local.list_events(run_id)

    def find_resumable(
        self, workflow_names: Sequence[str], *, failed_before: datetime, max_attempts: int, limit: int
    ) -> Sequence[RunSummary]:
        """Return runs that need nobody; those of `local`, with what was decided over there so far."""
        return self.local.find_resumable(
            workflow_names, failed_before=failed_before, max_attempts=max_attempts, limit=limit
        )

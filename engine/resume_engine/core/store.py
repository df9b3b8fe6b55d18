"""The contract of every store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from resume_engine.core.actor import ENGINE_ACTOR, Actor
from resume_engine.core.audit import AuditEvent
from resume_engine.core.decision import Decision
from resume_engine.core.resume_gates import ResumeBlocker
from resume_engine.core.run import Run, open_failures
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import StepKind, StepOutput, StepRecord


class CheckpointStore(ABC):
    """Keep runs, step records, decisions and audit events durably.

    A call that returns has been written to disk. A call that raises has written nothing.
    """

    @property
    def max_input_characters(self) -> int | None:
        """Return how long the input of a step may be, as the JSON string of its text; None: as it likes."""
        return None

    # The six calls of 0.2.0

    @abstractmethod
    def create_run(self, run: Run, *, actor: Actor = ENGINE_ACTOR, change_id: str | None = None) -> None:
        """Write a new run and its `run.started` event; raise `RunExistsError` if the id is taken.

        `change_id` names the write when it is asked for from afar and may be asked for again.
        """

    @abstractmethod
    def get_run(self, run_id: str) -> Run | None:
        """Return a run with all its records and the view of its decisions, or None."""

    @abstractmethod
    def update_run(self, run: Run, *, actor: Actor = ENGINE_ACTOR) -> None:
        """Write status and metadata of `run`; `metadata["gates"]` is a view and is not written."""

    @abstractmethod
    def append_step(self, run_id: str, step: StepRecord) -> None:
        """Write a record that was made elsewhere; repeating the same write changes nothing.

        Raises `RunNotFoundError`, `RunFinishedError`, `ResumeBlockedError` while a gate is closed,
        `StaleRunError` when the sequence is taken by another record.
        """

    @abstractmethod
    def get_step_by_idempotency_key(self, key: str) -> StepRecord | None:
        """Return the completed record with this key, or None."""

    def idempotency_key_exists(self, key: str) -> bool:
        """Return whether a completed record has this key."""
        return self.get_step_by_idempotency_key(key) is not None

    # What the engine needs beside them

    @abstractmethod
    def load_summary(self, run_id: str) -> RunSummary | None:
        """Return a run without its records, or None; cost does not grow with the number of steps."""

    def load_run(self, run_id: str) -> Run | None:
        """Return what `get_run` returns; its records may be read only when they are asked for."""
        return self.get_run(run_id)

    @abstractmethod
    def load_initial_input(self, run_id: str) -> dict[str, Any] | None:
        """Return the initial input a workflow was started with, or None when none was recorded."""

    @abstractmethod
    def iter_steps(self, run_id: str, *, completed_only: bool = False) -> Iterator[StepRecord]:
        """Yield records by sequence, without holding all of them in memory."""

    def iter_outputs(self, run_id: str) -> Iterator[StepOutput]:
        """Yield what the completed steps of a workflow gave out, by sequence, compensations aside."""
        for record in self.iter_steps(run_id, completed_only=True):
            if record.kind is StepKind.STEP:
                first_input = record.input_data if record.step_index == 0 else None
                yield StepOutput(record.step_index, record.step_name, record.output_data or {}, first_input)

    def list_open_failures(self, run_id: str) -> Sequence[StepRecord]:
        """Return the failed attempts, by sequence, that are the latest of their step."""
        return open_failures(self.iter_steps(run_id))

    @abstractmethod
    def load_step(self, run_id: str, sequence: int) -> StepRecord | None:
        """Return one record of a run by its sequence, or None."""

    @abstractmethod
    def commit(self, change: RunChange) -> RunSummary:
        """Write a change in one transaction and return the run with its new version.

        Raises `StaleRunError` when the run is no longer at `change.before.version`,
        `AlreadyDecidedError` when a decision of the change exists, and
        `IdempotencyCollisionError` when a completed record has the same key.
        """

    @abstractmethod
    def load_workflow(self, run_id: str) -> Sequence[str]:
        """Return the step names a run was started with, empty when none were recorded."""

    @abstractmethod
    def renew_lease(self, run_id: str, owner: str, token: int, seconds: float) -> bool:
        """Let a lease end so many seconds from now by the database's clock; 0 ends it.

        Returns False when owner or token are no longer the run's.
        """

    @abstractmethod
    def list_decisions(self, run_id: str, *, failure_key: str | None = None) -> Sequence[Decision]:
        """Return the decisions of a run, oldest first; only those of one failure event if given."""

    def owners_of_keys(self, actor_names: Collection[str]) -> Mapping[str, str]:
        """Return, for the names that are API keys, who made the key; a store without keys knows none."""
        return {}

    def load_blockers(self, run_id: str) -> Sequence[ResumeBlocker] | None:
        """Return the missing decisions where the policy is kept with the store; None: it is the caller's."""
        return None

    @abstractmethod
    def append_event(self, event: AuditEvent) -> None:
        """Write an audit event in a transaction of its own."""

    @abstractmethod
    def list_events(self, run_id: str) -> Sequence[AuditEvent]:
        """Return the stored audit events of a run, oldest first, without the derived step events."""

    @abstractmethod
    def find_resumable(
        self, workflow_names: Sequence[str], *, failed_before: datetime, max_attempts: int, limit: int
    ) -> Sequence[RunSummary]:
        """Return runs that need nobody: cleared ones, interrupted ones, and transient failures.

        Of the failed ones only those older than `failed_before` with fewer than `max_attempts` failures.
        """

    def close(self) -> None:  # noqa: B027 (a store without connections has nothing to release)
        """Release connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

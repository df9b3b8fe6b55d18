"""Runs in every state, made by the engine itself; each has obvious defaults that a test overrides by name.

`RunFactory(store)` is all a test needs: `runs.completed()`, `runs.blocked("partial", environment="prod")`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert, update

from resume_engine.conformance.samples import OLGA, failing, passing
from resume_engine.core.actor import Actor
from resume_engine.core.checkpoint_store import ResumeEngine
from resume_engine.core.clock import ManualClock, replaced_by, utc_now
from resume_engine.core.decisions import DecisionKind
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError, TransientStepError
from resume_engine.core.idempotency import generate_idempotency_key, generate_run_id, hash_input
from resume_engine.core.lease import Lease
from resume_engine.core.run import Run, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.step_record import FailureClassification, StepRecord, StepStatus
from resume_engine.storage import step_rows
from resume_engine.storage.schema import runs as runs_table
from resume_engine.storage.schema import step_records
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.guards import unguarded

Payload = dict[str, Any]

ERRORS: Mapping[str, type[Exception]] = {
    "transient": TransientStepError,
    "permanent": PermanentStepError,
    "partial": PartialStepError,
}


def steps(count: int, *, fail_at: int | None = None, error: Exception | None = None) -> list[tuple[str, Any]]:
    """Return `count` steps named step_0, step_1, ...; the one at `fail_at` raises `error`."""
    return [
        (
            f"step_{index}",
            failing(error or PermanentStepError("Invalid API key"))
            if index == fail_at
            else passing({f"out_{index}": index}),
        )
        for index in range(count)
    ]


@contextmanager
def at(moment: datetime) -> Iterator[ManualClock]:
    """Let everything happen at `moment`; the clock that is yielded can be moved on."""
    clock = ManualClock(moment)
    with replaced_by(clock):
        yield clock


def ago(**length: float) -> datetime:
    """Return the moment that lies `length` (days=, hours=, minutes=) before now."""
    return utc_now() - timedelta(**length)


class RunFactory:
    """Make runs in one store."""

    def __init__(self, store: SqlCheckpointStore, *, worker: str = "worker-1") -> None:
        self.store = store
        self.engine = ResumeEngine(store, owner=worker)

    def pending(self, workflow: str = "claims_intake", **options: Any) -> Run:
        """Make a run that was written down and not started."""
        run = Run(run_id=options.pop("run_id", None) or generate_run_id(), workflow_name=workflow, **options)
        self.store.create_run(run)
        return run

    def running(self, workflow: str = "claims_intake", *, done: int = 1, of: int = 3, **options: Any) -> Run:
        """Make a run whose executor is at work behind `done` steps."""
        run = self.engine.start_run(workflow, **options)
        for index in range(done):
            self.engine.execute_step(run.run_id, f"step_{index}", index, {}, passing({"n": index}))
        self._hold(run.run_id, seconds=3_600, of=of)
        return self.reload(run)

    def interrupted(self, workflow: str = "claims_intake", *, of: int = 3, **options: Any) -> Run:
        """Make a run whose executor vanished an hour ago."""
        with at(ago(hours=1)):
            run = self.engine.start_run(workflow, **options)
            self._hold(run.run_id, seconds=30, of=of)
        return self.reload(run)

    def completed(
        self,
        workflow: str = "claims_intake",
        *,
        count: int = 3,
        initial_input: Payload | None = None,
        **options: Any,
    ) -> Run:
        """Make a run whose `count` steps all passed."""
        run = self.engine.start_run(workflow, **options)
        return self.engine.execute_workflow(run.run_id, steps(count), initial_input=initial_input)

    def failed(
        self,
        kind: str = "transient",
        *,
        workflow: str = "claims_intake",
        message: str = "payment gateway timed out",
        error: Exception | None = None,
        fail_at: int = 1,
        count: int = 3,
        initial_input: Payload | None = None,
        **options: Any,
    ) -> Run:
        """Make a run that failed at step `fail_at`; `kind` is transient, permanent or partial."""
        run = self.engine.start_run(workflow, **options)
        plan = steps(count, fail_at=fail_at, error=error or ERRORS[kind](message))
        with suppress(Exception):
            self.engine.execute_workflow(run.run_id, plan, initial_input=initial_input)
        return self.reload(run)

    def blocked(self, kind: str = "permanent", *, message: str = "Invalid API key", **options: Any) -> Run:
        """Make a failed run that waits for a person."""
        run = self.failed(kind, message=message, **options)
        assert self.engine.get_resume_blockers(run.run_id), "a transient failure blocks in prod only"
        return run

    def cleared(
        self, kind: str = "permanent", *, by: Actor = OLGA, note: str | None = None, **options: Any
    ) -> Run:
        """Make a run whose gates a person has opened; no runner has taken it yet."""
        run = self.blocked(kind, **options)
        for blocker in self.engine.get_resume_blockers(run.run_id):
            self.engine.decide(run.run_id, blocker.required_action, by, note=note)
        return self.reload(run)

    def cancelled(self, *, by: Actor = OLGA, note: str = "Sent twice", **options: Any) -> Run:
        """Make a run that a person rejected."""
        run = self.blocked(**options)
        self.engine.decide(run.run_id, DecisionKind.REJECT, by, note=note)
        return self.reload(run)

    def every_state(self, **options: Any) -> dict[str, Run]:
        """Make one run in each state that people are shown."""
        return {
            "pending": self.pending(),
            "running": self.running(**options),
            "completed": self.completed(**options),
            "failed": self.failed(**options),
            "blocked": self.blocked(**options),
            "cleared": self.cleared(**options),
            "interrupted": self.interrupted(**options),
            "cancelled": self.cancelled(**options),
        }

    def with_many_steps(self, count: int, *, workflow: str = "data_sync", fail_last: bool = False) -> Run:
        """Make a run of `count` recorded steps, written in one go."""
        with at(utc_now() - timedelta(milliseconds=20 * count)):
            run = self.engine.start_run(workflow)
        start = run.created_at
        # Step by step the engine would take a transaction each, which is slow in this number.
        records = [_record(run.run_id, index, start) for index in range(count - 1 if fail_last else count)]
        with unguarded(self.store) as conn:  # these records stand in no chain
            conn.execute(
                insert(step_records),
                [step_rows.step_values(run.run_id, record, self.store.codec) for record in records],
            )
            conn.execute(
                update(runs_table)
                .where(runs_table.c.run_id == run.run_id)
                .values(
                    steps_completed=len(records),
                    steps_total=count,
                    next_sequence=len(records),
                    resume_from_index=len(records),
                    version=runs_table.c.version + 1,
                )
            )
        if fail_last:
            with suppress(PermanentStepError):
                self.engine.execute_step(
                    run.run_id,
                    f"step_{count - 1}",
                    count - 1,
                    {},
                    failing(PermanentStepError("Quota used up")),
                )
        else:
            self.engine.complete_run(run.run_id)
        return run

    def legacy(self, run_id: str = "0a0a0a0a-0000-4000-8000-000000000001", *, failed: bool = True) -> Run:
        """Make a run as an upgraded 0.2.0 database holds it: no durations, no starts, no error types."""
        run = Run(run_id=run_id, workflow_name="legacy_flow", status=RunStatus.RUNNING)
        self.store.create_run(run)
        moment = datetime(2024, 3, 1, 12, 0, tzinfo=UTC)
        done = _record(run_id, 0, moment)
        done.started_at = done.duration_ms = done.worker = None
        self.store.append_step(run_id, done)
        if failed:
            broken = _record(run_id, 1, moment)
            broken.sequence, broken.status, broken.output_data = 1, StepStatus.FAILED, None
            broken.started_at = broken.duration_ms = broken.worker = None
            broken.failure_classification = FailureClassification.PERMANENT
            broken.error_message = "boom"
            self.store.append_step(run_id, broken)
        return self.reload(run)

    def reload(self, run: Run) -> Run:
        """Return the run as it stands now."""
        found = self.store.get_run(run.run_id)
        assert found is not None
        return found

    def _hold(self, run_id: str, *, seconds: float, of: int) -> None:
        summary = self.store.load_summary(run_id)
        assert summary is not None
        lease = Lease(self.store, self.engine.owner, seconds, exclusive=True)
        lease.take(RunChange(before=summary, after=summary.evolve(steps_total=of)))


def _record(run_id: str, index: int, start: datetime) -> StepRecord:
    """Return a completed record as `RunExecution` would have made it."""
    data = {"batch": index}
    input_hash = hash_input(data)
    began = start + timedelta(milliseconds=20 * index)
    return StepRecord(
        step_name=f"step_{index}",
        step_index=index,
        input_data=data,
        input_hash=input_hash,
        output_data={"rows": index * 10},
        status=StepStatus.COMPLETED,
        idempotency_key=generate_idempotency_key(run_id, f"step_{index}", index, input_hash),
        timestamp=began + timedelta(milliseconds=15),
        sequence=index,
        started_at=began,
        duration_ms=15,
        worker="worker-1",
    )

"""One execution of a workflow, with its step records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from resume_engine.core.clock import as_utc, utc_now
from resume_engine.core.codec import as_json, from_json
from resume_engine.core.errors import UnknownEnvironmentError
from resume_engine.core.step_record import StepKind, StepRecord


class RunStatus(StrEnum):
    """Lifecycle of a run as it is stored."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    PAUSED = "paused"  # a gate was cleared; waiting to be resumed
    CANCELLED = "cancelled"  # rejected by a person, for good


FINISHED_STATUSES = frozenset({RunStatus.COMPLETED, RunStatus.CANCELLED})


class Environment(StrEnum):
    """Where a run's side effects land; every resume in prod needs an acknowledgement."""

    DEV = "dev"
    STAGING = "staging"
    PROD = "prod"


def parse_environment(value: object) -> Environment:
    """Return the environment named by `value`; raise `UnknownEnvironmentError` for any other word."""
    try:
        return Environment(value)  # type: ignore[arg-type]
    except ValueError:
        raise UnknownEnvironmentError(value, [e.value for e in Environment]) from None


@dataclass
class Run:
    """Hold a run and its records; `metadata["gates"]` is a read-only view of the decisions.

    A run that the engine returns reads its records when they are first asked for: a run of 100,000 steps is
    returned as cheaply as one of three.
    """

    run_id: str
    workflow_name: str
    status: RunStatus = RunStatus.PENDING
    created_at: datetime = field(default_factory=utc_now)
    updated_at: datetime = field(default_factory=utc_now)
    metadata: dict[str, Any] = field(default_factory=dict)
    steps: list[StepRecord] = field(default_factory=list)
    environment: Environment = Environment.DEV

    @classmethod
    def with_steps_later(cls, load: Callable[[], list[StepRecord]], **fields: Any) -> Run:
        """Return a run whose `steps` are what `load` returns, called once, when they are first asked for."""
        run = cls(**fields)
        del run.__dict__["steps"]
        run.__dict__["_load_steps"] = load
        return run

    if not TYPE_CHECKING:  # else every misspelt attribute would pass

        def __getattr__(self, name: str) -> Any:
            load = self.__dict__.get("_load_steps") if name == "steps" else None
            if load is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self.steps = load()
            del self._load_steps
            return self.steps

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied or pickled: with the records, not with the way to them."""
        return {"steps": self.steps, **self.__dict__}

    def completed_indexes(self) -> set[int]:
        """Return the indexes of workflow steps with a completed record."""
        return {s.step_index for s in self.steps if s.is_completed and s.kind is StepKind.STEP}

    def last_completed_step_index(self) -> int | None:
        """Return the highest index among completed workflow steps, or None."""
        return max(self.completed_indexes(), default=None)

    def resume_from_index(self) -> int:
        """Return the first step index without a completed record."""
        done = self.completed_indexes()
        return next(index for index in range(len(done) + 1) if index not in done)

    def last_failed_step(self) -> StepRecord | None:
        """Return the latest failed workflow step, whether or not a later attempt completed it."""
        failed = [s for s in self.steps if s.is_failed and s.kind is StepKind.STEP]
        return max(failed, key=lambda s: s.sequence, default=None)

    def open_failure(self) -> StepRecord | None:
        """Return the latest failed step that no later attempt completed."""
        failed = self.last_failed_step()
        if failed is None:
            return None
        later = (s for s in self.steps if s.is_completed and s.kind is StepKind.STEP)
        mended = any(s.step_index == failed.step_index and s.sequence > failed.sequence for s in later)
        return None if mended else failed

    def to_dict(self) -> dict[str, Any]:
        """Return the run in 0.2.0's JSON shape plus `environment`."""
        return {
            "run_id": self.run_id,
            "workflow_name": self.workflow_name,
            "status": self.status.value,
            "environment": self.environment.value,
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
            "metadata": _metadata_as_json(self.metadata),
            "steps": [step.to_dict() for step in self.steps],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Run:
        """Read a run written by `to_dict` of this or of the 0.2.0 release."""
        metadata = _metadata_from_json(data.get("metadata") or {})
        environment = data.get("environment") or metadata.get("environment") or Environment.DEV
        return cls(
            run_id=data["run_id"],
            workflow_name=data["workflow_name"],
            status=RunStatus(data["status"]),
            created_at=as_utc(datetime.fromisoformat(data["created_at"])),
            updated_at=as_utc(datetime.fromisoformat(data["updated_at"])),
            metadata=metadata,
            steps=[StepRecord.from_dict(step) for step in data.get("steps", [])],
            environment=parse_environment(environment),
        )

    def audit_trace(self) -> str:
        """Return the deterministic audit trace of the run."""
        return "\n".join(trace_lines(self.run_id, self.workflow_name, self.steps))


def _metadata_as_json(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return metadata with JSON values only; the view of the decisions stays where clients look for it."""
    kept = {name: value for name, value in metadata.items() if name != "gates"}
    gates = {"gates": metadata["gates"]} if "gates" in metadata else {}
    written: dict[str, Any] = as_json(kept)
    return written | gates


def _metadata_from_json(data: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = from_json({name: value for name, value in data.items() if name != "gates"})
    return kept | ({"gates": data["gates"]} if "gates" in data else {})


def open_failures(records: Iterable[StepRecord]) -> list[StepRecord]:
    """Return the failed attempts, by sequence, that are the latest of their step (compensations aside).

    More than one is left open only by steps that ran beside each other.
    """
    latest: dict[int, StepRecord] = {}
    for record in sorted(records, key=lambda r: r.sequence):
        if record.kind is StepKind.STEP and (record.is_completed or record.is_failed):
            latest[record.step_index] = record
    return sorted((r for r in latest.values() if r.is_failed), key=lambda r: r.sequence)


def trace_lines(run_id: str, workflow_name: str, steps: Iterable[StepRecord]) -> Iterator[str]:
    """Yield the lines of an audit trace: run id, workflow name, then one line per record by sequence."""
    yield run_id
    yield workflow_name
    for step in sorted(steps, key=lambda s: s.sequence):
        yield step.audit_line()

"""A control plane of release 0.2.0, which knows only start, get, patch, steps and idempotency.

It keeps records and metadata, nothing else: no lease, no intents, no initial input. What a run is at is
computed here from its records, and gates hold only here.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from resume_engine.core.audit import EventType
from resume_engine.core.decision import gates_view
from resume_engine.core.errors import RemoteUnsupportedError, RunNotFoundError
from resume_engine.core.resume_gates import GateAction, get_resume_blockers
from resume_engine.core.run import Run, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary, after_step
from resume_engine.core.step_record import StepRecord
from resume_engine.storage.http_transport import HttpTransport
from resume_engine.storage.plain_step import plain_step

WARNING = (
    "This control plane is of release 0.2.0: it keeps no lease, so make sure that one process at a time "
    "executes a run. After a crash in the middle of a step nothing tells that it had begun."
)


class OldServer:
    """Speak the five calls of release 0.2.0."""

    def __init__(self, http: HttpTransport) -> None:
        self._http = http
        self._warned = False

    def load_summary(self, run_id: str) -> RunSummary | None:
        """Return a run as its records and its metadata tell it, or None."""
        if not self._warned:
            self._warned = True
            warnings.warn(WARNING, stacklevel=4)
        run = self._run(run_id)
        return None if run is None else summary_of(run)

    def is_untouched(self, run: Run) -> bool:
        """Return whether the run there is this one, started by a call whose answer got lost."""
        found = self._run(run.run_id)
        return found is not None and (found.workflow_name, found.steps) == (run.workflow_name, [])

    def steps(self, run_id: str, completed_only: bool = False) -> Sequence[StepRecord]:
        """Return the records of a run by sequence."""
        run = self._run(run_id)
        records = sorted(run.steps, key=lambda step: step.sequence) if run is not None else []
        return [record for record in records if record.is_completed or not completed_only]

    def commit(self, change: RunChange) -> RunSummary:
        """Write a change as far as the server can keep it; status and decisions in a call of their own."""
        before, after = change.before, change.after
        if any(event.event_type == EventType.RUN_ROLLING_BACK for event in change.events):
            raise RemoteUnsupportedError(
                f"Run {after.run_id} cannot be rolled back: a control plane of release 0.2.0 cannot keep "
                "what is left to be undone. Undo it by hand, and reject the run."
            )
        path = f"/runs/{quote(after.run_id, safe='')}"
        if change.record is not None:
            self._post_step(path, before, change.record)
        patch: dict[str, Any] = {}
        if change.record is None or after.status is not RunStatus.RUNNING:
            patch["status"] = after.status.value
        if change.decisions:
            run = self._run(after.run_id)
            metadata = {} if run is None else run.metadata
            decided = gates_view(change.decisions)
            patch["metadata"] = metadata | {"gates": _merged(metadata.get("gates") or {}, decided)}
        if patch and self._http.call("PATCH", path, patch).status == 404:
            raise RunNotFoundError(after.run_id)
        return after.evolve(version=before.version + 1)

    def _post_step(self, path: str, before: RunSummary, record: StepRecord) -> None:
        # This server writes a repeated record twice: whether a lost answer was a write is asked before.
        for stored in self.steps(before.run_id) if record.sequence < before.next_sequence else ():
            if (stored.sequence, stored.idempotency_key) == (record.sequence, record.idempotency_key):
                return
        if self._http.call("POST", f"{path}/steps", plain_step(record)).status == 404:
            raise RunNotFoundError(before.run_id)

    def _run(self, run_id: str) -> Run | None:
        found = self._http.call("GET", f"/runs/{quote(run_id, safe='')}").body
        return None if found is None else Run.from_dict(found)


def summary_of(run: Run) -> RunSummary:
    """Return the row of a run that is known by its records only."""
    summary = RunSummary(
        run_id=run.run_id,
        workflow_name=run.workflow_name,
        status=RunStatus.RUNNING,
        environment=run.environment,
        created_at=run.created_at,
        updated_at=run.updated_at,
    )
    for record in sorted(run.steps, key=lambda step: step.sequence):
        summary = after_step(summary, record)
    left = tuple(GateAction(blocker.required_action) for blocker in get_resume_blockers(run))
    if summary.blocked_by and not left:
        summary = summary.evolve(blocked_since=None, status=RunStatus.PAUSED)
    return summary.evolve(status=run.status, blocked_by=left, version=len(run.steps))


def _merged(earlier: Any, new: Any) -> dict[str, Any]:
    merged = dict(earlier)
    for name, value in new.items():
        old = merged.get(name)
        by_failure = name in ("approvals", "compensations", "prod_resume_acks")
        merged[name] = {**(old or {}), **value} if by_failure else value
    return merged

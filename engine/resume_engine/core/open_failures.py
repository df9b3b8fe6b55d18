"""Failures of several steps at once, as parallel branches leave them.

The run row holds one current failure. A closed gate must survive whatever the other branches do, so a failure
whose gates are closed stays current until they are decided; the others wait for their turn here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from resume_engine.core.decision_end import Openings, first_end, openings, standing
from resume_engine.core.resume_gates import GateAction, required_actions
from resume_engine.core.run import RunStatus
from resume_engine.core.run_summary import RunSummary, after_step, failure_of
from resume_engine.core.step_record import COMPENSATION_PREFIX, StepRecord

if TYPE_CHECKING:
    from resume_engine.core.store import CheckpointStore


def after_record(
    store: CheckpointStore, run: RunSummary, record: StepRecord, *, only_blocking: bool = False
) -> RunSummary:
    """Return the run row as it stands once `record` is appended, other open failures considered.

    With `only_blocking` a failure without closed gates does not become current: whoever executes a whole
    workflow comes to its step anyway. Reads the store only when a failure is mended.
    """
    after = after_step(run, record)
    if run.failure is None or after.failure is not None:
        return after
    following = _with_next_failure(store, after, record.timestamp, ignored_index=record.step_index)
    return after if only_blocking and not following.blocked_by else following


def after_clearing(store: CheckpointStore, run: RunSummary, at: datetime) -> RunSummary:
    """Return a run whose gates were just cleared, or with the gates of its next open failure closed."""
    if run.failure is None or run.blocked_by:
        return run
    if run.failure.step_name.startswith(COMPENSATION_PREFIX):
        return run  # a rollback goes on, whatever failed before it
    following = _with_next_failure(store, run, at, ignored_index=run.failure.step_index)
    if not following.blocked_by:
        return run
    ends = [end for end in (run.cleared_until, following.cleared_until) if end is not None]
    return replace(following, cleared_until=min(ends, default=None))


def undecided(store: CheckpointStore, run: RunSummary, at: datetime) -> tuple[GateAction, ...]:
    """Return the gates of the current failure that nobody opened, be they closed or not.

    While its executor tries a step again, the gates of the failure before are not closed.
    """
    if run.failure is None:
        return ()
    actions = required_actions(run.failure.classification, run.environment)
    if not actions:
        return ()
    opened = standing(openings(store.list_decisions(run.run_id, failure_key=run.failure.key)), at)
    return tuple(action for action in actions if action not in opened)


def given_up(store: CheckpointStore, run: RunSummary, at: datetime) -> RunSummary:
    """Return a run that its executor lets go; a failure that it was about to try again closes its gates."""
    free = run.evolve(lease_owner=None, lease_expires_at=None, lease_live=False, in_flight=())
    if free.failure is None or free.blocked_by or free.status is not RunStatus.RUNNING:
        return free
    left = undecided(store, free, at)
    if not left:
        return free
    return free.evolve(status=RunStatus.FAILED, blocked_by=left, blocked_since=at, retry_at=None)


def _with_next_failure(
    store: CheckpointStore, run: RunSummary, at: datetime, *, ignored_index: int
) -> RunSummary:
    waiting = [f for f in store.list_open_failures(run.run_id) if f.step_index != ignored_index]
    opened = [_opened(store, run, failed, at) for failed in waiting]
    ends = first_end(opened)
    candidates = [
        _with_failure(run, failed, decided, ends) for failed, decided in zip(waiting, opened, strict=True)
    ]
    blocking = [candidate for candidate in candidates if candidate.blocked_by]
    return (blocking or candidates[-1:] or [run])[0]


def _with_failure(
    run: RunSummary, failed: StepRecord, decided: Collection[GateAction], ends: datetime | None
) -> RunSummary:
    failure = failure_of(failed, attempts=failed.attempt)
    actions = required_actions(failure.classification, run.environment)
    left = tuple(action for action in actions if action not in decided)
    return replace(
        run,
        status=RunStatus.PAUSED if decided else RunStatus.FAILED,
        failure=failure,
        blocked_by=left,
        blocked_since=failed.timestamp if left else None,
        cleared_until=ends,
    )


def _opened(store: CheckpointStore, run: RunSummary, failed: StepRecord, at: datetime) -> Openings:
    """Return the gates of a failure that are open, those left out whose decisions have ended."""
    return standing(openings(store.list_decisions(run.run_id, failure_key=failed.failure_key)), at)

"""Gates that close again, on record, because nobody resumed the run before a decision ended."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from resume_engine.core import clock
from resume_engine.core.actor import Actor
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.decision_end import as_of, first_end, is_over, openings, standing
from resume_engine.core.errors import StaleRunError
from resume_engine.core.open_failures import after_clearing
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary

if TYPE_CHECKING:
    from resume_engine.core.store import CheckpointStore


def closed_in_time(store: CheckpointStore, run: RunSummary, actor: Actor) -> RunSummary:
    """Return `run` as it stands; closed again in one change if it relies on a decision that has ended."""
    at = clock.utc_now()
    if not is_over(run, at):  # one comparison for every run whose decisions have no end
        return run
    after, event = closed_again(store, run, actor, at)
    if event is None:
        return run
    try:
        return store.commit(RunChange(before=run, after=after, events=(event,)))
    except StaleRunError:
        current = store.load_summary(run.run_id)  # somebody else closed it first, or decided anew
        if current is None:
            raise
        return closed_in_time(store, current, actor)


def as_it_stands(store: CheckpointStore, run: RunSummary, at: datetime) -> RunSummary:
    """Return the run with every gate closed whose decisions have ended, be it written down or not."""
    if not is_over(run, at) or run.failure is None:
        return run
    decided = store.list_decisions(run.run_id, failure_key=run.failure.key)
    after = as_of(run, decided, at)
    if after is not run:
        return after
    # Then it was the decision about another of several failures.
    held = run.evolve(cleared_until=first_end([standing(openings(decided), at)]))
    return after_clearing(store, held, at)


def closed_again(
    store: CheckpointStore, run: RunSummary, actor: Actor, at: datetime
) -> tuple[RunSummary, AuditEvent | None]:
    """Return the run with every gate closed whose decisions have ended, and the event of that, if any."""
    after = as_it_stands(store, run, at)
    if after.blocked_by == run.blocked_by or after.failure is None:
        return run, None
    event = AuditEvent.by(
        actor,
        EventType.GATE_EXPIRED,
        at,
        run_id=run.run_id,
        failure_key=after.failure.key,
        payload={
            "waits_for": [action.value for action in after.blocked_by],
            "ended_at": run.cleared_until.isoformat() if run.cleared_until else None,
            "cleared_by": run.cleared_by,
        },
    )
    return after, event

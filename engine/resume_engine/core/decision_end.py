"""Decisions that end: what a gate was opened by, and how a run stands once that has ended; pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from resume_engine.core.decision import Decision
from resume_engine.core.gate_standing import earliest_end, has_ended
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import RunStatus
from resume_engine.core.run_summary import RunSummary

Openings = dict[GateAction, list[Decision]]
"""The decisions that opened each gate of one failure event."""

UNUSED_STATUSES = (RunStatus.PAUSED, RunStatus.FAILED, RunStatus.PENDING)
"""Where a run has not used its decisions: not one that went on, but one that a client has set to pending."""


def is_over(run: RunSummary, at: datetime) -> bool:
    """Return whether a decision that a cleared run relies on has ended at the moment `at`."""
    if run.cleared_until is None or run.cleared_until > at or run.failure is None:
        return False
    # A client can set a run to running that nobody executes: whoever takes it uses the decision then.
    unused = run.status is RunStatus.RUNNING and run.lease_owner is None
    return unused or run.status in UNUSED_STATUSES


def openings(decisions: Sequence[Decision]) -> Openings:
    """Return what the gates of one failure event were opened by; `decisions` are those about it, in order."""
    found: Openings = {}
    for action in GateAction:
        made = [d for d in decisions if d.kind.value == action.value]
        last = next((d for d in reversed(made) if d.opened), None)
        if last is not None:
            found[action] = [
                d for d in made if d.ordinal <= last.ordinal and not has_ended(d, last.decided_at)
            ]
    return found


def standing(found: Openings, at: datetime) -> Openings:
    """Return the gates whose decisions hold, all of them, at the moment `at`."""
    return {action: made for action, made in found.items() if not any(has_ended(d, at) for d in made)}


def first_end(several: Iterable[Openings]) -> datetime | None:
    """Return when the first of the decisions ends that gates were opened by; None when none does."""
    return earliest_end([d for found in several for made in found.values() for d in made])


def as_of(run: RunSummary, decisions: Sequence[Decision], at: datetime) -> RunSummary:
    """Return the run with the gates closed whose decisions have ended at the moment `at`.

    `decisions` are those about the current failure.
    """
    if not is_over(run, at):
        return run
    opened = {a: made for a, made in openings(decisions).items() if a not in run.blocked_by}
    held = standing(opened, at)
    if held == opened:
        return run
    return run.evolve(
        status=RunStatus.PAUSED if held else RunStatus.FAILED,
        blocked_by=tuple(a for a in GateAction if a in run.blocked_by or (a in opened and a not in held)),
        blocked_since=run.blocked_since or run.cleared_until,
        cleared_by=run.cleared_by if held else None,
        cleared_at=run.cleared_at if held else None,
        cleared_until=first_end([held]),
        updated_at=at,
    )


def closed_gates(run: RunSummary) -> set[tuple[str, str]]:
    """Return failure key and kind of every closed gate of the current failure."""
    return (
        {(run.failure.key, action.value) for action in run.blocked_by} if run.failure is not None else set()
    )

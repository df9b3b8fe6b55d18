"""How far the closed gates of a run are, read from a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from resume_engine.core import clock
from resume_engine.core.decision import Decision, DecisionKind
from resume_engine.core.decision_end import as_of
from resume_engine.core.decisions import origin_of
from resume_engine.core.gate_standing import GateStanding, standing_of
from resume_engine.core.policy import Policy
from resume_engine.core.resume_gates import ResumeBlocker
from resume_engine.core.run_summary import RunSummary, blockers_of

if TYPE_CHECKING:
    from resume_engine.core.store import CheckpointStore


def standings(
    store: CheckpointStore,
    run: RunSummary,
    decisions: Sequence[Decision],
    policy: Policy,
    at: datetime,
    names: Sequence[str] = (),
) -> list[GateStanding]:
    """Return how far each closed gate of the current failure is, in the order to work them.

    `decisions` are those about that failure; `names` are others whose keys' makers will be asked for.
    """
    found = []
    for action in run.blocked_by:
        needed = policy.requirement(DecisionKind(action.value), run.environment, run.workflow_name)
        origin = origin_of(store, run, needed, [*names, *(d.actor for d in decisions)])
        found.append(standing_of(action, needed, decisions, origin, at))
    return found


def blockers_now(store: CheckpointStore, run: RunSummary, policy: Policy) -> list[ResumeBlocker]:
    """Return the decisions that are missing, with how many people have decided and how many must."""
    at = clock.utc_now()
    if run.failure is None or (not policy.rules and run.cleared_until is None):
        return blockers_of(run)
    decisions = store.list_decisions(run.run_id, failure_key=run.failure.key)
    now = as_of(run, decisions, at)
    return [
        replace(blocker, approvals_needed=standing.needed, approvals_given=len(standing.given))
        for blocker, standing in zip(
            blockers_of(now), standings(store, now, decisions, policy, at), strict=True
        )
    ]

"""How far the closed gates of a run are, read from a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from resume_engine.core import clock
from resume_engine.core.decision import Decision, DecisionKind
from resume_engine.core.decision_end import is_over
from resume_engine.core.decisions import origin_of
from resume_engine.core.errors import ResumeBlockedError
from resume_engine.core.gate_closing import as_it_stands
from resume_engine.core.gate_standing import GateStanding, standing_of
from resume_engine.core.policy import Policy
from resume_engine.core.resume_gates import ResumeBlocker
from resume_engine.core.run_summary import RunSummary, blockers_of

if TYPE_CHECKING:
    from resume_engine.core.engine import ResumeEngine
    from resume_engine.core.store import CheckpointStore

Method = TypeVar("Method", bound=Callable[..., Any])


class RunNow(NamedTuple):
    """A run as it stands by the clock, and the decisions that are missing."""

    run: RunSummary
    blockers: list[ResumeBlocker]


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


def run_now(store: CheckpointStore, run: RunSummary, at: datetime) -> tuple[RunSummary, Sequence[Decision]]:
    """Return the run as it stands, decisions that have ended left out, and those about its failure."""
    now = as_it_stands(store, run, at)
    if now.failure is None:
        return now, ()
    return now, store.list_decisions(run.run_id, failure_key=now.failure.key)


def rests_on_decisions(run: RunSummary, policy: Policy, at: datetime) -> bool:
    """Return whether the row of a run alone does not tell what the run waits for."""
    return is_over(run, at) or bool(policy.rules and run.blocked_by)


def judged_now(store: CheckpointStore, run: RunSummary, policy: Policy) -> RunNow:
    """Return a run and what it waits for as both are by now; nothing is read where the row tells it."""
    at = clock.utc_now()
    if not rests_on_decisions(run, policy, at):
        return RunNow(run, blockers_of(run))
    now, decisions = run_now(store, run, at)
    return RunNow(now, with_progress(blockers_of(now), standings(store, now, decisions, policy, at)))


def blockers_now(store: CheckpointStore, run: RunSummary, policy: Policy) -> list[ResumeBlocker]:
    """Return the decisions that are missing, with how many people have decided and how many must."""
    told = store.load_blockers(run.run_id) if run.failure is not None else None
    return judged_now(store, run, policy).blockers if told is None else list(told)


def count_people(refusal: ResumeBlockedError, store: CheckpointStore, policy: Policy) -> None:
    """Let a refusal count the people who decided and those who must: who raised it read no decisions."""
    run = None if refusal.run_id is None else store.load_summary(refusal.run_id)
    if run is None:
        return
    known = {(b.failure_key, b.required_action): b for b in blockers_now(store, run, policy)}
    refusal.blockers = [known.get((b.failure_key, b.required_action), b) for b in refusal.blockers]


def counts_people(method: Method) -> Method:
    """Let a method of an engine whose first argument is a run count the people in a refusal about it."""

    @wraps(method)
    def call(self: ResumeEngine, run_id: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, run_id, *args, **kwargs)
        except ResumeBlockedError as refusal:
            if refusal.run_id == run_id:
                count_people(refusal, self.store, self.policy)
            raise

    return cast(Method, call)


def with_progress(blockers: Sequence[ResumeBlocker], progress: Sequence[GateStanding]) -> list[ResumeBlocker]:
    """Return blockers with how many people have decided and how many must, where that is known."""
    known = {gate.action.value: gate for gate in progress}
    return [_counted(b, known[b.required_action]) if b.required_action in known else b for b in blockers]


def _counted(blocker: ResumeBlocker, gate: GateStanding) -> ResumeBlocker:
    return replace(blocker, approvals_needed=gate.needed, approvals_given=len(gate.given))

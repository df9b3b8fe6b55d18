"""Why the policy lets somebody not decide, told to that person."""

from __future__ import annotations

from resume_engine.core.actor import Actor
from resume_engine.core.decision import DecisionKind
from resume_engine.core.decisions import origin_of
from resume_engine.core.gate_standing import GateStanding
from resume_engine.core.policy import objection
from resume_engine.core.run_summary import RunSummary
from webapp.extensions import current_policy, current_store


def stopped_by(gate: GateStanding, actor: Actor, *, briefly: bool = False) -> str | None:
    """Return why `actor` cannot decide a closed gate now, or None; `briefly`: how many is told beside."""
    reason = gate.objection(actor)
    if reason is not None:
        return sentence(reason)
    if gate.by(actor) is None:
        return None
    return "You have decided already." if briefly else f"You have decided already. {another_person(gate)}"


def may_not(kind: DecisionKind, run: RunSummary, actor: Actor) -> str | None:
    """Return why the policy keeps `actor` from a decision about `run`, as a sentence, or None."""
    needed = current_policy().requirement(kind, run.environment, run.workflow_name)
    reason = objection(needed, actor, origin_of(current_store(), run, needed, [actor.name]))
    return sentence(reason) if reason is not None else None


def another_person(gate: GateStanding) -> str:
    """Return how many people are missing, as a sentence."""
    return "Another person is needed." if gate.missing == 1 else f"{gate.missing} other people are needed."


def sentence(reason: str) -> str:
    """Return the objection of a policy as a sentence."""
    return f"{reason[0].upper()}{reason[1:]}."

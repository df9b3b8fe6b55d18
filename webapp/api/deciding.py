"""Decisions that callers ask for: what an attempt at the same request recorded before it died is its own."""

from __future__ import annotations

from resume_engine.core.decision import Decision
from resume_engine.core.decisions import DecisionRequest, decide
from resume_engine.core.errors import AlreadyDecidedError
from resume_engine.core.run_summary import RunSummary
from webapp.api import one_run, repeats
from webapp.extensions import current_policy, current_store


def made_before(request: DecisionRequest) -> Decision | None:
    """Return the decision that an earlier attempt at this very request made, whatever the run has become."""
    began = repeats.retaken()
    if began is None:
        return None
    made = current_store().list_decisions(request.run_id, failure_key=request.failure_key)
    return next((one for one in made if one.decided_at >= began and _is_of(one, request)), None)


def decided(request: DecisionRequest) -> tuple[RunSummary, Decision]:
    """Record a decision; return the run and what was decided."""
    try:
        return decide(current_store(), request, current_policy())
    except AlreadyDecidedError as first:
        if repeats.retaken() is None or not _is_of(first.decision, request):
            raise
        return one_run.load(request.run_id), first.decision  # by an attempt before the one that was retaken


def _is_of(made: Decision, request: DecisionRequest) -> bool:
    asked = (request.actor.name, request.kind, request.note or None, request.display_name or None)
    return (made.actor, made.kind, made.note, made.display_name) == asked

"""Decisions that callers ask for: what an attempt at the same request recorded before it died is its own."""

from __future__ import annotations

from dataclasses import replace

from resume_engine.core.decision import Decision
from resume_engine.core.decisions import DecisionRequest, decide
from resume_engine.core.errors import AlreadyDecidedError, StaleRunError
from resume_engine.core.run_summary import RunSummary
from webapp.api import conditions, one_run, repeats
from webapp.extensions import current_policy, current_store


def made_before(request: DecisionRequest) -> Decision | None:
    """Return the decision that an earlier attempt at this very request made, whatever the run has become."""
    began = repeats.retaken()
    if began is None:
        return None
    made = current_store().list_decisions(request.run_id, failure_key=request.failure_key)
    return next((one for one in made if one.decided_at >= began and _is_of(one, request)), None)


def decided(run: RunSummary, request: DecisionRequest) -> tuple[RunSummary, Decision]:
    """Record a decision about a run as the caller saw it (If-Match); return the run and what was decided."""
    request = _about_what_was_seen(run, request)
    try:
        return decide(current_store(), request, current_policy())
    except StaleRunError as moved:
        if request.version is None:
            raise
        raise conditions.moved_on(one_run.load(run.run_id)) from moved
    except AlreadyDecidedError as first:
        if repeats.retaken() is None or not _is_of(first.decision, request):
            raise
        return one_run.load(request.run_id), first.decision  # by an attempt before the one that was retaken


def _about_what_was_seen(run: RunSummary, request: DecisionRequest) -> DecisionRequest:
    """Return the request for the version that the caller saw and its failure, or raise that it moved on."""
    version = conditions.expected_version(run)
    if version is None or run.failure is None:
        return request
    return replace(request, failure_key=request.failure_key or run.failure.key, version=version)


def _is_of(made: Decision, request: DecisionRequest) -> bool:
    asked = (request.actor.name, request.kind, request.note or None, request.display_name or None)
    return (made.actor, made.kind, made.note, made.display_name) == asked

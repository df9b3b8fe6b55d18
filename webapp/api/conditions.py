"""Conditional requests: everything that is told about a run has one entity tag."""

from __future__ import annotations

from typing import Any

from flask import Response, make_response, request

from resume_engine.core.run_summary import RunSummary
from webapp.api import one_run
from webapp.errors import PreconditionFailedError


def tag_of(run: RunSummary) -> str:
    """Return the entity tag of a run; the moment of its creation tells it from a later run of the same id.

    What a run waits for changes without a new version: when a decision ends, or with the policy.
    """
    missing = [
        f"-{blocker.required_action}.{blocker.approvals_given}.{blocker.approvals_needed}"
        for blocker in one_run.judged(run).blockers
    ]
    return f"{run.version}-{round(run.created_at.timestamp() * 1_000_000):x}{''.join(missing)}"


def is_known(run: RunSummary) -> bool:
    """Return whether the caller has this version already (If-None-Match)."""
    return request.if_none_match.contains_weak(tag_of(run))


def not_modified(run: RunSummary) -> Response:
    """Return the empty answer to a caller who has this version already."""
    return tagged(Response(status=304), run)


def answer(body: dict[str, Any], run: RunSummary) -> Response:
    """Return `body` as JSON under the run's entity tag."""
    return tagged(make_response(body), run)


def tagged(response: Response, run: RunSummary) -> Response:
    """Return the response with the run's entity tag."""
    response.set_etag(tag_of(run))
    return response


def expected_version(run: RunSummary) -> int | None:
    """Return the version a write is meant for (If-Match), None for any.

    Raises `PreconditionFailedError` when the run is at another one already.
    """
    if "If-Match" not in request.headers:
        return None
    if not request.if_match.contains(tag_of(run)):
        raise moved_on(run)
    return None if request.if_match.star_tag else run.version


def moved_on(run: RunSummary) -> PreconditionFailedError:
    """Return the error for a write that was meant for another version of a run."""
    return PreconditionFailedError(
        f"Run {run.run_id} is at version {run.version} by now. Nothing was changed; look again."
    )

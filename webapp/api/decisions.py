"""Decisions about gates over HTTP; pages, command line and library record them by the same function."""

from __future__ import annotations

from typing import Any

from flask import Response
from flask_openapi3.blueprint import APIBlueprint

from resume_engine.core.decisions import DecisionKind, DecisionRequest
from resume_engine.core.permissions import Permission
from webapp.api import conditions, deciding, one_run
from webapp.api.resource import resource
from webapp.api.shapes import Acknowledge, Approve, Compensate, Problem, RunPath, RunStatusAnswer
from webapp.permissions import current_actor, requires


def blueprint() -> APIBlueprint:
    """Return the resource."""
    api = resource("decisions", __name__)
    responses: Any = {"200": RunStatusAnswer, "409": Problem, "412": Problem}
    api.post("/runs/<path:run_id>/compensate", responses=responses)(compensate)
    api.post("/runs/<path:run_id>/approve", responses=responses)(approve)
    api.post("/runs/<path:run_id>/ack_prod_resume", responses=responses)(ack_prod_resume)
    return api


@requires(Permission.GATES_DECIDE)
def compensate(path: RunPath, body: Compensate) -> Response:
    """Record that the side effects of a partial failure were undone; 400 when there is nothing to undo."""
    return _decide(path, body, DecisionKind.COMPENSATION, result=body.result)


@requires(Permission.GATES_DECIDE)
def approve(path: RunPath, body: Approve) -> Response:
    """Approve that the step of a permanent failure runs again; 400 when there is nothing to approve."""
    return _decide(path, body, DecisionKind.HUMAN_APPROVAL, display_name=body.approved_by)


@requires(Permission.GATES_DECIDE)
def ack_prod_resume(path: RunPath, body: Acknowledge) -> Response:
    """Acknowledge that a run in prod is resumed; 400 on a run that is not in prod."""
    return _decide(path, body, DecisionKind.PROD_RESUME_ACK, display_name=body.acknowledged_by)


def _decide(
    path: RunPath, body: Compensate | Approve | Acknowledge, kind: DecisionKind, **special: Any
) -> Response:
    run = one_run.load(path.run_id)
    request = DecisionRequest(
        run_id=run.run_id,
        kind=kind,
        actor=current_actor(),
        failure_key=body.failure_key,
        note=body.note,
        **special,
    )
    if deciding.made_before(request) is None:
        run, _ = deciding.decided(run, request)
    return conditions.answer(one_run.status_answer(run), run)

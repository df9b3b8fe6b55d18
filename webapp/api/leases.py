"""Who executes a run: claimed, kept, completed, rolled back and let go over HTTP, in one call each."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask_openapi3.blueprint import APIBlueprint

from resume_engine.core import runner_roll_back
from resume_engine.core.errors import InvalidValueError
from resume_engine.core.lease import check_lease_seconds
from resume_engine.core.permissions import Permission
from resume_engine.core.runner_change import claim, close_interrupted, completion
from resume_engine.core.runner_request import Claim, Rollback, RunnerChange
from webapp.api import changes, one_run
from webapp.api.resource import resource
from webapp.api.runner_shapes import Change, ChangeLease, Hold, RollBack
from webapp.api.shapes import Message, Problem, RunPath
from webapp.extensions import current_policy, current_store
from webapp.keys.caller import refuse_to_cancel
from webapp.permissions import current_actor, requires


def blueprint() -> APIBlueprint:
    """Return the resource."""
    api = resource("leases", __name__)
    api.get("/runs/<path:run_id>/lease", responses={"200": Message})(show_lease)
    api.post("/runs/<path:run_id>/lease", responses={"200": Message, "409": Problem})(change_lease)
    api.post("/runs/<path:run_id>/roll_back", responses={"200": Message, "409": Problem})(begin_roll_back)
    return api


@requires(Permission.PAYLOADS_READ)
def show_lease(path: RunPath) -> dict[str, Any]:
    """Return a run as its executors know it."""
    return changes.answer(one_run.load(path.run_id))


@requires(Permission.RUNS_WRITE)
def change_lease(path: RunPath, body: ChangeLease) -> dict[str, Any]:
    """Claim, complete, renew or release a run; repeating a call answers the same."""
    if body.action in ("renew", "release"):
        return _renew(path.run_id, body.lease, body.action == "release")
    change = _needed("change", body.change)
    if body.action == "claim":
        return changes.answer(changes.written(path.run_id, _claim(body, change), claim))
    given = RunnerChange(**changes.common(change))
    if body.action == "complete":
        return changes.answer(changes.written(path.run_id, given, completion))
    run = one_run.load(path.run_id)
    close_interrupted(current_store(), run, given, current_actor(), asked=body.asked)
    return changes.answer(one_run.load(path.run_id))


@requires(Permission.GATES_DECIDE)
def begin_roll_back(path: RunPath, body: RollBack) -> dict[str, Any]:
    """Take a run to undo what it did, overruling its gates; each compensation is recorded as a step."""
    refuse_to_cancel()
    given = Rollback(
        **changes.common(body.change),
        note=body.note,
        compensated=frozenset(body.compensated),
        display_name=body.display_name,
    )
    judge = partial(runner_roll_back.begin, policy=current_policy())
    return changes.answer(changes.written(path.run_id, given, judge))


def _claim(body: ChangeLease, change: Change) -> Claim:
    if change.lease is not None:
        check_lease_seconds("seconds", change.lease.seconds)
    text = body.initial_input_text
    return Claim(
        **changes.common(change),
        steps_total=body.steps_total,
        workflow=body.workflow,
        initial_input=None if text is None else changes.payload("initial_input_text", text),
    )


def _renew(run_id: str, hold: Hold | None, is_over: bool) -> dict[str, Any]:
    run = one_run.load(run_id)
    wanted = _needed("lease", hold)
    seconds = 0.0 if is_over else _needed("seconds", wanted.seconds)
    is_held = current_store().renew_lease(run.run_id, wanted.owner, wanted.token, seconds)
    return {"run_id": run.run_id, "is_held": is_held}


def _needed(field: str, value: Any) -> Any:
    if value is None:
        raise InvalidValueError(field, "is missing for this action")
    return value

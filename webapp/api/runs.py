"""Runs over HTTP."""

from __future__ import annotations

from typing import Any

from flask_openapi3.blueprint import APIBlueprint

from resume_engine.core.permissions import Permission
from resume_engine.core.run import parse_environment
from webapp.api.resource import resource
from webapp.api.shapes import Problem, RunStarted, StartRun
from webapp.extensions import current_engine
from webapp.keys.caller import assert_may_touch
from webapp.permissions import current_actor, requires


def blueprint() -> APIBlueprint:
    """Return the resource; a new one for each application, since its prefix differs."""
    api = resource("runs", __name__)
    api.post("/start_run", responses={"200": RunStarted, "409": Problem})(start_run)
    return api


@requires(Permission.RUNS_WRITE)
def start_run(body: StartRun) -> dict[str, Any]:
    """Start a run; 409 when the id is taken."""
    environment = body.environment or (body.metadata or {}).get("environment") or "dev"
    assert_may_touch(parse_environment(environment))
    run = current_engine().start_run(
        body.workflow_name,
        run_id=body.run_id,
        metadata=body.metadata,
        environment=body.environment,
        actor=current_actor(),
    )
    return {"run_id": run.run_id, "status": run.status.value, "environment": run.environment.value}

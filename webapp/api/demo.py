"""The three runs of the demo, open to everybody where demo mode is on."""

from __future__ import annotations

from typing import Any

from flask_openapi3.blueprint import APIBlueprint

from resume_engine.core import clock
from resume_engine.core.permissions import Permission
from webapp.api.resource import resource
from webapp.api.run_list import run_item
from webapp.api.shapes import DemoReset, DemoRuns
from webapp.demo import three_runs
from webapp.demo.run_ids import DEMO_RUN_IDS
from webapp.extensions import current_engine, run_queries
from webapp.permissions import current_actor, public, requires


def blueprint() -> APIBlueprint:
    """Return the resource."""
    api = resource("demo", __name__)
    api.get("/demo/runs", responses={"200": DemoRuns})(list_demo_runs)
    api.post("/demo/reset", responses={"200": DemoReset})(reset_demo)
    return api


@public
def list_demo_runs() -> dict[str, Any]:
    """Return the three runs of the demo: a transient failure in prod, a partial one, a permanent one."""
    now = clock.utc_now()
    found = sorted(run_queries().load_runs(DEMO_RUN_IDS), key=lambda run: run.run_id)
    return {"runs": [run_item(run, now) for run in found]}


@requires(Permission.GATES_DECIDE)
def reset_demo() -> dict[str, Any]:
    """Bring the runs of the demo back to their failures, finished ones too; `left` names those that are gone.

    Nothing is deleted: the failed step fails once more, which is a new failure with new gates.
    """
    left = three_runs.reset(current_engine(), current_actor())
    return list_demo_runs() | {"left": list(left)}

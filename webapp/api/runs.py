"""Runs over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response
from flask_openapi3.blueprint import APIBlueprint

from resume_engine.core import clock
from resume_engine.core.errors import RunExistsError, RunNotFoundError
from resume_engine.core.idempotency import generate_run_id
from resume_engine.core.permissions import Permission
from resume_engine.core.run import parse_environment
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.workflow import new_run
from resume_engine.storage.keyset import Cursor
from resume_engine.storage.run_text import RunText, load_run_text
from webapp.api import conditions, one_run, repeats
from webapp.api.resource import resource
from webapp.api.run_list import RunListQuery, run_item
from webapp.api.shapes import (
    Problem,
    ResumeBlockers,
    RunAnswer,
    RunPage,
    RunPath,
    RunStarted,
    RunStatusAnswer,
    StartRun,
)
from webapp.extensions import current_store, run_queries
from webapp.keys.caller import assert_may_touch, current_caller, refuse_demo_key
from webapp.permissions import current_actor, requires


def blueprint() -> APIBlueprint:
    """Return the resource; a new one for each application, since its prefix differs."""
    api = resource("runs", __name__)
    api.post("/start_run", responses={"200": RunStarted, "409": Problem})(start_run)
    api.get("/runs", responses={"200": RunPage})(list_runs)
    api.get("/runs/<path:run_id>", responses={"200": RunAnswer, "304": None})(show_run)
    api.get("/runs/<path:run_id>/status", responses={"200": RunStatusAnswer, "304": None})(show_status)
    api.get("/runs/<path:run_id>/resume_blockers", responses={"200": ResumeBlockers, "304": None})(
        list_blockers
    )
    return api


@requires(Permission.RUNS_WRITE)
def start_run(body: StartRun) -> dict[str, Any]:
    """Start a run; 409 when the id is taken, but by the same call with the same `change_id`."""
    environment = body.environment or (body.metadata or {}).get("environment") or "dev"
    assert_may_touch(parse_environment(environment))
    chosen_id = body.run_id or repeats.run_id_of_request() or generate_run_id()
    run = new_run(body.workflow_name, chosen_id, body.metadata, body.environment)
    try:
        current_store().create_run(run, actor=current_actor(), change_id=body.change_id)
    except RunExistsError as taken:
        if not repeats.retaken() and not _is_of_same_call(taken.run_id, body.change_id):
            raise
        return _started_before(taken)
    return {"run_id": run.run_id, "status": run.status.value, "environment": run.environment.value}


def _is_of_same_call(run_id: str, change_id: str | None) -> bool:
    return change_id is not None and one_run.load(run_id).change_id == change_id


def _started_before(taken: RunExistsError) -> dict[str, Any]:
    """Answer for an attempt that died between its run and its answer; the run has to be the caller's own."""
    run = one_run.load(taken.run_id)
    if run.started_by != current_actor().name:
        raise taken
    return {"run_id": run.run_id, "status": run.status.value, "environment": run.environment.value}


@requires(Permission.RUNS_READ)
def list_runs(query: RunListQuery) -> dict[str, Any]:
    """Return runs, newest first; `next_cursor` is where the next page begins."""
    caller = current_caller()
    refuse_demo_key()
    now = clock.utc_now()
    wanted = query.filter(now, caller.environments)
    if wanted.environment is not None:
        assert_may_touch(wanted.environment)
    cursor = Cursor.decode(query.cursor) if query.cursor else None
    page = run_queries().list_runs(wanted, cursor=cursor, limit=query.limit)
    return {"runs": [run_item(run, now) for run in page.items], "next_cursor": page.next_cursor}


@requires(Permission.RUNS_READ)
def show_run(path: RunPath) -> Response:
    """Return a run with all its records; auditors get secrets masked."""
    found = _text(path.run_id, _is_wanted_at_once)
    if found.text is None and not conditions.is_known(found.summary):
        found = _text(path.run_id, lambda run: bool(one_run.allowed(run)))
    if found.text is None:
        return conditions.not_modified(found.summary)
    return conditions.tagged(Response(found.text, content_type="application/json"), found.summary)


def _text(run_id: str, wanted: Callable[[RunSummary], bool]) -> RunText:
    found = load_run_text(current_store(), run_id, masked=not one_run.sees_secrets(), wanted=wanted)
    if found is None:
        raise RunNotFoundError(run_id)
    return found


def _is_wanted_at_once(run: RunSummary) -> bool:
    """Return whether the records are wanted; decisions are not read while the view holds a connection."""
    return not one_run.needs_decisions(one_run.allowed(run)) and not conditions.is_known(run)


@requires(Permission.RUNS_READ)
def show_status(path: RunPath) -> Response:
    """Return how far a run is and what it waits for."""
    run = one_run.load(path.run_id)
    if conditions.is_known(run):
        return conditions.not_modified(run)
    return conditions.answer(one_run.status_answer(run), run)


@requires(Permission.RUNS_READ)
def list_blockers(path: RunPath) -> Response:
    """Return the decisions that are missing before a run may go on."""
    run = one_run.load(path.run_id)
    if conditions.is_known(run):
        return conditions.not_modified(run)
    status = one_run.status_answer(run)
    body = {
        "run_id": run.run_id,
        "can_resume": status["can_resume"],
        "blockers": status["resume_blockers"],
    }
    return conditions.answer(body, run)

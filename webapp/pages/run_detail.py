"""One run: what happened, what blocks it, and what it recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from flask import Blueprint, abort, make_response, redirect, render_template, request
from flask.typing import ResponseReturnValue
from flask_login import current_user

from resume_engine.core import clock
from resume_engine.core.payload import is_storable
from resume_engine.core.permissions import Permission
from resume_engine.core.run import FINISHED_STATUSES
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import StepKind
from resume_engine.storage import previews
from resume_engine.storage.audit_queries import EventFilter
from resume_engine.storage.gate_queries import Aftermath
from resume_engine.storage.run_page_queries import RunPage, RunPageQueries
from resume_engine.storage.step_queries import AttemptMark
from webapp.extensions import audit_queries, current_store, step_queries
from webapp.htmx import is_htmx
from webapp.pages import run_steps
from webapp.pages.gate_item import GateItem, item_of
from webapp.pages.run_timeline import LATEST_ATTEMPTS, Timeline, timeline_of
from webapp.permissions import requires

RUN_ID_CHARACTERS = 36
EVENTS_PER_PAGE = 50
TRACE_LINES = 50
CHANGED = "run-changed"
"""The event by which the header tells the other parts of the page that the run is no longer as shown."""
STOP_POLLING = 286  # htmx's own status: show this, then ask no more

blueprint = Blueprint("run_detail", __name__)


@dataclass(frozen=True, kw_only=True)
class Tab:
    """One part of the record of a run."""

    name: str
    label: str
    href: str
    current: bool
    count: int | None = None


@blueprint.get("/runs/<path:run_id>")
@requires(Permission.RUNS_READ)
def show(run_id: str) -> ResponseReturnValue:
    """Show a run, or only the part below its head when htmx asks."""
    now = clock.utc_now()
    page = load_or_404(run_id)
    body = _body(page, now)
    if is_htmx():
        return render_template("runs/_body.html", **body)
    return render_template("runs/detail.html", **body, item=_item(page, body["attempts"]))


@blueprint.get("/runs/<path:run_id>/header")
@requires(Permission.RUNS_READ)
def header(run_id: str) -> ResponseReturnValue:
    """Return the head of a run's page, for the page that renews it until the run is finished."""
    run = summary_or_404(run_id)
    finished = run.status in FINISHED_STATUSES
    changed = request.args.get("v") != str(run.version)
    body = render_template("runs/_header.html", run=run, renew_count=changed)
    response = make_response(body, STOP_POLLING if finished else 200)
    if changed:
        response.headers["HX-Trigger"] = CHANGED
    return response


@blueprint.get("/runs/<path:run_id>/case")
@requires(Permission.RUNS_READ)
def case(run_id: str) -> ResponseReturnValue:
    """Return what stopped a run and the forms to decide, for a page that was opened before it stopped."""
    page = load_or_404(run_id)
    return render_template("runs/_case.html", run=page.case.run, item=_item(page, None))


@blueprint.get("/runs/<path:run_id>/steps/<int(max=999999999):sequence>")
@requires(Permission.RUNS_READ)
def step(run_id: str, sequence: int) -> ResponseReturnValue:
    """Return the values of one recorded attempt, for a page on which it is opened; else go to that page."""
    if not is_htmx():
        run = summary_or_404(run_id)
        return redirect(run_steps.record_href(run.run_id, sequence), 303)
    record = step_queries().load_step_view(run_id, sequence) if can_be_an_id(run_id) else None
    if record is None:
        abort(404, f"This run has no record {sequence}.")
    return render_template("runs/_record.html", run_id=run_id, record=record)


def load_or_404(run_id: str) -> RunPage:
    """Return a run with its decisions; answers 404 and says what to check when there is none."""
    found = RunPageQueries(current_store()).load(run_id) if can_be_an_id(run_id) else None
    return found or _no_such_run(run_id)


def summary_or_404(run_id: str) -> RunSummary:
    """Return a run's row, its secrets masked; answers 404 and says what to check when there is none."""
    found = current_store().load_summary(run_id) if can_be_an_id(run_id) else None
    return previews.shown(found) if found is not None else _no_such_run(run_id)


def can_be_an_id(run_id: str) -> bool:
    """Return whether a run may have this id; anything else need not be looked for."""
    return 0 < len(run_id) <= RUN_ID_CHARACTERS and is_storable(run_id)


def _no_such_run(run_id: str) -> Any:
    shown = run_id if len(run_id) <= 60 else f"{run_id[:60]}…"
    if can_be_an_id(run_id) and audit_queries().list_events(EventFilter(run_id=run_id), limit=1)[0]:
        abort(
            404,
            f"Run “{shown}” was deleted after it was finished (resume-engine gc). What happened to it is "
            "still in the audit log: look there for its id.",
        )
    abort(
        404,
        f"There is no run “{shown}” in this database. Check that the id is complete (the search above finds "
        "runs by the beginning of theirs) and that this dashboard reads the database the run was written to.",
    )


def _item(page: RunPage, attempts: Sequence[AttemptMark] | None) -> GateItem | None:
    """Return the current failure with its forms; None when nothing is wrong with the run."""
    run = page.case.run
    if run.failure is None:
        return None
    aftermath = None
    if attempts is not None and page.case.decisions:
        later = [a for a in attempts if a.sequence > run.failure.sequence and a.kind is StepKind.STEP]
        aftermath = Aftermath(resumed=page.resumed, attempts=later)
    return item_of(page.case, next_page=f"/runs/{quote(run.run_id)}", aftermath=aftermath)


def _body(page: RunPage, now: datetime) -> dict[str, Any]:
    """Return the context of timeline and tab, in two statements at most."""
    name = request.args.get("tab", "steps")
    if name not in _TABS:
        abort(400, f"tab: found {name[:40]!r}. There are: {', '.join(_TABS)}.")
    run = page.case.run
    context = _TABS[name][1](page)
    attempts = _attempts(run, context)
    timeline: Timeline = timeline_of(run, attempts, page.decisions, now)
    return {
        "run": run,
        "tab": name,
        "tabs": _tab_links(page, name),
        "me": current_user.email,
        "attempts": attempts,
        "pieces": timeline.pieces,
        "timeline_words": timeline.words,
        "latest_decision": page.decisions[-1] if page.decisions else None,
        "here": request.full_path.rstrip("?"),
        **context,
    }


def _attempts(run: RunSummary, context: dict[str, Any]) -> Sequence[AttemptMark]:
    """Return what the timeline draws: the records on the page when they are all there are."""
    steps = context.get("steps")
    if steps is not None and not steps.only_failed and len(steps.records) == run.next_sequence:
        shown: Sequence[AttemptMark] = steps.records
        return shown
    return step_queries().list_attempts(run.run_id, latest=LATEST_ATTEMPTS)


def _tab_links(page: RunPage, current: str) -> list[Tab]:
    run_id = page.case.run.run_id
    counts = {"steps": page.case.run.next_sequence, "decisions": len(page.decisions)}
    return [
        Tab(
            name=name,
            label=label,
            href=f"/runs/{quote(run_id)}?tab={name}",
            current=name == current,
            count=counts.get(name),
        )
        for name, (label, _) in _TABS.items()
    ]


def _steps(page: RunPage) -> dict[str, Any]:
    return {"steps": run_steps.load(step_queries(), page.case.run, run_steps.read(request.args))}


def _decisions(page: RunPage) -> dict[str, Any]:
    return {"decisions": list(reversed(page.decisions))}


def _events(page: RunPage) -> dict[str, Any]:
    run_id, before = page.case.run.run_id, request.args.get("before", "")
    if before and not (before.isascii() and before.isdigit() and len(before) < 16):
        abort(400, f"before: found {before[:40]!r}. It is the number of an event.")
    found, more = audit_queries().list_events(
        EventFilter(run_id=run_id), before=int(before) if before else None, limit=EVENTS_PER_PAGE
    )
    older = f"/runs/{quote(run_id)}?tab=events&before={found[-1].event_id}" if more else None
    return {"events": found, "events_next": older, "is_first_page": not before}


def _trace(page: RunPage) -> dict[str, Any]:
    run = page.case.run
    lines = RunPageQueries(current_store()).trace_start(run.run_id, limit=TRACE_LINES)
    return {
        "trace": "\n".join([run.run_id, run.workflow_name, *lines]),
        "trace_left": max(0, run.next_sequence - len(lines)),
    }


def _metadata(page: RunPage) -> dict[str, Any]:
    return {"metadata_text": page.metadata_text, "metadata_size": page.metadata_size}


_TABS: dict[str, tuple[str, Callable[[RunPage], dict[str, Any]]]] = {
    "steps": ("Steps", _steps),
    "decisions": ("Decisions", _decisions),
    "events": ("Audit events", _events),
    "trace": ("Audit trace", _trace),
    "metadata": ("Metadata", _metadata),
}

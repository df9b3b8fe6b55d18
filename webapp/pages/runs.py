"""The run explorer: where is my run?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from resume_engine.core import clock
from resume_engine.core.permissions import Permission
from resume_engine.core.run import Environment
from resume_engine.core.run_summary import RunSummary
from resume_engine.storage.keyset import Page
from resume_engine.storage.run_filter import RunFilter
from webapp import presentation
from webapp.extensions import run_queries
from webapp.htmx import is_htmx
from webapp.pages import run_url
from webapp.pages.list_address import since_choices
from webapp.pages.run_url import RunListAddress
from webapp.permissions import requires

PAGE_SIZE = 50
SHORT_ID_CHARACTERS = 8
"""The beginning of an id that lists show; with so much of it one hit is the run that was meant."""

blueprint = Blueprint("runs", __name__)


@dataclass(frozen=True, kw_only=True)
class RunList:
    """One page of runs with the addresses around it."""

    runs: Sequence[RunSummary]
    first: str | None = None
    prev: str | None = None
    next: str | None = None
    refresh: str | None = None

    @property
    def shown(self) -> int:
        """Return how many rows the page has."""
        return len(self.runs)


@blueprint.get("/runs")
@requires(Permission.RUNS_READ)
def explorer() -> ResponseReturnValue:
    """Show the runs that the address asks for, newest first."""
    now = clock.utc_now()
    asked = run_url.read(request.args, now)
    if "live" in request.args:
        return _changes(asked)
    names = run_queries().workflow_names()
    if asked.problems:
        return _page(asked, names, RunList(runs=()), status=400)
    found = run_queries().list_runs(asked.filter, cursor=asked.cursor, limit=PAGE_SIZE, names=names)
    only = _the_one_meant(asked, found)
    if only is not None:
        return redirect(url_for("run_detail.show", run_id=only.run_id), 303)
    return _page(asked, names, _run_list(asked, found))


def _page(asked: RunListAddress, names: Sequence[str], page: RunList, status: int = 200) -> Response:
    body = render_template(
        "runs/_table.html" if is_htmx() else "runs/list.html",
        filters=asked.filters,
        options=_options(names, asked),
        chips=asked.chips(),
        problems=asked.problems,
        page=page,
        newest=asked.href(),
        is_past_end=asked.cursor is not None,
        any_runs=bool(page.runs) or _any_runs(asked),
    )
    return make_response(body, status)


def _changes(asked: RunListAddress) -> ResponseReturnValue:
    """Answer a page that renews itself: its rows that look different by now, and how many runs are new.

    The rows come by id, so that one which has left the filter says what became of it instead of standing
    there as it was. New is what a fresh first page has beyond them, since a run may also be new to a
    filter because it was blocked just now.
    """
    now, shown = clock.utc_now(), run_url.read_shown(request.args, PAGE_SIZE)
    fresh: Sequence[RunSummary] = ()
    if asked.cursor is None and not asked.problems:
        fresh = run_queries().list_runs(asked.filter, limit=PAGE_SIZE).items
    found = {run.run_id: run for run in fresh}
    missing = [run_id for run_id in shown if run_id not in found]
    if missing:
        found |= {run.run_id: run for run in run_queries().load_runs(missing)}
    changed = [
        found[run_id] for run_id in shown if run_id in found and look(found[run_id], now) != shown[run_id]
    ]
    return render_template(
        "runs/_changes.html",
        runs=changed,
        new_count=len({run.run_id for run in fresh} - set(shown)),
        newest=asked.href(),
        page_size=PAGE_SIZE,
    )


def look(run: RunSummary, now: datetime) -> str:
    """Return what changes whenever the run's row would show something else."""
    return f"{run.version}-{run.state(now)}"


def _run_list(asked: RunListAddress, found: Page[RunSummary]) -> RunList:
    return RunList(
        runs=found.items,
        first=asked.href() if found.previous_cursor else None,
        prev=asked.href(cursor=found.previous_cursor) if found.previous_cursor else None,
        next=asked.href(cursor=found.next_cursor) if found.next_cursor else None,
        refresh=run_url.live_href(asked),
    )


def _the_one_meant(asked: RunListAddress, found: Page[RunSummary]) -> RunSummary | None:
    """Return the run whose id, or enough of it, was typed into the search and nothing else was asked."""
    search = asked.words.get("q", "")
    if set(asked.words) != {"q"} or is_htmx() or len(found.items) != 1:
        return None
    run = found.items[0]
    meant = len(search) >= SHORT_ID_CHARACTERS and run.run_id.startswith(search)
    return run if meant or run.run_id == search else None


def _any_runs(asked: RunListAddress) -> bool:
    """Return whether there are runs at all; asked only when none is shown."""
    if not asked.is_filtered and asked.cursor is None:
        return False
    return bool(run_queries().list_runs(RunFilter(), limit=1).items)


def _options(names: Sequence[str], asked: RunListAddress) -> dict[str, list[tuple[str, Any]]]:
    """Return the choices of the filter form; a workflow that is asked for and unknown stays choosable."""
    wanted = asked.words.get("workflow")
    workflows = [*names, *([wanted] if wanted and wanted not in names else [])]
    return {
        "status": [(word, look.label) for word, look in presentation.STATES.items()],
        "workflow": [(name, name) for name in workflows],
        "environment": [(word.value, word.value) for word in Environment],
        "failure": [(word, look.label) for word, look in presentation.FAILURES.items()],
        "blocked_by": [(word, presentation.GATES[word].label) for word in presentation.OPEN_GATES],
        "since": since_choices(),
    }

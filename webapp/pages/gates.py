"""The gate queue: what waits for a person, and what was decided lately."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256

from flask import Blueprint, Response, render_template, request
from flask.typing import ResponseReturnValue

from resume_engine.core import clock
from resume_engine.core.errors import RunNotFoundError
from resume_engine.core.permissions import Permission
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment
from resume_engine.core.run_summary import RunSummary
from resume_engine.storage.gate_queries import Decided
from resume_engine.storage.keyset import Page
from webapp.extensions import current_policy, current_store, gate_queries, run_queries
from webapp.htmx import is_htmx
from webapp.pages import gate_list, meanwhile
from webapp.pages.gate_item import GateItem, load_item, version_of
from webapp.pages.gate_list import GateListAddress
from webapp.pages.waiting import Counts, counts
from webapp.permissions import requires
from webapp.redirects import own_path

PAGE_SIZE = 50
DECIDED_WITHIN = timedelta(hours=1)
DECIDED_LIMIT = 50
STOP_POLLING = 286  # htmx's own status: show this, then ask no more
TYPING = "X-Typing"  # sent in place of `v` while somebody works in a form: `GateItem.mark`
IN_ITS_PLACE = {"HX-Retarget": "#meanwhile"}

blueprint = Blueprint("gates", __name__)


@blueprint.get("/gates")
@requires(Permission.RUNS_READ)
def show() -> ResponseReturnValue:
    """Show the queue, with the chosen item or else the one that waits longest."""
    address = gate_list.read(request.args)
    page = _waiting_page(address)
    item = _chosen(address, page)
    return render_template(
        "gates/list.html",
        **_list_context(address, page, item),
        options=_options(),
        chips=address.chips(),
        following=_following(address, page, item),
        alike=_alike(address, page, item),
    )


@blueprint.get("/gates/queue")
@requires(Permission.RUNS_READ)
def queue() -> ResponseReturnValue:
    """Return list and counts for the page that renews them; nothing while they are the same."""
    address = gate_list.read(request.args)
    page = _waiting_page(address)
    context = _list_context(address, page, None)
    if request.args.get("v") == context["queue_version"]:
        return "", 204
    return render_template("gates/_queue.html", **context, renew_count=True)


@blueprint.get("/gates/decided")
@requires(Permission.RUNS_READ)
def decided() -> ResponseReturnValue:
    """Show what was decided in the last hour, and where those runs stand now."""
    now = clock.utc_now()
    found = gate_queries().decided_since(now - DECIDED_WITHIN, limit=DECIDED_LIMIT)
    context = {"decided": latest_of_each(found), "link": gate_list.href}
    return render_template("gates/_decided.html" if is_htmx() else "gates/decided.html", **context)


@blueprint.get("/gates/<path:run_id>/decision")
@requires(Permission.RUNS_READ)
def decision(run_id: str) -> ResponseReturnValue:
    """Return the forms, receipts and story of one failure, for the page that renews them.

    Where somebody works in a form, that is left alone: told is what has become of it meanwhile.
    """
    run = current_store().load_summary(run_id)
    if run is None:
        raise RunNotFoundError(run_id)
    version, typing = version_of(run, clock.utc_now()), request.headers.get(TYPING)
    if version == (meanwhile.version_in(typing) if typing is not None else request.args.get("v")):
        return "", 204
    item = load_item(run_id, request.args.get("failure"), next_page=own_path(request.args.get("next")))
    if item is None:
        raise RunNotFoundError(run_id)
    if typing is not None:
        news = meanwhile.tell(item, version, typing)
        return Response(render_template("gates/_meanwhile.html", item=item, news=news), headers=IN_ITS_PLACE)
    body = render_template("gates/_decision.html", item=item)
    return Response(body, STOP_POLLING if item.every_seconds is None else 200)


def latest_of_each(found: Sequence[Decided]) -> list[Decided]:
    """Return the newest decision about each failure, newest first."""
    newest: dict[tuple[str, str], Decided] = {}
    for entry in found:
        newest.setdefault((entry.run.run_id, entry.decision.failure_key), entry)
    return list(newest.values())


def _waiting_page(address: GateListAddress) -> Page[RunSummary]:
    return run_queries().list_blocked(
        action=address.kind,
        environment=address.environment,
        workflow=address.workflow,
        message_start=address.cause,
        cursor=address.cursor,
        limit=PAGE_SIZE,
    )


def _chosen(address: GateListAddress, page: Page[RunSummary]) -> GateItem | None:
    run_id = address.run or (page.items[0].run_id if page.items else None)
    if run_id is None:
        return None
    shown = next((run for run in page.items if run.run_id == run_id), None)
    item = load_item(run_id, address.failure, next_page=address.item_href(shown) if shown else None)
    if item is None and address.run:
        raise RunNotFoundError(run_id)
    return item


def _list_context(
    address: GateListAddress, page: Page[RunSummary], item: GateItem | None
) -> dict[str, object]:
    chosen = item.run.run_id if item else address.run
    numbers = counts(address)
    version = _version(page, chosen, numbers)
    return {
        "runs": page.items,
        "chosen": chosen,
        "links": {run.run_id: address.item_href(run) for run in page.items},
        "queue_version": version,
        "refresh": address.refresh_href(chosen, version),
        "older": address.href(cursor=page.next_cursor) if page.next_cursor else None,
        "newer": address.href(cursor=page.previous_cursor) if page.previous_cursor else None,
        "item": item,
        "filters": address.filters,
        "filtered": address.is_filtered,
        "counts": numbers,
        "progress": progress_words(page.items),
    }


def progress_words(runs: Sequence[RunSummary]) -> dict[str, str]:
    """Return how far the first closed gate of some runs is, by run id, where several people are needed."""
    found = gate_queries().progress(runs, current_policy(), clock.utc_now())
    return {run_id: gates[0].words for run_id, gates in found.items() if gates and gates[0].words}


def _version(page: Page[RunSummary], chosen: str | None, numbers: Counts) -> str:
    """Return what changes whenever list or counts would show something else than other ages."""
    rows = [f"{run.run_id}.{run.version}" for run in page.items]
    words = [*rows, str(page.next_cursor is None), chosen or "", numbers.version]
    return sha256("|".join(words).encode()).hexdigest()[:12]


def _options() -> dict[str, list[tuple[str, str]]]:
    names = run_queries().workflow_names()
    return {
        "environment": [(word.value, word.value) for word in Environment],
        "workflow": [(name, name) for name in names],
    }


def _following(address: GateListAddress, page: Page[RunSummary], item: GateItem | None) -> str | None:
    """Return the address of the next run of this page behind the chosen one."""
    ids = [run.run_id for run in page.items]
    if item is None or item.run.run_id not in ids:
        return address.item_href(page.items[0]) if item and page.items else None
    behind = ids.index(item.run.run_id) + 1
    return address.item_href(page.items[behind]) if behind < len(ids) else None


def _alike(
    address: GateListAddress, page: Page[RunSummary], item: GateItem | None
) -> dict[str, object] | None:
    """Return how many runs of this page wait for an approval because of the same error, if several do."""
    if item is None or item.form is None or GateAction.HUMAN_APPROVAL not in item.waiting:
        return None
    cause = gate_list.cause_of(item.run)
    same = [
        r for r in page.items if GateAction.HUMAN_APPROVAL in r.blocked_by and gate_list.cause_of(r) == cause
    ]
    if len(same) < 2 or not cause:
        return None
    return {
        "count": len(same),
        "more": page.next_cursor is not None,
        "href": gate_list.bulk_href(cause, address),
    }

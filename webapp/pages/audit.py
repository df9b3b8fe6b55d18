"""The audit log: who allowed what?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flask import Blueprint, abort, render_template, request
from flask.typing import ResponseReturnValue

from resume_engine.core import clock
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.audit_export import csv_lines, jsonl_lines
from resume_engine.core.permissions import Permission
from resume_engine.storage.audit_state import load_audit_state
from webapp.extensions import audit_queries, current_store
from webapp.pages import audit_list
from webapp.pages.audit_list import AuditAddress
from webapp.pages.downloads import attachment
from webapp.pages.list_address import since_choices
from webapp.permissions import can, current_actor, requires

PAGE_SIZE = 100
FORMATS = {
    "jsonl": (jsonl_lines, "application/x-ndjson; charset=utf-8"),
    "csv": (csv_lines, "text/csv; charset=utf-8"),
}
"""How events can be taken away: without any loss, or as a table whose cells are never formulas."""

blueprint = Blueprint("audit", __name__)


@dataclass(frozen=True, kw_only=True)
class EventPage:
    """One page of events with the addresses around it."""

    events: Sequence[AuditEvent]
    first: str | None = None
    prev: str | None = None
    next: str | None = None

    @property
    def shown(self) -> int:
        """Return how many lines the page has."""
        return len(self.events)


@blueprint.get("/audit")
@requires(Permission.AUDIT_READ)
def show() -> ResponseReturnValue:
    """Show the events that the address asks for, newest first."""
    address = audit_list.read(request.args, clock.utc_now())
    page = _page(address)
    return render_template(
        "audit/list.html",
        filters=address.filters,
        options={
            "kind": audit_list.kinds(),
            "since": since_choices(),
        },
        chips=address.chips(),
        events=page.events,
        page=page,
        first_page=address.is_first_page,
        newest=address.href(),
        integrity=load_audit_state(current_store()) if address.shows_everything else None,
        exports=_exports(address) if can(Permission.AUDIT_EXPORT) and page.events else None,
    )


@blueprint.get("/audit/export.<format_name>")
@requires(Permission.AUDIT_EXPORT)
def export(format_name: str) -> ResponseReturnValue:
    """Send every event of the filter as a file, oldest first; the export is an event itself."""
    if format_name not in FORMATS:
        abort(404, f"There is no export as {format_name[:20]!r}: {', '.join(FORMATS)}.")
    now = clock.utc_now()
    address = audit_list.read(request.args, now)
    wanted = address.filter
    if wanted.until is None or wanted.until > now:
        wanted = replace(wanted, until=now)  # a file that is being written does not chase its own end
    payload = {"what": f"events.{format_name}", "filter": {n: t for n, t in address.filters.items() if t}}
    current_store().append_event(
        AuditEvent.by(current_actor(), EventType.AUDIT_EXPORTED, now, payload=payload)
    )
    lines, content_type = FORMATS[format_name]
    name = f"audit-events-{now:%Y%m%dT%H%M%SZ}.{format_name}"
    return attachment(lines(audit_queries().stream(wanted)), content_type, name)


def _page(address: AuditAddress) -> EventPage:
    events, more = audit_queries().list_events(
        address.filter, before=address.before, after=address.after, limit=PAGE_SIZE
    )
    if not events:
        return EventPage(events=())
    backwards = address.after is not None
    has_newer = more if backwards else address.before is not None
    has_older = True if backwards else more
    return EventPage(
        events=events,
        first=address.href() if has_newer else None,
        prev=address.href(after=str(events[0].event_id)) if has_newer else None,
        next=address.href(before=str(events[-1].event_id)) if has_older else None,
    )


def _exports(address: AuditAddress) -> dict[str, str]:
    return {name: address.href(f"{audit_list.PATH}/export.{name}") for name in FORMATS}

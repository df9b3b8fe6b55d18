"""What can be taken away from a run: its audit log, its events, and single inputs and outputs as recorded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote

from flask import Blueprint, Response, abort, request
from werkzeug import Response as BaseResponse

from resume_engine.core import clock
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.audit_export import csv_lines, jsonl_lines
from resume_engine.core.masking import mask_json_text
from resume_engine.core.permissions import Permission
from resume_engine.core.run_summary import RunSummary
from resume_engine.storage.compliance_export import compliance_export
from resume_engine.storage.sql_store import SqlCheckpointStore
from webapp.accounts.step_up import confirm_first, is_recent
from webapp.extensions import audit_queries, audit_signer, current_store, step_queries
from webapp.json_view import is_masked
from webapp.pages.decision_forms import needs_proof
from webapp.pages.run_detail import summary_or_404
from webapp.permissions import can, current_actor, requires

blueprint = Blueprint("downloads", __name__)


@blueprint.get("/runs/<path:run_id>/audit-log")
@requires(Permission.AUDIT_EXPORT)
def audit_log(run_id: str) -> BaseResponse:
    """Send the audit trace, byte for byte what `engine.get_audit_log` returns.

    Who may not reveal secrets gets it with the secrets in it masked, and its name says so then. Who may gives
    the password first if it holds secrets of a run in prod.
    """
    run = summary_or_404(run_id)
    if can(Permission.PAYLOADS_REVEAL) and needs_proof(run) and not is_recent() and _has_secrets(run):
        return confirm_first(
            "You signed in a while ago, and this audit log holds secrets of a run in prod. "
            "Type your password, then download it again.",
            f"/runs/{quote(run_id, safe='')}",
        )
    _note_export(run_id, "audit log")
    lines, name = trace_lines(current_store(), run), f"audit-log-{run_id}.txt"
    if can(Permission.PAYLOADS_REVEAL):
        if request.method == "GET":
            lines = _noting_secrets(lines, current_store(), look(run_id, "audit log"))
    elif _has_secrets(run):
        lines, name = map(mask_json_text, lines), f"audit-log-masked-{run_id}.txt"
    return attachment(lines, "text/plain; charset=utf-8", name)


@blueprint.get("/runs/<path:run_id>/events.jsonl")
@requires(Permission.AUDIT_EXPORT)
def events_jsonl(run_id: str) -> Response:
    """Send all events of a run, recorded steps among them, one JSON object a line."""
    summary_or_404(run_id)
    _note_export(run_id, "events.jsonl")
    lines = jsonl_lines(audit_queries().stream_run(run_id))
    return attachment(lines, "application/x-ndjson; charset=utf-8", f"events-{run_id}.jsonl")


@blueprint.get("/runs/<path:run_id>/events.csv")
@requires(Permission.AUDIT_EXPORT)
def events_csv(run_id: str) -> Response:
    """Send all events of a run as a table for spreadsheets; no cell of it is a formula."""
    summary_or_404(run_id)
    _note_export(run_id, "events.csv")
    lines = csv_lines(audit_queries().stream_run(run_id))
    return attachment(lines, "text/csv; charset=utf-8", f"events-{run_id}.csv")


@blueprint.get("/runs/<path:run_id>/compliance.json")
@requires(Permission.AUDIT_EXPORT)
def compliance(run_id: str) -> Response:
    """Send everything about a run in one file that proves itself, secrets masked."""
    run = summary_or_404(run_id)
    _note_export(run_id, "compliance export")
    lines = compliance_export(current_store(), run.run_id, signer=audit_signer())
    return attachment(lines, "application/json", f"compliance-{run_id}.json")


@blueprint.get("/runs/<path:run_id>/steps/<int(max=999999999):sequence>/<any(input, output):which>")
@requires(Permission.RUNS_READ)
def step_value(run_id: str, sequence: int, which: str) -> Response:
    """Send the input or output of one attempt as it is stored, secrets masked."""
    summary_or_404(run_id)
    text = step_queries().load_step_json(run_id, sequence, which)
    if text is None:
        abort(404, f"Record {sequence} of this run has no {which}. Failed attempts record no output.")
    _note_export(run_id, f"step {which}", sequence=sequence)
    masked = "masked-" if is_masked(text) else ""
    return attachment([text], "application/json", f"{which}-{masked}{sequence}-{run_id}.json")


def trace_lines(store: SqlCheckpointStore, run: RunSummary) -> Iterator[str]:
    """Yield the audit trace in pieces, so that no run is too long for the memory."""
    yield run.run_id
    yield f"\n{run.workflow_name}"
    for record in store.iter_steps(run.run_id):
        yield f"\n{record.audit_line()}"


def _has_secrets(run: RunSummary) -> bool:
    return any(mask_json_text(line) != line for line in trace_lines(current_store(), run))


def look(run_id: str, field: str, sequence: int | None = None) -> AuditEvent:
    """Return the event of the signed-in person seeing masked values; it is written before they are sent."""
    payload: dict[str, str | int] = {"field": field}
    if sequence is not None:
        payload["sequence"] = sequence
    return AuditEvent.by(
        current_actor(), EventType.PAYLOAD_REVEALED, clock.utc_now(), run_id=run_id, payload=payload
    )


def _noting_secrets(lines: Iterator[str], store: SqlCheckpointStore, seen: AuditEvent) -> Iterator[str]:
    """Yield the lines as they are; the first that holds a secret is noted before it is sent."""
    for line in lines:
        if mask_json_text(line) != line:
            store.append_event(seen)
            yield line
            break
        yield line
    yield from lines


def attachment(lines: Iterable[str], content_type: str, name: str) -> Response:
    """Return a streamed download under a name that every system can keep."""
    response = Response((line.encode() for line in lines), content_type=content_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{safe_name(name)}"'
    return response


def safe_name(name: str) -> str:
    """Return a file name of plain ASCII letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip("._-")


def _note_export(run_id: str, what: str, *, sequence: int | None = None) -> None:
    """Record who took what, before the first byte is sent; a HEAD request takes nothing."""
    current_store().refuse_if_locked()  # once the answer has begun, it is too late to say so
    if request.method != "GET":
        return
    payload: dict[str, str | int] = {"what": what}
    if sequence is not None:
        payload["sequence"] = sequence
    actor, now = current_actor(), clock.utc_now()
    current_store().append_event(
        AuditEvent.by(actor, EventType.AUDIT_EXPORTED, now, run_id=run_id, payload=payload)
    )

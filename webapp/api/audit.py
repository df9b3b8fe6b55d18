"""What auditors read of a run: its trace, its events, and everything in one file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from flask import Response
from flask_openapi3.blueprint import APIBlueprint

from resume_engine.core import clock
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.masking import mask_json_text
from resume_engine.core.permissions import Permission
from resume_engine.core.run import trace_lines
from resume_engine.core.step_record import StepKind
from resume_engine.storage import previews
from resume_engine.storage.compliance_export import compliance_export
from resume_engine.storage.event_texts import event_texts
from webapp.api import conditions, one_run
from webapp.api.resource import resource
from webapp.api.shapes import AuditEvents, AuditLog, ComplianceExport, Replay, RunPath
from webapp.extensions import audit_signer, current_store
from webapp.permissions import current_actor, requires

ITEMS_PER_PIECE = 100
"""To send each item by itself would cost more than to make it."""


def blueprint() -> APIBlueprint:
    """Return the resource."""
    api = resource("audit", __name__)
    api.get("/runs/<path:run_id>/audit_log", responses={"200": AuditLog, "304": None})(audit_log)
    api.get("/runs/<path:run_id>/audit_events", responses={"200": AuditEvents})(audit_events)
    api.get("/runs/<path:run_id>/compliance_export", responses={"200": ComplianceExport})(compliance)
    api.get("/runs/<path:run_id>/replay", responses={"200": Replay, "304": None})(replay)
    return api


@requires(Permission.AUDIT_READ)
def audit_log(path: RunPath) -> Response:
    """Return the audit trace, byte for byte what the library returns; masked for who may not see secrets."""
    run = one_run.load(path.run_id)
    if conditions.is_known(run):
        return conditions.not_modified(run)
    trace = "\n".join(trace_lines(run.run_id, run.workflow_name, current_store().iter_steps(run.run_id)))
    shown = trace if one_run.sees_secrets() else "\n".join(map(mask_json_text, trace.split("\n")))
    return conditions.answer(
        {"run_id": run.run_id, "audit_trace": shown, "is_masked": shown != trace},
        run,
    )


@requires(Permission.AUDIT_READ)
def audit_events(path: RunPath) -> Response:
    """Return every event of a run, oldest first, recorded steps among them; secrets are masked."""
    run = one_run.load(path.run_id)
    current_store().refuse_if_locked()  # once the answer has begun, it is too late to say so
    return streamed({"run_id": run.run_id}, "events", event_texts(current_store(), run.run_id))


@requires(Permission.AUDIT_EXPORT)
def compliance(path: RunPath) -> Response:
    """Return everything about a run in one file that proves itself: see docs/audit.md; secrets are masked."""
    run = one_run.load(path.run_id)
    current_store().refuse_if_locked()
    payload = {"what": "compliance export"}
    event = AuditEvent.by(
        current_actor(), EventType.AUDIT_EXPORTED, clock.utc_now(), run_id=run.run_id, payload=payload
    )
    current_store().append_event(event)
    lines = compliance_export(current_store(), run.run_id, signer=audit_signer())
    return Response((line.encode() for line in lines), content_type="application/json")


@requires(Permission.RUNS_READ)
def replay(path: RunPath) -> Response:
    """Return the completed steps of a run, in the order in which a replay takes them."""
    run = one_run.load(path.run_id)
    if conditions.is_known(run):
        return conditions.not_modified(run)
    current_store().refuse_if_locked()
    head = {
        "run_id": run.run_id,
        "workflow_name": run.workflow_name,
        "environment": run.environment.value,
        "replay_from_index": run.resume_from_index,
    }
    steps: Iterator[dict[str, Any]] = (
        record.to_dict()
        for record in current_store().iter_steps(run.run_id, completed_only=True)
        if record.kind is StepKind.STEP
    )
    if not one_run.sees_secrets():
        steps = map(previews.step_fields, steps)
    return conditions.tagged(streamed(head, "steps", map(json.dumps, steps)), run)


def streamed(head: dict[str, Any], name: str, items: Iterator[str]) -> Response:
    """Return a JSON object whose last member is a list of any length, its items JSON, sent piece by piece."""

    def pieces() -> Iterator[bytes]:
        yield json.dumps(head)[:-1].encode() + f', "{name}": ['.encode()
        separator = ""
        while piece := list(islice(items, ITEMS_PER_PIECE)):
            yield f"{separator}{', '.join(piece)}".encode()
            separator = ", "
        yield b"]}"

    return Response(pieces(), content_type="application/json")

"""What an executor reads of a run before it goes on, with payloads as the text that is stored of them."""

from __future__ import annotations

from typing import Annotated, Any

from flask_openapi3.blueprint import APIBlueprint
from pydantic import Field

from resume_engine.core import clock
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.decisions import DecisionKind, DecisionRequest
from resume_engine.core.errors import InvalidValueError
from resume_engine.core.messages import decision_message, event_message, step_message, summary_message
from resume_engine.core.payload import encode
from resume_engine.core.permissions import Permission
from resume_engine.core.step_record import StepRecord
from webapp.api import changes, deciding, one_run
from webapp.api.resource import resource
from webapp.api.runner_shapes import Count, Decide, RefusedDecision
from webapp.api.shapes import FailureKey, Message, Problem, Query, RunPath, Text255
from webapp.errors import AccessDeniedError, problem
from webapp.extensions import current_store
from webapp.keys.caller import current_caller, refuse_to_cancel
from webapp.permissions import current_actor, requires
from webapp.refusals import tell_denied

STEPS_PER_PAGE = 500


class StepsQuery(Query):
    """Which records."""

    after: Annotated[int, Field(ge=-1, lt=2**31)] = -1
    completed_only: bool = False


class StepPath(RunPath):
    """One record of a run."""

    sequence: Annotated[Count, Field(strict=False)]


class DecisionsQuery(Query):
    """Which decisions."""

    failure_key: FailureKey | None = None


class ResumableQuery(Query):
    """Which runs a worker asks for."""

    workflow: list[Text255] = []
    failed_before: str
    max_attempts: Count
    limit: Annotated[int, Field(ge=1, le=10_000)]


def blueprint() -> APIBlueprint:
    """Return the resource."""
    api = resource("executors", __name__)
    api.get("/runs/<path:run_id>/steps", responses={"200": Message})(list_steps)
    api.get("/runs/<path:run_id>/steps/<int:sequence>", responses={"200": Message})(show_step)
    api.get("/runs/<path:run_id>/open_failures", responses={"200": Message})(list_open_failures)
    api.get("/runs/<path:run_id>/workflow", responses={"200": Message})(show_workflow)
    api.get("/runs/<path:run_id>/decisions", responses={"200": Message})(list_decisions)
    api.post("/runs/<path:run_id>/decisions", responses={"200": Message, "409": Problem})(record_decision)
    api.post("/runs/<path:run_id>/refused_decisions", responses={"201": Message})(report_refusal)
    api.get("/runs/<path:run_id>/stored_events", responses={"200": Message})(list_events)
    api.get("/resumable", responses={"200": Message})(list_resumable)
    return api


@requires(Permission.PAYLOADS_READ)
def list_steps(path: RunPath, query: StepsQuery) -> dict[str, Any]:
    """Return records by sequence; `next_after` is where the next page begins, null at the end."""
    run = one_run.load(path.run_id)
    page: list[StepRecord] = []
    found = current_store().iter_steps(run.run_id, completed_only=query.completed_only, after=query.after)
    for record in found:
        if len(page) >= STEPS_PER_PAGE and record.sequence != page[-1].sequence:
            return {"steps": [step_message(one) for one in page], "next_after": page[-1].sequence}
        page.append(record)
    return {"steps": [step_message(record) for record in page], "next_after": None}


@requires(Permission.PAYLOADS_READ)
def show_step(path: StepPath) -> Any:
    """Return one record, else 404."""
    record = current_store().load_step(one_run.load(path.run_id).run_id, path.sequence)
    if record is None:
        return problem(404, "The run has no record with this sequence.", "step_not_found")
    return step_message(record)


@requires(Permission.PAYLOADS_READ)
def list_open_failures(path: RunPath) -> dict[str, Any]:
    """Return the failed attempts that are the latest of their step, without inputs."""
    failures = current_store().list_open_failures(one_run.load(path.run_id).run_id)
    return {"steps": [step_message(record) for record in failures]}


@requires(Permission.PAYLOADS_READ)
def show_workflow(path: RunPath) -> dict[str, Any]:
    """Return the step names and the initial input a run was started with."""
    store, run = current_store(), one_run.load(path.run_id)
    given = store.load_initial_input(run.run_id)
    return {
        "steps": list(store.load_workflow(run.run_id)),
        "initial_input_text": None if given is None else encode(given),
    }


@requires(Permission.PAYLOADS_READ)
def list_decisions(path: RunPath, query: DecisionsQuery) -> dict[str, Any]:
    """Return the decisions of a run, oldest first."""
    found = current_store().list_decisions(one_run.load(path.run_id).run_id, failure_key=query.failure_key)
    return {"decisions": [decision_message(decision) for decision in found]}


@requires(Permission.GATES_DECIDE)
def record_decision(path: RunPath, body: Decide) -> dict[str, Any]:
    """Record a decision about a failure event; the policy of the server decides whether it is enough."""
    if body.kind == DecisionKind.REJECT:
        refuse_to_cancel()
    run, text = one_run.load(path.run_id), body.result_text
    request = DecisionRequest(
        run_id=run.run_id,
        kind=body.kind,
        actor=current_actor(),
        failure_key=body.failure_key,
        note=body.note,
        result=None if text is None else changes.payload("result_text", text),
        step_sequence=body.step_sequence,
        display_name=body.display_name,
    )
    made = deciding.made_before(request)
    if made is None:
        run, made = deciding.decided(run, request)
    return changes.answer(run) | {"decision": decision_message(made)}


@requires(Permission.RUNS_WRITE)
def report_refusal(path: RunPath, body: RefusedDecision) -> tuple[dict[str, Any], int]:
    """Note that a decision was asked for elsewhere and refused there; that changes nothing else."""
    run = one_run.load(path.run_id)
    current_store().append_event(
        AuditEvent.by(
            current_actor(),
            EventType.GATE_REFUSED,
            clock.utc_now(),
            run_id=run.run_id,
            failure_key=body.failure_key,
            payload=dict(body.payload),
        )
    )
    return one_run.status_answer(run), 201


@requires(Permission.PAYLOADS_READ)
def list_events(path: RunPath) -> dict[str, Any]:
    """Return the stored audit events of a run as recorded; /audit_events shows them to auditors."""
    run = one_run.load(path.run_id)
    return {"events": [event_message(event) for event in current_store().list_events(run.run_id)]}


@requires(Permission.PAYLOADS_READ)
def list_resumable(query: ResumableQuery) -> dict[str, Any]:
    """Return runs that need nobody: cleared ones, interrupted ones, and transient failures."""
    caller = current_caller()
    if caller.demo_only or caller.environments is not None:
        tell_denied(caller.actor, "a key for every environment")
        raise AccessDeniedError("A worker needs a key for every environment.")
    if not query.workflow:
        raise InvalidValueError("workflow", "name at least one workflow")
    found = current_store().find_resumable(
        query.workflow,
        failed_before=changes.moment("failed_before", query.failed_before),
        max_attempts=query.max_attempts,
        limit=query.limit,
    )
    return {"runs": [summary_message(run) for run in found]}

"""What a runner does besides recording steps: set status and metadata, ask whether a run may go on."""

from __future__ import annotations

from typing import Any

from flask_openapi3.blueprint import APIBlueprint

from resume_engine.core import clock
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.decisions import DecisionRequest, decide, rehearse
from resume_engine.core.errors import InvalidValueError, RunNotFoundError, StaleRunError
from resume_engine.core.execution import assert_open
from resume_engine.core.executor import RUN_BLOCK_STEP
from resume_engine.core.gate_closing import closed_in_time
from resume_engine.core.outside_writes import with_status
from resume_engine.core.permissions import Permission
from resume_engine.core.run import Run, RunStatus
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.sent_gates import new_decisions
from webapp.api import conditions, one_run
from webapp.api.resource import resource
from webapp.api.runner_shapes import ResumeRun, UpdateRun
from webapp.api.shapes import Problem, RunPath, RunStatusAnswer
from webapp.extensions import current_policy, current_store
from webapp.permissions import current_actor, requires

_ROUNDS = 20  # against others who change the same run


def blueprint() -> APIBlueprint:
    """Return the resource."""
    api = resource("runner", __name__)
    api.patch("/runs/<path:run_id>", responses={"200": RunStatusAnswer, "409": Problem})(update_run)
    api.post("/resume", responses={"200": RunStatusAnswer, "409": Problem})(validate_resume)
    return api


@requires(Permission.RUNS_WRITE)
def update_run(path: RunPath, body: UpdateRun) -> dict[str, Any]:
    """Set status or metadata; what `metadata.gates` decides anew is a decision and needs an operator.

    Gates that are sent back as they were read change nothing.
    """
    run = one_run.load(path.run_id)
    conditions.expected_version(run)
    _check_environment(run, body)
    if body.metadata is not None:
        _decide_what_is_new(run, body.metadata.get("gates") or {})
    for _ in range(_ROUNDS):
        try:
            return one_run.status_answer(_updated(path.run_id, body))
        except StaleRunError:
            continue  # somebody else changed the run meanwhile: judge again what it has become
    raise StaleRunError(path.run_id, "a quiet moment", f"changes by others in {_ROUNDS} rounds")


@requires(Permission.RUNS_WRITE)
def validate_resume(body: ResumeRun) -> dict[str, Any]:
    """Say that a run may be resumed, on record; 409 with the missing decisions while a gate is closed."""
    run = one_run.load(body.run_id)
    if run.status is not RunStatus.COMPLETED:
        run = closed_in_time(current_store(), run, current_actor())
        assert_open(run, RUN_BLOCK_STEP)
        event = AuditEvent.by(
            current_actor(),
            EventType.RUN_RESUME_VALIDATED,
            clock.utc_now(),
            run_id=run.run_id,
            failure_key=run.failure.key if run.failure else None,
            payload={"resume_from_index": run.resume_from_index},
        )
        current_store().append_event(event)
    return one_run.status_answer(run)


def _check_environment(run: RunSummary, body: UpdateRun) -> None:
    named = (body.metadata or {}).get("environment", run.environment.value)
    if named != run.environment.value:
        raise InvalidValueError(
            "metadata.environment", f"run {run.run_id} is in {run.environment}, and stays there"
        )


def _decide_what_is_new(run: RunSummary, gates: object) -> None:
    """Record every decision that is new, or none: what is refused is found before anything is recorded."""
    store, policy = current_store(), current_policy()
    requests = _requests(run, gates)
    for request in requests:
        rehearse(store, request, policy)
    for request in requests:
        decide(store, request, policy)


def _requests(run: RunSummary, gates: object) -> list[DecisionRequest]:
    current = run.failure.key if run.failure else None
    sent = new_decisions(gates, current_store().list_decisions(run.run_id) if gates else ())
    requests = {
        (one.kind, one.failure_key or current): DecisionRequest(
            run_id=run.run_id,
            kind=one.kind,
            actor=current_actor(),
            failure_key=one.failure_key,
            note=one.note,
            result=one.result,
            display_name=one.display_name,
        )
        for one in sent
    }
    return list(requests.values())


def _updated(run_id: str, body: UpdateRun) -> RunSummary:
    """Write what differs from what is stored; nothing is written when nothing does."""
    store = current_store()
    run = one_run.load(run_id)
    status = run.status if body.status is None else body.status
    after = with_status(run, status, clock.utc_now())
    stored = store.load_metadata(run_id)
    if stored is None:
        raise RunNotFoundError(run_id)
    metadata = stored if body.metadata is None else body.metadata
    wanted = {name: value for name, value in metadata.items() if name != "gates"}
    if after.status is run.status and wanted == stored:
        return run
    store.update_run(
        Run(run_id=run_id, workflow_name=run.workflow_name, status=after.status, metadata=wanted),
        actor=current_actor(),
    )
    return one_run.load(run_id)

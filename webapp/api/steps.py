"""Step records over HTTP."""

from __future__ import annotations

from typing import Any

from flask_openapi3.blueprint import APIBlueprint

from resume_engine.core import clock
from resume_engine.core.errors import IdempotencyCollisionError, InvalidValueError, StaleRunError
from resume_engine.core.idempotency import hash_input
from resume_engine.core.outside_writes import key_in, replayed
from resume_engine.core.payload import payload_hash
from resume_engine.core.permissions import Permission
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.runner_change import recording
from resume_engine.core.runner_request import Recording
from resume_engine.core.step_record import StepRecord, StepStatus
from resume_engine.storage import previews
from webapp.api import changes, one_run
from webapp.api.resource import resource
from webapp.api.runner_shapes import AppendStep, KeyPath, StepChange
from webapp.api.shapes import Problem, RunPath, RunStatusAnswer, StepAnswer
from webapp.errors import problem
from webapp.extensions import current_store, run_queries
from webapp.permissions import current_actor, requires


def blueprint() -> APIBlueprint:
    """Return the resource."""
    api = resource("steps", __name__)
    api.post("/runs/<path:run_id>/steps", responses={"201": RunStatusAnswer, "409": Problem})(append_step)
    api.get("/idempotency/<path:key>", responses={"200": StepAnswer})(find_step)
    return api


@requires(Permission.RUNS_WRITE)
def append_step(path: RunPath, body: AppendStep) -> tuple[dict[str, Any], int]:
    """Record one attempt of a step; repeating the same write changes nothing and answers the same."""
    if body.change is not None:
        return changes.answer(changes.written(path.run_id, _recording(body, body.change), recording)), 201
    run = one_run.load(path.run_id)
    record = _record(run, body)
    store = current_store()
    try:
        store.append_step(run.run_id, record)
    except (StaleRunError, IdempotencyCollisionError):
        store.append_step(run.run_id, record)  # the same write may have come twice at once
    return one_run.status_answer(one_run.load(run.run_id)), 201


@requires(Permission.RUNS_READ)
def find_step(path: KeyPath) -> Any:
    """Return the completed step with this idempotency key, else 404."""
    store = current_store()
    record = store.get_step_by_idempotency_key(path.key)
    run_id = store.find_run_of_key(path.key) if record is not None else None
    if record is None or run_id is None:
        return problem(404, "No completed step has this idempotency key.", "step_not_found")
    one_run.load(run_id)
    found = record.to_dict()
    return found if one_run.sees_secrets() else previews.step_fields(found)


def _recording(body: AppendStep, change: StepChange) -> Recording:
    """Return what the client of this release sent: the hash of the input is the server's own."""
    input_data = changes.payload("input_text", change.input_text)
    output = None if change.output_text is None else changes.payload("output_text", change.output_text)
    failed = body.status is StepStatus.FAILED
    held = changes.term(change.held)
    record = StepRecord(
        step_name=body.step_name,
        step_index=body.step_index,
        input_data=input_data,
        input_hash=payload_hash(input_data, change.input_text),
        output_data=output,
        status=body.status,
        idempotency_key=body.idempotency_key,
        timestamp=min(changes.moment("timestamp", change.timestamp), clock.utc_now()),
        failure_classification=body.failure_classification if failed else None,
        error_message=body.error_message if failed else None,
        sequence=body.sequence,
        attempt=change.attempt,
        started_at=None if change.started_at is None else changes.moment("started_at", change.started_at),
        duration_ms=change.duration_ms,
        error_type=change.error_type if failed else None,
        error_traceback=change.error_traceback if failed else None,
        classified_by=change.classified_by,
        # Who did it is the one who holds the run, or the key: nobody writes another's name there.
        worker=held.owner if held is not None else current_actor().name,
        input_text=change.input_text,
        output_text=change.output_text,
    )
    return Recording(
        **changes.common(change), record=record, held=held, follows_failure=change.follows_failure
    )


def _record(run: RunSummary, body: AppendStep) -> StepRecord:
    """Return the record of what was sent; hash, worker, time and count of attempts are the server's own."""
    if body.input_json is None:
        raise InvalidValueError("input_json", "must be a JSON object")
    failed = body.status is StepStatus.FAILED
    record = StepRecord(
        step_name=body.step_name,
        step_index=body.step_index,
        input_data=body.input_json,
        input_hash=hash_input(body.input_json),
        output_data=body.output_json,
        status=body.status,
        idempotency_key=body.idempotency_key,
        failure_classification=body.failure_classification if failed else None,
        error_message=body.error_message if failed else None,
        sequence=body.sequence,
        attempt=_earlier_attempts(run, body) + 1,
        worker=current_actor().name,
    )
    if body.idempotency_key == key_in(run.run_id, record):
        return record
    copied = _replayed(run, record)
    if copied is not None:
        return copied
    raise InvalidValueError(
        "idempotency_key",
        f"is not that of step {body.step_index} {body.step_name!r} of run {run.run_id} with this input: "
        "SHA-256 of run_id:step_name:step_index:input_hash",
    )


def _replayed(run: RunSummary, given: StepRecord) -> StepRecord | None:
    """Return what a replay by release 0.2.0 leaves of a record that it copies from the run it replays."""
    store = current_store()
    source = store.find_run_of_key(given.idempotency_key)
    original = store.get_step_by_idempotency_key(given.idempotency_key)
    if source is None or original is None or given.idempotency_key != key_in(source, given):
        return None
    head = run_queries().load_head(run.run_id)
    if head is None or head.metadata.get("replayed_from") != source:
        return None
    one_run.load(source)  # a key that may not see it may not copy it
    return store.get_step_by_idempotency_key(key_in(run.run_id, given)) or replayed(run, original, given)


def _earlier_attempts(run: RunSummary, body: AppendStep) -> int:
    failure = run.failure
    if failure is None or (failure.step_index, failure.step_name) != (body.step_index, body.step_name):
        return 0
    return failure.attempts

"""What clients of release 0.2.0 do to the run of a case: they record, set and ask, here and over HTTP."""

from __future__ import annotations

from typing import Any

from resume_engine.core.idempotency import generate_idempotency_key, hash_input
from resume_engine.core.run import Run, RunStatus
from resume_engine.core.step_record import (
    COMPENSATION_PREFIX,
    FailureClassification,
    StepRecord,
    StepStatus,
)
from tests.crash.gate_case import Case
from tests.crash.gate_workflow import ERRORS

# Records


def append_step(case: Case) -> None:
    """Record what the client did by itself."""
    made = _outside_record(case)
    if made is None:
        return
    index, record = made
    case.store.append_step(case.run_id, record)
    _appended(case, index, record)


def append_step_over_http(case: Case) -> None:
    """Record the same over HTTP."""
    made = _outside_record(case)
    if made is None:
        return
    index, record = made
    answer = case.ground.keys["ron"].post(
        f"/runs/{case.run_id}/steps",
        json={
            "step_name": record.step_name,
            "step_index": index,
            "status": record.status.value,
            "input_json": record.input_data,
            "output_json": record.output_data,
            "failure_classification": record.failure_classification,
            "error_message": None,
            "sequence": record.sequence,
            "idempotency_key": record.idempotency_key,
        },
    )
    assert answer.status_code in (201, 409), answer.text
    case.counts.refusals[f"HTTP {answer.status_code}"] += 1
    if answer.status_code == 201:
        _appended(case, index, record)


def _outside_record(case: Case) -> tuple[int, StepRecord] | None:
    left = [index for index in range(len(case.steps)) if index not in case.oracle.completed]
    if not left:
        return None
    index = case.chance.choice(left)
    name, state = case.steps[index].name, case.input_of(index)
    if case.chance.random() < 0.2:
        # With another input it would undo something else, under another key.
        tried = [r for r in case.store.iter_steps(case.run_id) if r.step_name == name]
        name, state = f"{COMPENSATION_PREFIX}{name}", tried[-1].input_data if tried else state
    outcome = case.chance.choice(["completed", "completed", *ERRORS])
    failed = outcome != "completed"
    return index, StepRecord(
        step_name=name,
        step_index=index,
        input_data=state,
        input_hash=hash_input(state),
        output_data=None if failed else {name: "outside"},
        status=StepStatus.FAILED if failed else StepStatus.COMPLETED,
        idempotency_key=generate_idempotency_key(case.run_id, name, index, hash_input(state)),
        failure_classification=FailureClassification(outcome) if failed else None,
        sequence=len(case.oracle.records),
    )


def _appended(case: Case, index: int, record: StepRecord) -> None:
    outcome = record.status.value
    case.told.append(f"  recorded {record.step_name}: {record.failure_classification or outcome}")
    if record.step_name.startswith(COMPENSATION_PREFIX):
        case.oracle.undid(index, outcome)  # whatever it undid: it opens nothing
        return
    case.oracle.acts(index, record.step_name, record.input_data, record.idempotency_key, "append")
    if record.failure_classification is None:
        case.oracle.completes(index, record.idempotency_key)
    else:
        case.oracle.fails(index, record.failure_classification.value)


# Statuses and metadata


def update_run(case: Case) -> None:
    """Set a status, and metadata that would open everything if it were believed."""
    status = case.chance.choice(list(RunStatus))
    forged = {"environment": "dev", "gates": _forged_gates(case)}
    before = _status(case)
    case.store.update_run(Run(run_id=case.run_id, workflow_name="graph", status=status, metadata=forged))
    case.told.append(f"  set to {status}")
    _updated(case, before, status)


def patch_over_http(case: Case) -> None:
    """Set the same over HTTP, where what gates decide counts as the decision of the caller."""
    status = case.chance.choice(list(RunStatus))
    name = case.chance.choice(list(case.ground.keys))
    body: dict[str, Any] = {"metadata": {"gates": _forged_gates(case)}}
    if case.chance.random() < 0.5:
        body["status"] = status.value
    before = _status(case)
    answer = case.ground.keys[name].patch(f"/runs/{case.run_id}", json=body)
    assert answer.status_code in (200, 400, 403, 409, 422), answer.text
    case.counts.refusals[f"HTTP {answer.status_code}"] += 1
    if answer.status_code == 200 and "status" in body:
        _updated(case, before, status)


def _status(case: Case) -> RunStatus:
    now = case.store.load_summary(case.run_id)
    assert now is not None
    return now.status


def _updated(case: Case, before: RunStatus, status: RunStatus) -> None:
    """Whoever sets a run to running says that it goes on: what was decided is used by that."""
    changed = status is not before and case.oracle.finished is None
    if changed and status in (RunStatus.RUNNING, RunStatus.COMPLETED):
        case.oracle.goes_on(f"a status set to {status}")


def _forged_gates(case: Case) -> dict[str, Any]:
    key = _some_key(case) or "0:0"
    entry = {"granted": True, "failure_key": key, "approved_by": "mallory", "note": "let me"}
    return case.chance.choice(
        [
            {"human_approval": entry},
            {"approvals": {key: entry}},
            {"compensations": {key: {"result": {"ok": True}}}},
            {"prod_resume_ack": {"granted": True, "acknowledged_by": "mallory"}},
            {"prod_resume_acks": {key: entry}},
        ]
    )


def _some_key(case: Case) -> str | None:
    keys = [*case.oracle.old_keys, *(failure.key for failure in case.oracle.open.values())]
    return case.chance.choice(keys) if keys else None


# Questions


def validate_over_http(case: Case) -> None:
    """Ask with `POST /resume`: whoever gets a 200 goes on."""
    answer = case.ground.keys["ron"].post("/resume", json={"run_id": case.run_id})
    assert answer.status_code in (200, 409), answer.text
    if answer.status_code == 200 and case.oracle.finished is None:
        assert not case.oracle.is_closed(), f"told that it may go on\n{case.tale()}"

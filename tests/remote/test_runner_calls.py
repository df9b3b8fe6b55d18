"""The calls of a runner: what they write, that repeating is safe, and that no gate is opened or passed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resume_engine.core.idempotency import generate_idempotency_key, hash_input
from resume_engine.core.permissions import Role
from resume_engine.core.run import Environment, RunStatus
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.remote.conftest import Caller
from tests.stores.changes import summary

RUN = "run-1"


def step(sequence: int = 0, **fields: Any) -> dict[str, Any]:
    """Return the body of a step that completed, as 0.2.0 sends it."""
    body = {
        "step_name": f"step_{sequence}",
        "step_index": sequence,
        "status": "completed",
        "input_json": {"n": sequence},
        "output_json": {"out": sequence},
        "failure_classification": None,
        "error_message": None,
        "sequence": sequence,
    } | fields
    input_hash = hash_input(body["input_json"])
    key = generate_idempotency_key(RUN, body["step_name"], body["step_index"], input_hash)
    return {"idempotency_key": key} | body


def failure(sequence: int = 0, classification: str = "permanent", **fields: Any) -> dict[str, Any]:
    return step(
        sequence,
        status="failed",
        output_json=None,
        failure_classification=classification,
        error_message="no such card",
        **fields,
    )


def start(runner: Caller, **fields: Any) -> None:
    body = {"workflow_name": "billing", "run_id": RUN} | fields
    assert runner.call("POST", "/start_run", body).status_code == 200


def blocked(runner: Caller, classification: str = "permanent", **fields: Any) -> None:
    start(runner, **fields)
    answer = runner.call("POST", f"/runs/{RUN}/steps", failure(0, classification))
    assert answer.status_code == 201 and not answer.json["can_resume"]


APPROVED = {"human_approval": {"granted": True, "failure_key": "0:0", "approved_by": "olga", "note": "ok"}}
FORGED_GATES: dict[str, tuple[str, dict[str, Any]]] = {
    "approval": ("permanent", APPROVED),
    "approvals": ("permanent", {"approvals": {"0:0": {"granted": True, "approved_by": "olga"}}}),
    "compensation": ("partial", {"compensations": {"0:0": {"result": {"undone": True}}}}),
    "acknowledgement": ("transient", {"prod_resume_ack": {"granted": True, "acknowledged_by": "olga"}}),
    "acknowledgements": ("transient", {"prod_resume_acks": {"0:0": {"granted": True}}}),
}


@pytest.mark.parametrize("name", FORGED_GATES)
def test_gates_in_patched_metadata_need_an_operator(
    page_store: SqlCheckpointStore, runner: Caller, operator: Caller, name: str
) -> None:
    classification, gates = FORGED_GATES[name]
    environment = "prod" if classification == "transient" else "dev"
    blocked(runner, classification, environment=environment)
    before = summary(page_store, RUN)
    body = {"status": "paused", "metadata": {"gates": gates}}
    answer = runner.call("PATCH", f"/runs/{RUN}", body)
    assert (answer.status_code, answer.json["code"]) == (403, "decision_not_allowed")
    assert summary(page_store, RUN) == before and page_store.list_decisions(RUN) == []
    assert page_store.list_events(RUN)[-1].event_type == "gate.refused"
    answer = operator.call("PATCH", f"/runs/{RUN}", body)
    assert answer.status_code == 200 and answer.json["can_resume"] and answer.json["status"] == "paused"
    [decided] = page_store.list_decisions(RUN)
    assert (decided.actor, decided.failure_key) == (operator.name, "0:0")


def test_gates_sent_back_change_nothing(
    page_store: SqlCheckpointStore, runner: Caller, operator: Caller
) -> None:
    blocked(runner, metadata={"team": "a"})
    old = runner.call("GET", f"/runs/{RUN}").json["metadata"]
    operator.call("PATCH", f"/runs/{RUN}", {"status": "paused", "metadata": old | {"gates": APPROVED}})
    new = runner.call("GET", f"/runs/{RUN}").json["metadata"]
    before = (summary(page_store, RUN), len(page_store.list_events(RUN)))
    for metadata in (old, new, new | {"gates": {}}):
        answer = runner.call("PATCH", f"/runs/{RUN}", {"status": "failed", "metadata": metadata})
        assert answer.status_code == 200 and answer.json["status"] == "paused"
    assert (summary(page_store, RUN), len(page_store.list_events(RUN))) == before


@pytest.mark.parametrize("status", ["running", "completed", "pending"])
def test_no_patched_status_passes_a_gate(page_store: SqlCheckpointStore, runner: Caller, status: str) -> None:
    blocked(runner)
    before = summary(page_store, RUN)
    answer = runner.call("PATCH", f"/runs/{RUN}", {"status": status})
    assert answer.status_code == 409
    assert answer.json["detail"]["blockers"][0]["required_action"] == "human_approval"
    assert summary(page_store, RUN) == before


def test_a_patched_pause_is_no_decision(page_store: SqlCheckpointStore, runner: Caller) -> None:
    blocked(runner)
    assert runner.call("PATCH", f"/runs/{RUN}", {"status": "paused"}).json["status"] == "failed"
    assert summary(page_store, RUN).status is RunStatus.FAILED


def test_a_blocked_run_takes_no_steps(
    page_store: SqlCheckpointStore, runner: Caller, operator: Caller
) -> None:
    blocked(runner)
    for caller in (runner, operator):
        for body in (step(1), step(1, step_name="__compensate__step_0", step_index=0), failure(1)):
            answer = caller.call("POST", f"/runs/{RUN}/steps", body)
            assert (answer.status_code, answer.json["code"]) == (409, "resume_blocked")
    assert summary(page_store, RUN).next_sequence == 1


def test_a_recorded_compensation_opens_nothing(page_store: SqlCheckpointStore, runner: Caller) -> None:
    blocked(runner, "partial")
    body = step(1, step_name="__compensate__step_0", step_index=0)
    assert runner.call("POST", f"/runs/{RUN}/steps", body).status_code == 201
    assert summary(page_store, RUN).blocked_by
    assert runner.call("POST", f"/runs/{RUN}/steps", step(2)).status_code == 409


@pytest.mark.parametrize(
    "field", ["input_hash", "worker", "attempt", "timestamp", "blocked_by", "environment", "run_id"]
)
def test_what_is_the_servers_own_cannot_be_sent(runner: Caller, field: str) -> None:
    start(runner)
    answer = runner.call("POST", f"/runs/{RUN}/steps", step() | {field: "x"})
    assert (answer.status_code, answer.json["code"]) == (422, "invalid_shape")


def test_the_server_makes_hash_worker_and_attempt(page_store: SqlCheckpointStore, runner: Caller) -> None:
    start(runner)
    runner.call("POST", f"/runs/{RUN}/steps", failure(0, "transient"))
    runner.call("POST", f"/runs/{RUN}/steps", failure(1, "transient", step_name="step_0", step_index=0))
    record = page_store.load_step(RUN, 1)
    assert record is not None
    assert (record.attempt, record.worker) == (2, runner.name)
    failed = summary(page_store, RUN).failure
    assert failed is not None and failed.attempts == 2


@pytest.mark.parametrize("other", [{"n": 1}, {}])
def test_a_key_that_is_not_that_of_the_step_is_refused(runner: Caller, other: dict[str, Any]) -> None:
    start(runner)
    answer = runner.call("POST", f"/runs/{RUN}/steps", step() | {"input_json": other})
    assert answer.status_code == 400
    assert answer.json["detail"].startswith("idempotency_key: is not that of step 0 'step_0'")


def test_repeating_a_step_answers_the_same(page_store: SqlCheckpointStore, runner: Caller) -> None:
    start(runner)
    first = runner.call("POST", f"/runs/{RUN}/steps", step())
    again = runner.call("POST", f"/runs/{RUN}/steps", step())
    assert (first.status_code, first.data) == (again.status_code, again.data) == (201, first.data)
    assert first.json["last_completed_step"] == 0
    other = runner.call("POST", f"/runs/{RUN}/steps", step(output_json={"another": 1}))
    assert (other.status_code, other.json["code"]) == (409, "stale_run")
    assert summary(page_store, RUN).next_sequence == 1


def test_the_same_step_sent_many_times_at_once_is_recorded_once(
    page_store: SqlCheckpointStore, app: Any, runner: Caller
) -> None:
    start(runner)

    def send(_: int) -> int:
        own = Caller(app.test_client(), runner.key, runner.name)
        return own.call("POST", f"/runs/{RUN}/steps", step()).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, range(24))) == {201}
    assert len(list(page_store.iter_steps(RUN))) == 1


def test_a_completed_step_is_found_by_its_key(runner: Caller) -> None:
    start(runner)
    runner.call("POST", f"/runs/{RUN}/steps", failure(0, "transient"))
    key = failure(0)["idempotency_key"]
    assert runner.call("GET", f"/idempotency/{key}").status_code == 404
    runner.call("POST", f"/runs/{RUN}/steps", step(1, step_name="step_0", step_index=0, input_json={"n": 0}))
    found = runner.call("GET", f"/idempotency/{key}").json
    assert (found["sequence"], found["output_data"], found["input_data"]) == (1, {"out": 1}, {"n": 0})


def test_resume_is_asked_for_and_noted(
    page_store: SqlCheckpointStore, runner: Caller, operator: Caller
) -> None:
    blocked(runner)
    answer = runner.call("POST", "/resume", {"run_id": RUN})
    assert answer.status_code == 409
    assert answer.json["detail"]["blockers"][0]["failure_key"] == "0:0"
    operator.call("PATCH", f"/runs/{RUN}", {"metadata": {"gates": APPROVED}})
    answer = runner.call("POST", "/resume", {"run_id": RUN})
    assert (answer.status_code, answer.json["can_resume"]) == (200, True)
    event = page_store.list_events(RUN)[-1]
    assert (event.event_type, event.actor) == ("run.resume_validated", runner.name)


def test_metadata_is_replaced_the_environment_stays(page_store: SqlCheckpointStore, runner: Caller) -> None:
    start(runner, environment="prod", metadata={"environment": "prod", "a": 1})
    answer = runner.call("PATCH", f"/runs/{RUN}", {"metadata": {"environment": "dev"}})
    assert answer.status_code == 400 and "stays there" in answer.json["detail"]
    runner.call("PATCH", f"/runs/{RUN}", {"metadata": {"environment": "prod", "b": [2]}})
    assert page_store.load_metadata(RUN) == {"environment": "prod", "b": [2]}
    event = page_store.list_events(RUN)[-1]
    assert (event.event_type, event.actor) == ("run.updated", runner.name)


@pytest.mark.parametrize(
    "gates",
    [
        [1],
        "x",
        {"approvals": [1]},
        {"compensations": {"0:0": 1}},
        {"prod_resume_ack": {"granted": True, "acknowledged_at": {}}},
        {"human_approval": {"granted": "no", "failure_key": "0:0"}},
        {"approvals": {"0:0": {"granted": None}}},
    ],
)
def test_gates_of_another_shape_are_refused(runner: Caller, gates: object) -> None:
    blocked(runner)
    answer = runner.call("PATCH", f"/runs/{RUN}", {"metadata": {"gates": gates}})
    assert answer.status_code == 400 and answer.json["detail"].startswith("metadata.gates: ")


@pytest.mark.parametrize("name", FORGED_GATES)
def test_what_was_not_granted_is_no_decision(
    page_store: SqlCheckpointStore, operator: Caller, runner: Caller, name: str
) -> None:
    classification, gates = FORGED_GATES[name]
    refused = {word: _not_granted(entry) for word, entry in gates.items()}
    blocked(runner, classification, environment="prod")
    answer = operator.call("PATCH", f"/runs/{RUN}", {"metadata": {"gates": refused}})
    assert answer.status_code == 200 and not answer.json["can_resume"]
    assert page_store.list_decisions(RUN) == []


def test_of_two_decisions_both_are_recorded_or_none(page_store: SqlCheckpointStore, operator: Caller) -> None:
    blocked(operator, "permanent", environment="prod")
    good, ack = APPROVED, {"prod_resume_ack": {"granted": True, "acknowledged_by": "olga"}}
    for refused in (
        {"compensations": {"0:0": {"result": {"undone": True}}}},
        {"prod_resume_acks": {"0:0": {"granted": True, "acknowledged_by": " "}}},
        {"prod_resume_acks": {"7:7": {"granted": True}}},
    ):
        answer = operator.call("PATCH", f"/runs/{RUN}", {"metadata": {"gates": good | refused}})
        assert answer.status_code in (400, 409, 422), answer.text
        assert page_store.list_decisions(RUN) == []
    twice = {"prod_resume_acks": {"0:0": {"granted": True, "acknowledged_by": "olga"}}}
    answer = operator.call("PATCH", f"/runs/{RUN}", {"metadata": {"gates": good | ack | twice}})
    assert (answer.status_code, answer.json["can_resume"]) == (200, True)
    assert [made.kind.value for made in page_store.list_decisions(RUN)] == [
        "human_approval",
        "prod_resume_ack",
    ]


def _not_granted(entry: dict[str, Any]) -> dict[str, Any]:
    if "0:0" in entry:
        return {"0:0": _not_granted(entry["0:0"])}
    return entry | {"granted": False}


def test_a_key_for_other_environments_touches_nothing(runner: Caller, caller: Callable[..., Caller]) -> None:
    start(runner, environment="prod")
    runner.call("POST", f"/runs/{RUN}/steps", step())
    dev = caller(Role.RUNNER, [Environment.DEV])
    calls = (
        ("PATCH", f"/runs/{RUN}", {"status": "completed"}),
        ("POST", f"/runs/{RUN}/steps", step(1)),
        ("POST", "/resume", {"run_id": RUN}),
        ("GET", f"/idempotency/{step()['idempotency_key']}", None),
        ("POST", "/start_run", {"workflow_name": "x", "environment": "prod"}),
    )
    for method, path, body in calls:
        assert dev.call(method, path, body).status_code == 403, path


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/start_run", {"workflow_name": "billing"}),
        ("PATCH", f"/runs/{RUN}", {"status": "completed"}),
        ("POST", f"/runs/{RUN}/steps", step()),
        ("POST", "/resume", {"run_id": RUN}),
    ],
)
def test_auditors_write_nothing(
    runner: Caller, caller: Callable[..., Caller], method: str, path: str, body: dict[str, Any]
) -> None:
    start(runner)
    assert caller(Role.AUDITOR).call(method, path, body).status_code == 403

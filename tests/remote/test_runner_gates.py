"""What a runner's own protocol lets it say: none of it opens a gate or hides who changed what."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from resume_engine.core.clock import utc_now
from resume_engine.core.idempotency import generate_idempotency_key, hash_input
from resume_engine.core.permissions import Role
from resume_engine.storage.schema import runs
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import ago
from tests.remote.conftest import Caller
from tests.stores.changes import summary

RUN = "run-1"
MINE = {"owner": "worker-1", "token": 1}
HELD = MINE | {"seconds": 60}


def intent(*, asked: bool = False) -> dict[str, Any]:
    """Return the intent of the first step."""
    key = generate_idempotency_key(RUN, "charge", 0, hash_input({}))
    since = ago(minutes=1).isoformat()
    return {
        "step_index": 0,
        "step_name": "charge",
        "idempotency_key": key,
        "attempt": 1,
        "since": since,
        "asked": asked,
    }


def change(store: SqlCheckpointStore, **fields: Any) -> dict[str, Any]:
    return {"change_id": secrets.token_hex(8), "version": summary(store, RUN).version} | fields


def start(runner: Caller, environment: str = "prod") -> None:
    body = {"workflow_name": "billing", "run_id": RUN, "environment": environment}
    assert runner.call("POST", "/start_run", body).status_code == 200


def claim(store: SqlCheckpointStore, runner: Caller, lease: Mapping[str, Any], **more: Any) -> Any:
    flight = more.pop("in_flight", [])
    body = {"action": "claim", "change": change(store, lease=lease, in_flight=flight)} | more
    return runner.call("POST", f"/runs/{RUN}/lease", body)


def record(
    store: SqlCheckpointStore, runner: Caller, name: str, index: int, lease: Any, **fields: Any
) -> Any:
    retry_at = fields.pop("retry_at", None)
    body = {
        "step_name": name,
        "step_index": index,
        "status": "completed",
        "sequence": summary(store, RUN).next_sequence,
        "idempotency_key": generate_idempotency_key(RUN, name, index, hash_input({})),
        "change": change(
            store,
            held=MINE,
            lease=lease,
            input_text="{}",
            output_text=None if fields else "{}",
            timestamp=utc_now().isoformat(),
            attempt=1,
        )
        | ({"retry_at": retry_at} if retry_at else {}),
    } | fields
    return runner.call("POST", f"/runs/{RUN}/steps", body)


def fail_for_a_while(store: SqlCheckpointStore, runner: Caller) -> None:
    """Let the first step of a run in prod fail, to be tried again by whoever holds it."""
    start(runner)
    assert claim(store, runner, HELD, in_flight=[intent()]).status_code == 200
    later = (utc_now() + timedelta(hours=1)).isoformat()
    failed = {"status": "failed", "failure_classification": "transient", "error_message": "503"}
    assert record(store, runner, "charge", 0, HELD, retry_at=later, **failed).status_code == 201
    assert summary(store, RUN).blocked_by == ()


@pytest.mark.parametrize(("name", "index"), [("mail", 1), ("__compensate__charge", 0)])
def test_who_lets_go_of_a_run_that_was_to_be_tried_again_leaves_its_gate_closed(
    page_store: SqlCheckpointStore, runner: Caller, name: str, index: int
) -> None:
    fail_for_a_while(page_store, runner)
    assert record(page_store, runner, name, index, None).status_code == 201
    run = summary(page_store, RUN)
    assert (run.blocked_by, run.lease_owner) == (("prod_resume_ack",), None)
    answer = claim(page_store, runner, {"owner": "worker-2", "token": 2, "seconds": 60})
    assert (answer.status_code, answer.json["code"]) == (409, "resume_blocked")


def test_a_run_that_is_to_be_tried_again_is_not_complete(
    page_store: SqlCheckpointStore, runner: Caller
) -> None:
    fail_for_a_while(page_store, runner)
    body = {"action": "complete", "change": change(page_store, lease=MINE)}
    answer = runner.call("POST", f"/runs/{RUN}/lease", body)
    assert answer.status_code == 400 and "tried again first" in answer.json["detail"]
    assert summary(page_store, RUN).finished_at is None


def test_nobody_comes_back_under_a_term_that_is_over_without_the_gates_of_an_interruption(
    page_store: SqlCheckpointStore, caller: Callable[..., Caller]
) -> None:
    runner, other = caller(Role.RUNNER), caller(Role.OPERATOR)
    start(runner)
    assert claim(page_store, runner, HELD, in_flight=[intent(asked=True)]).status_code == 200
    with page_store.writing() as conn:
        values = {"lease_expires_at": ago(minutes=5), "version": runs.c.version + 1}
        conn.execute(update(runs).where(runs.c.run_id == RUN).values(values))
    answer = claim(page_store, other, HELD, in_flight=[intent(asked=True)])
    assert (answer.status_code, answer.json["code"]) == (409, "resume_blocked")
    missing = [blocker["required_action"] for blocker in answer.json["detail"]["blockers"]]
    assert missing == ["human_approval", "prod_resume_ack"]
    assert page_store.list_events(RUN)[-1].event_type == "run.interrupted"


def test_whoever_holds_a_run_changes_its_input_and_workflow_on_record(
    page_store: SqlCheckpointStore, caller: Callable[..., Caller]
) -> None:
    runner, other = caller(Role.RUNNER), caller(Role.OPERATOR)
    start(runner, "dev")
    first = {"initial_input_text": '{"amount": 1}', "workflow": ["charge"]}
    assert claim(page_store, runner, HELD, **first).status_code == 200
    again = {"initial_input_text": '{"amount": 999}', "workflow": ["charge", "mail"]}
    assert claim(page_store, other, HELD, **again).status_code == 200
    told = [(event.event_type, event.actor) for event in page_store.list_events(RUN)[1:]]
    assert told == [("run.workflow_changed", other.name), ("run.input_changed", other.name)]

"""Decisions over HTTP: who may, what is refused and how, and who was first."""

from __future__ import annotations

from typing import Any

import pytest

from resume_engine.core.audit import EventType
from resume_engine.core.run import Run
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.webapp.api.caller import ApiClient
from tests.webapp.api.conftest import Call
from tests.webapp.helpers import events

NAMED: dict[str, dict[str, Any]] = {
    "approve": {"approved_by": "ana@example.org"},
    "ack_prod_resume": {"acknowledged_by": "ana@example.org"},
    "compensate": {"result": {"refund_id": "r-1"}},
}


def decide(caller: ApiClient, run: Run, word: str, **more: Any) -> Any:
    headers = more.pop("headers", None)
    return caller.post(f"/runs/{run.run_id}/{word}", json=NAMED[word] | more, headers=headers)


@pytest.mark.parametrize(
    ("kind", "word", "event"),
    [
        ("permanent", "approve", EventType.GATE_APPROVED),
        ("partial", "compensate", EventType.GATE_COMPENSATED),
    ],
)
def test_a_decision_opens_its_gate(
    call: Call, runs: RunFactory, page_store: SqlCheckpointStore, kind: str, word: str, event: EventType
) -> None:
    run, operator = runs.blocked(kind), call("operator")
    answer = decide(operator, run, word, note="checked")
    assert answer.status_code == 200, answer.text
    assert (answer.json["status"], answer.json["can_resume"]) == ("paused", True)
    assert answer.json["resume_blockers"] == []
    (recorded,) = events(page_store, event)
    # The actor is the key, whatever name a body gives.
    assert (recorded.actor, recorded.role, recorded.channel) == (operator.name, "operator", "api")
    assert recorded.note == "checked"


def test_prod_needs_both(call: Call, runs: RunFactory) -> None:
    run, operator = runs.blocked("permanent", environment="prod"), call("operator")
    first = decide(operator, run, "ack_prod_resume")
    assert (first.status_code, first.json["can_resume"]) == (200, False)
    assert [b["required_action"] for b in first.json["resume_blockers"]] == ["human_approval"]
    assert decide(operator, run, "approve").json["can_resume"] is True
    done = runs.engine.resume(run.run_id, [(f"step_{n}", lambda _i, _k: {}) for n in range(3)])
    assert done.status == "completed"


@pytest.mark.parametrize("word", list(NAMED))
@pytest.mark.parametrize("role", ["auditor", "runner"])
def test_a_lower_role_may_not(call: Call, runs: RunFactory, role: str, word: str) -> None:
    run = runs.blocked("partial", environment="prod")
    assert decide(call(role), run, word).status_code == 403
    assert len(runs.engine.get_resume_blockers(run.run_id)) == 2


@pytest.mark.parametrize(
    ("state", "word"),
    [
        ("completed", "approve"),
        ("completed", "compensate"),
        ("completed", "ack_prod_resume"),
        ("failed", "approve"),
        ("running", "compensate"),
    ],
)
def test_nothing_to_decide_is_a_mistake_of_the_caller(
    call: Call, runs: RunFactory, state: str, word: str
) -> None:
    answer = decide(call("operator"), getattr(runs, state)(), word)
    assert (answer.status_code, answer.json["code"]) == (400, "nothing_to_decide")
    assert "Nothing was changed." in answer.json["detail"]


def test_a_resume_outside_prod_needs_no_acknowledgement(call: Call, runs: RunFactory) -> None:
    answer = decide(call("operator"), runs.blocked("permanent", environment="staging"), "ack_prod_resume")
    assert answer.status_code == 400
    assert "only prod resumes are acknowledged" in answer.json["detail"]


def test_the_second_is_told_who_was_first(call: Call, runs: RunFactory) -> None:
    run, first = runs.blocked("permanent"), call("operator")
    assert decide(first, run, "approve").status_code == 200
    answer = decide(call("admin"), run, "approve")
    assert (answer.status_code, answer.json["code"]) == (409, "already_decided")
    assert first.name in answer.json["detail"]


def test_another_failure_than_the_one_shown_is_not_decided(call: Call, runs: RunFactory) -> None:
    run = runs.blocked("permanent")
    answer = decide(call("operator"), run, "approve", failure_key="0:0")
    assert (answer.status_code, answer.json["code"]) == (409, "failure_moved_on")
    assert decide(call("operator"), run, "approve", failure_key="1:1").status_code == 200


class TestIfMatch:
    def test_the_version_that_was_seen_is_decided(self, call: Call, runs: RunFactory) -> None:
        run, operator = runs.blocked("permanent"), call("operator")
        tag = operator.get(f"/runs/{run.run_id}/status").headers["ETag"]
        answer = decide(operator, run, "approve", headers={"If-Match": tag})
        assert answer.status_code == 200
        assert answer.headers["ETag"] == operator.get(f"/runs/{run.run_id}").headers["ETag"] != tag

    @pytest.mark.parametrize("tag", ['"0-0"', "W/{tag}", "garbage", '"', ""])
    def test_another_version_is_not(self, call: Call, runs: RunFactory, tag: str) -> None:
        run, operator = runs.blocked("permanent"), call("operator")
        current = operator.get(f"/runs/{run.run_id}/status").headers["ETag"]
        answer = decide(operator, run, "approve", headers={"If-Match": tag.format(tag=current)})
        assert (answer.status_code, answer.json["code"]) == (412, "precondition_failed")
        assert runs.engine.get_resume_blockers(run.run_id)

    def test_a_star_means_any(self, call: Call, runs: RunFactory) -> None:
        run = runs.blocked("permanent")
        assert decide(call("operator"), run, "approve", headers={"If-Match": "*"}).status_code == 200


@pytest.mark.parametrize(
    ("word", "body"),
    [
        ("approve", {}),
        ("approve", {"approved_by": ""}),
        ("approve", {"approved_by": 5}),
        ("approve", {"approved_by": "x" * 256}),
        ("approve", {"approved_by": "ana", "note": "x" * 2001}),
        ("approve", {"approved_by": "ana", "role": "admin"}),
        ("approve", {"approved_by": "ana", "failure_key": ""}),
        ("compensate", {"result": []}),
        ("compensate", {"result": {"x": "y" * 70_000}}),
        ("ack_prod_resume", {"acknowledged_by": None}),
    ],
)
def test_a_wrong_shape_is_named_and_changes_nothing(
    call: Call, runs: RunFactory, word: str, body: dict[str, Any]
) -> None:
    run = runs.blocked("partial", environment="prod")
    answer = call("operator").post(f"/runs/{run.run_id}/{word}", json=body)
    assert answer.status_code == 422, answer.text
    assert len(runs.engine.get_resume_blockers(run.run_id)) == 2


def test_a_key_for_another_environment_decides_nothing(call: Call, runs: RunFactory) -> None:
    run = runs.blocked("permanent", environment="prod")
    assert decide(call("operator", environments=["dev"]), run, "ack_prod_resume").status_code == 403


@pytest.mark.parametrize("blank", [" ", "\t \n", "\u3000"])
def test_a_name_of_blanks_names_nobody(
    call: Call, runs: RunFactory, page_store: SqlCheckpointStore, blank: str
) -> None:
    run, operator = runs.blocked(environment="prod"), call("operator")
    for word, field in (("approve", "approved_by"), ("ack_prod_resume", "acknowledged_by")):
        answer = operator.post(f"/runs/{run.run_id}/{word}", json={field: blank})
        assert answer.status_code == 422 and answer.json["detail"].startswith(f"{field}: Say who it is"), (
            answer.text
        )
    sent = {"kind": "human_approval", "display_name": blank}
    answer = operator.post(f"/runs/{run.run_id}/decisions", json=sent)
    assert answer.status_code == 422 and answer.json["detail"].startswith("display_name: "), answer.text
    # As a client of 0.2.0 sends it.
    gates = {"human_approval": {"granted": True, "approved_by": blank}}
    answer = operator.patch(f"/runs/{run.run_id}", json={"metadata": {"gates": gates}})
    assert answer.status_code == 422 and "say who decides" in answer.json["detail"], answer.text
    assert page_store.list_decisions(run.run_id) == []
    assert operator.post("/start_run", json={"workflow_name": blank}).status_code == 400

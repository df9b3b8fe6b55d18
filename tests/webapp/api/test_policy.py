"""The API under a policy: keys may be left out, and a key never makes two people of one."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from resume_engine.core.actor import Actor, Channel, key_id_of
from resume_engine.core.audit import EventType
from resume_engine.core.decisions import DecisionRequest, decide
from resume_engine.core.idempotency import generate_idempotency_key, hash_input
from resume_engine.core.permissions import Role
from resume_engine.core.policy import Policy
from resume_engine.core.policy_file import parse_policy
from resume_engine.core.run import Run
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory, ago, at
from tests.provision.app_fixtures import PageClient, Statements
from tests.webapp.api.caller import ApiClient, without_key
from tests.webapp.api.conftest import Call
from tests.webapp.helpers import events
from webapp.api import deciding
from webapp.extensions import services
from webapp.settings import Settings

ANA = Actor(name="ana@example.org", role=Role.OPERATOR, channel=Channel.DASHBOARD)
POLICY = """
[[rule]]
name = "a note in dev"
environments = ["dev"]
workflows = ["noted"]
note_required = true

[[rule]]
name = "dev ends"
environments = ["dev"]
expires_after = "1h"

[[rule]]
name = "people alone in prod"
environments = ["prod"]
api_keys = false

[[rule]]
name = "two in time"
environments = ["staging"]
workflows = ["two_in_time"]
approvers = 2
expires_after = "1h"

[[rule]]
name = "staging takes two"
environments = ["staging"]
approvers = 2
not_starter = true
"""


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY, encoding="utf-8")
    return replace(settings, policy_file=str(path))


def key_made_by(app: Flask, person: Actor) -> ApiClient:
    made = services(app).keys.create(f"mine-{secrets.token_hex(3)}", Role.OPERATOR, actor=person)
    client = without_key(app)
    client.key, client.name = made.text, made.key.actor.name
    return client


def approve(caller: ApiClient, run: Run, said: str = "Maria") -> tuple[int, dict[str, object]]:
    answer = caller.post(f"/runs/{run.run_id}/approve", json={"approved_by": said})
    return answer.status_code, answer.json


def test_a_key_may_be_left_out(call: Call, runs: RunFactory, page_store: SqlCheckpointStore) -> None:
    run = runs.blocked(environment="prod")
    status, body = approve(call("operator"), run)
    assert status == 403 and "an API key may not decide this, a person must" in str(body["detail"])
    assert page_store.list_decisions(run.run_id) == []
    assert len(events(page_store, EventType.GATE_REFUSED)) == 1


def test_one_person_with_a_key_is_one_person(
    app: Flask, call: Call, runs: RunFactory, sign_in: object, page_store: SqlCheckpointStore
) -> None:
    run = runs.blocked(environment="staging", fail_at=1)
    status, body = approve(key_made_by(app, ANA), run, "Maria")
    assert status == 200 and body["can_resume"] is False
    [blocker] = body["resume_blockers"]  # type: ignore[misc]
    assert (blocker["approvals_given"], blocker["approvals_needed"]) == (1, 2)
    ana: PageClient = sign_in("ana")  # type: ignore[operator]
    page = ana.get(f"/gates?run={run.run_id}").text
    assert "1 of 2 approvals, by Maria" in page and "decisions/human_approval" not in page
    refused = ana.post(f"/runs/{run.run_id}/decisions/human_approval", data={"failure_key": "1:1"}, htmx=True)
    assert refused.status_code == 409
    assert approve(key_made_by(app, replace(ANA, name="ANA@example.org")), run)[0] == 409
    status, body = approve(call("operator"), run, "Maria")  # the same name to show, another key
    assert status == 200 and body["can_resume"] is True
    first, second = page_store.list_decisions(run.run_id)
    assert (first.display_name, second.display_name) == ("Maria", "Maria")
    assert first.actor.startswith("key mine-") and first.actor != second.actor
    assert [e.actor for e in events(page_store, EventType.GATE_APPROVED)] == [first.actor, second.actor]
    assert runs.reload(run).metadata["gates"]["human_approval"]["approved_by"] == "Maria"


def test_the_starter_does_not_get_around_it_with_a_key(app: Flask, runs: RunFactory) -> None:
    mine = key_made_by(app, ANA)
    started = mine.post("/start_run", json={"workflow_name": "w", "environment": "staging"}).json
    assert started["status"] == "running"
    run = runs.blocked(environment="staging", actor=ANA)
    status, body = approve(mine, run)
    assert status == 403 and "ana@example.org, who made key mine-" in str(body["detail"])
    theirs = runs.blocked(environment="staging", actor=Actor(name=mine.name, role=Role.OPERATOR))
    assert approve(key_made_by(app, ANA), theirs)[0] == 403


def test_a_decision_that_is_over_opens_nothing(call: Call, runs: RunFactory) -> None:
    operator, runner = call("operator"), call("runner")
    with at(ago(hours=2)):
        run = runs.blocked(fail_at=1)
        approve(operator, run)
        told = runner.get(f"/runs/{run.run_id}/resume_blockers")
        assert told.json["can_resume"] is True
    known = {"If-None-Match": told.headers["ETag"]}
    told = runner.get(f"/runs/{run.run_id}/resume_blockers", headers=known)
    assert told.status_code == 200, "it changed without a new version"
    assert told.json["can_resume"] is False and len(told.json["blockers"]) == 1
    refused = runner.post("/resume", json={"run_id": run.run_id})
    assert refused.status_code == 409
    set_running = runner.patch(f"/runs/{run.run_id}", json={"status": "running"})
    assert set_running.status_code == 409
    assert runs.reload(run).status == "failed"
    assert approve(operator, run)[0] == 200
    assert runner.post("/resume", json={"run_id": run.run_id}).status_code == 200


def test_who_was_cleared_for_a_time_is_told_as_failed_once_it_is_over(
    call: Call, runs: RunFactory, statements: Statements
) -> None:
    operator = call("operator")
    with at(ago(hours=2)) as time:
        run = runs.blocked(fail_at=1)
        approve(operator, run)
        for status in ("paused", "failed"):
            for path in ("", "/status"):
                assert operator.get(f"/runs/{run.run_id}{path}").json["status"] == status
            time.advance(3_601)
        for status in ("paused", "failed"):  # as a client writes back what it read before
            assert operator.patch(f"/runs/{run.run_id}", json={"status": status}).json["status"] == "failed"
    cleared = runs.cleared(environment="staging")
    operator.get("/runs")  # notes the use of the key
    statements.clear()
    assert operator.get(f"/runs/{cleared.run_id}/status").json["status"] == "paused"
    assert len(statements) == 2  # the key, the run


def test_a_refusal_counts_people_too(call: Call, runs: RunFactory) -> None:
    run, runner = runs.blocked(environment="staging", fail_at=1), call("runner")
    assert approve(call("operator"), run)[0] == 200
    step: dict[str, Any] = {"step_name": "step_1", "step_index": 1, "sequence": 2, "input_json": {}}
    step |= {"output_json": {}, "status": "completed"}
    step["idempotency_key"] = generate_idempotency_key(run.run_id, "step_1", 1, hash_input({}))
    for answer in (
        runner.post("/resume", json={"run_id": run.run_id}),
        runner.post(f"/runs/{run.run_id}/steps", json=step),
        runner.patch(f"/runs/{run.run_id}", json={"status": "running"}),
    ):
        assert (answer.status_code, answer.json["code"]) == (409, "resume_blocked")
        assert given_and_needed(answer.json["detail"]["blockers"]) == [(1, 2)]


class TestTags:
    """Whoever has the tag of an answer has the answer: another one comes whenever the body does."""

    PATHS = ("", "/status", "/resume_blockers")

    def test_an_approval_that_ends_while_the_gate_is_closed_changes_it(
        self, call: Call, runs: RunFactory
    ) -> None:
        operator, other = call("operator"), call("operator")
        with at(ago(hours=2)) as time:
            run = runs.blocked(workflow="two_in_time", environment="staging")
            approve(operator, run)
            told = {path: operator.get(f"/runs/{run.run_id}{path}") for path in self.PATHS}
            assert {answer.headers["ETag"] for answer in told.values()} == {told[""].headers["ETag"]}
            assert given_and_needed(told["/status"].json["resume_blockers"]) == [(1, 2)]
            known = {"If-None-Match": told[""].headers["ETag"]}
            for path in self.PATHS:
                assert operator.get(f"/runs/{run.run_id}{path}", headers=known).status_code == 304
            time.advance(3_600)
            again = {path: operator.get(f"/runs/{run.run_id}{path}", headers=known) for path in self.PATHS}
            assert {answer.status_code for answer in again.values()} == {200}
            assert given_and_needed(again["/status"].json["resume_blockers"]) == [(0, 2)]
            assert given_and_needed(again["/resume_blockers"].json["blockers"]) == [(0, 2)]
            old, new = known["If-None-Match"], again[""].headers["ETag"]
            for tag, status in ((old, 412), (new, 200)):
                headers, body = {"If-Match": tag}, {"approved_by": "Maria"}
                answer = other.post(f"/runs/{run.run_id}/approve", json=body, headers=headers)
                assert answer.status_code == status, answer.text

    def test_a_write_for_what_was_seen_counts_for_nothing_else(
        self, call: Call, runs: RunFactory, page_store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Somebody decides between the look at the tag and the record: that was not seen."""
        run, operator = runs.blocked(environment="staging"), call("operator")
        seen = {"If-Match": operator.get(f"/runs/{run.run_id}").headers["ETag"]}

        def late(store: SqlCheckpointStore, request: DecisionRequest, policy: Policy) -> Any:
            monkeypatch.undo()
            decide(store, replace(request, actor=ANA, version=None), policy)
            return decide(store, request, policy)

        monkeypatch.setattr(deciding, "decide", late)
        body = {"approved_by": "Maria"}
        assert operator.post(f"/runs/{run.run_id}/approve", json=body, headers=seen).status_code == 412
        assert [one.actor for one in page_store.list_decisions(run.run_id)] == [ANA.name]
        said = {"kind": "human_approval"}
        assert operator.post(f"/runs/{run.run_id}/decisions", json=said, headers=seen).status_code == 412
        noted = {"metadata": {"x": 1}}
        assert operator.patch(f"/runs/{run.run_id}", json=noted, headers=seen).status_code == 412
        now = {"If-Match": operator.get(f"/runs/{run.run_id}").headers["ETag"]}
        assert operator.patch(f"/runs/{run.run_id}", json=noted, headers=now).status_code == 200
        now = {"If-Match": operator.get(f"/runs/{run.run_id}").headers["ETag"]}
        assert operator.post(f"/runs/{run.run_id}/decisions", json=said, headers=now).status_code == 200

    def test_another_policy_changes_it(self, call: Call, runs: RunFactory, app: Flask) -> None:
        run, operator = runs.blocked(environment="staging"), call("operator")
        told = operator.get(f"/runs/{run.run_id}/status")
        policy = POLICY.replace("approvers = 2", "approvers = 3")
        services(app).engine.policy = parse_policy(policy, "policy.toml")
        known = {"If-None-Match": told.headers["ETag"]}
        again = operator.get(f"/runs/{run.run_id}/status", headers=known)
        assert given_and_needed(told.json["resume_blockers"]) == [(0, 2)]
        assert again.status_code == 200 and given_and_needed(again.json["resume_blockers"]) == [(0, 3)]

    def test_the_row_alone_tells_that_of_a_run_with_no_closed_gate(
        self, call: Call, runs: RunFactory, statements: Statements
    ) -> None:
        operator, run = call("operator"), runs.failed(environment="staging")
        tag = operator.get(f"/runs/{run.run_id}").headers["ETag"]
        for path in self.PATHS:
            statements.clear()
            answer = operator.get(f"/runs/{run.run_id}{path}", headers={"If-None-Match": tag})
            assert (answer.status_code, len(statements)) == (304, 2)  # the key, the run


def given_and_needed(blockers: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [(blocker["approvals_given"], blocker["approvals_needed"]) for blocker in blockers]


def test_blanks_are_no_note(call: Call, runs: RunFactory, page_store: SqlCheckpointStore) -> None:
    run, operator = runs.blocked(environment="dev", workflow="noted"), call("operator")
    path = f"/runs/{run.run_id}/approve"
    for blank in (" \n", "\u200b\u00a0\ufeff"):
        refused = operator.post(path, json={"approved_by": "Maria", "note": blank})
        assert refused.status_code == 422 and refused.json["detail"].startswith("note: "), refused.text
    assert page_store.list_decisions(run.run_id) == []
    assert operator.post(path, json={"approved_by": "Maria", "note": "looked"}).status_code == 200


@pytest.mark.parametrize("kind", ["human_approval", "compensation"])
def test_nobody_is_a_second_person_by_saying_that_the_engine_ran_it(
    call: Call, runs: RunFactory, page_store: SqlCheckpointStore, kind: str
) -> None:
    failure = "permanent" if kind == "human_approval" else "partial"
    run, operator = runs.blocked(failure, environment="staging", fail_at=1), call("operator")

    def decide(**fields: Any) -> int:
        status: int = operator.post(f"/runs/{run.run_id}/decisions", json={"kind": kind} | fields).status_code
        return status

    assert (decide(), decide()) == (200, 409)
    for sequence in (0, 1, 2, 99_999):
        assert decide(step_sequence=sequence) in (400, 409, 422)
    assert len(page_store.list_decisions(run.run_id)) == 1
    found = page_store.load_summary(run.run_id)
    assert found is not None and [action.value for action in found.blocked_by] == [kind]


def test_a_compensation_that_ran_elsewhere_counts_for_whose_key_says_so(
    app: Flask, runs: RunFactory, page_store: SqlCheckpointStore
) -> None:
    run, mine = runs.blocked("partial", environment="staging", fail_at=1), key_made_by(app, ANA)
    name = "__compensate__step_1"
    key = generate_idempotency_key(run.run_id, name, 1, hash_input({}))
    undone: dict[str, Any] = {"step_name": name, "step_index": 1, "sequence": 2, "input_json": {}}
    undone |= {"output_json": {"undone": True}, "status": "completed", "idempotency_key": key}
    assert mine.post(f"/runs/{run.run_id}/steps", json=undone).status_code == 201
    path, said = f"/runs/{run.run_id}/decisions", {"kind": "compensation", "step_sequence": 2}
    assert mine.post(path, json=said).status_code == 200
    assert mine.post(path, json={"kind": "compensation"}).status_code == 409
    assert key_made_by(app, ANA).post(path, json=said).status_code == 409
    assert key_made_by(app, replace(ANA, name="bob@example.org")).post(path, json=said).status_code == 200
    assert page_store.load_summary(run.run_id).blocked_by == ()  # type: ignore[union-attr]


def test_whoever_makes_the_successor_of_a_key_is_no_second_person(app: Flask, runs: RunFactory) -> None:
    run, bob = runs.blocked(environment="staging", fail_at=1), replace(ANA, name="bob@example.org")
    old = key_made_by(app, ANA)
    assert approve(old, run)[0] == 200
    made = services(app).keys.rotate(key_id_of(old.name) or "", actor=bob)
    new = without_key(app)
    new.key, new.name = made.text, made.key.actor.name
    assert approve(new, run)[0] == 409
    other = runs.blocked(environment="staging", fail_at=1)
    assert approve(new, other)[0] == 200
    assert approve(key_made_by(app, bob), other)[0] == 409, "bob may hold the key that ana's was replaced by"
    assert approve(key_made_by(app, replace(ANA, name="cem@example.org")), other)[0] == 200


def test_a_run_that_nobody_executes_has_not_used_its_approval(call: Call, runs: RunFactory) -> None:
    runner = call("runner")
    with at(ago(hours=2)):
        run = runs.blocked(fail_at=1)
        approve(call("operator"), run)
        assert runner.patch(f"/runs/{run.run_id}", json={"status": "running"}).status_code == 200
    step: dict[str, Any] = {"step_name": "step_1", "step_index": 1, "sequence": 2, "input_json": {}}
    step |= {"output_json": {}, "status": "completed"}
    step["idempotency_key"] = generate_idempotency_key(run.run_id, "step_1", 1, hash_input({}))
    answer = runner.post(f"/runs/{run.run_id}/steps", json=step)
    assert (answer.status_code, answer.json["code"]) == (409, "resume_blocked")

"""What the API tells about runs, to whom, and under which tag."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from flask import Flask

from resume_engine.core.masking import MASK_BEGINNING
from resume_engine.core.run import Run
from tests.factories import RunFactory
from tests.provision.app_fixtures import Statements
from tests.webapp.api.caller import ApiClient, without_key
from tests.webapp.api.conftest import Call
from webapp.api.run_list import RunListQuery

SECRET = {"api_token": "tok-5e5e5e5e", "amount": 3}
READS = ("", "/status", "/resume_blockers", "/audit_log", "/audit_events", "/replay", "/compliance_export")


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [run["run_id"] for run in answer.json["runs"]]


def whole(caller: ApiClient, run: Run, path: str = "") -> dict[str, Any]:
    answer = caller.get(f"/runs/{run.run_id}{path}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = json.loads(answer.text)
    return found


class TestOneRun:
    def test_the_whole_run_is_what_the_library_holds(self, call: Call, runs: RunFactory) -> None:
        run = runs.blocked("partial", environment="prod", metadata={"z": 1, "a": {"y": 2, "b": 3}})
        found = whole(call("runner"), run)
        assert found == runs.reload(run).to_dict()
        assert list(found["metadata"]) == ["z", "a"]  # in the order in which it was written
        assert Run.from_dict(found).to_dict() == found

    def test_status_counts_and_names_what_is_missing(self, call: Call, runs: RunFactory) -> None:
        run = runs.blocked("permanent", environment="prod")
        status = whole(call("auditor"), run, "/status")
        assert {name: status[name] for name in list(status)[:8]} == {
            "run_id": run.run_id,
            "workflow_name": "claims_intake",
            "status": "failed",
            "environment": "prod",
            "steps_completed": 1,
            "last_completed_step": 0,
            "resume_from_index": 1,
            "can_resume": False,
        }
        blockers = status["resume_blockers"]
        assert [b["required_action"] for b in blockers] == ["human_approval", "prod_resume_ack"]
        assert whole(call("auditor"), run, "/resume_blockers") == {
            "run_id": run.run_id,
            "can_resume": False,
            "blockers": blockers,
        }

    def test_the_last_completed_step_may_lie_behind_a_gap(self, call: Call, runs: RunFactory) -> None:
        run = runs.pending()
        for index in (0, 2):
            runs.engine.execute_step(run.run_id, f"step_{index}", index, {}, lambda _i, _k: {})
        status = whole(call("auditor"), run, "/status")
        assert (status["steps_completed"], status["resume_from_index"]) == (2, 1)
        assert status["last_completed_step"] == 2

    @pytest.mark.parametrize(("state", "expected"), [("completed", True), ("cancelled", False)])
    def test_who_is_finished_needs_no_decision(
        self, call: Call, runs: RunFactory, state: str, expected: bool
    ) -> None:
        run = getattr(runs, state)()
        assert whole(call("auditor"), run, "/status")["can_resume"] is expected

    def test_the_audit_log_is_the_librarys(self, call: Call, runs: RunFactory) -> None:
        run = runs.completed()
        found = whole(call("auditor"), run, "/audit_log")
        assert found["audit_trace"] == runs.engine.get_audit_log(run.run_id)
        assert found["is_masked"] is False

    def test_recorded_steps_stand_among_the_events(self, call: Call, runs: RunFactory) -> None:
        run = runs.cleared("permanent", note="checked")
        events = whole(call("auditor"), run, "/audit_events")["events"]
        kinds = [event["event_type"] for event in events]
        assert kinds[0] == "run.started"
        assert kinds.count("step.recorded") == 2
        assert kinds[-1] == "gate.approved"
        assert [event["created_at"] for event in events] == sorted(event["created_at"] for event in events)

    def test_a_replay_takes_the_completed_steps(self, call: Call, runs: RunFactory) -> None:
        run = runs.blocked("permanent")
        found = whole(call("runner"), run, "/replay")
        assert [step["step_name"] for step in found["steps"]] == ["step_0"]
        assert (found["replay_from_index"], found["environment"]) == (1, "dev")

    @pytest.mark.parametrize("path", READS)
    def test_an_unknown_run_is_not_found(self, call: Call, path: str) -> None:
        answer = call("admin").get(f"/runs/nothing{path}")
        assert (answer.status_code, answer.json["code"]) == (404, "run_not_found")

    @pytest.mark.parametrize("path", ["", "/status", "/resume_blockers", "/audit_log", "/replay"])
    def test_an_unchanged_run_is_not_sent_again(self, call: Call, runs: RunFactory, path: str) -> None:
        run = runs.blocked("permanent")
        operator = call("operator")
        tag = operator.get(f"/runs/{run.run_id}{path}").headers["ETag"]
        again = operator.get(f"/runs/{run.run_id}{path}", headers={"If-None-Match": tag})
        assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", tag)
        operator.post(f"/runs/{run.run_id}/approve", json={"approved_by": "ana"})
        moved = operator.get(f"/runs/{run.run_id}{path}", headers={"If-None-Match": tag})
        assert moved.status_code == 200
        assert moved.headers["ETag"] != tag


class TestSecrets:
    @pytest.mark.parametrize("path", READS)
    def test_auditors_get_them_masked(self, call: Call, runs: RunFactory, path: str) -> None:
        run = runs.blocked(
            "permanent",
            initial_input=SECRET,
            metadata={"db_password": "hunter22"},
            message="refused: api_key=sk-live-1234567890abcdef",
        )
        text = call("auditor").get(f"/runs/{run.run_id}{path}").text
        for secret in ("tok-5e5e5e5e", "hunter22", "sk-live-1234567890abcdef"):
            assert secret not in text

    @pytest.mark.parametrize("role", ["runner", "operator", "admin"])
    def test_whoever_resumes_gets_them_whole(self, call: Call, runs: RunFactory, role: str) -> None:
        run = runs.blocked("permanent", initial_input=SECRET, metadata={"db_password": "hunter22"})
        found = whole(call(role), run)
        assert found["steps"][0]["input_data"] == SECRET
        assert found["metadata"]["db_password"] == "hunter22"

    def test_a_masked_trace_says_so(self, call: Call, runs: RunFactory) -> None:
        run = runs.pending()
        runs.engine.execute_step(run.run_id, "login", 0, {}, lambda _i, _k: dict(SECRET))
        assert whole(call("runner"), run, "/audit_log")["is_masked"] is False
        masked = whole(call("auditor"), run, "/audit_log")
        assert masked["is_masked"] is True
        assert MASK_BEGINNING in masked["audit_trace"]


class TestList:
    def test_pages_follow_each_other_without_gap_or_repetition(self, call: Call, runs: RunFactory) -> None:
        made = [runs.completed(count=1).run_id for _ in range(7)]
        auditor, found, cursor = call("auditor"), [], None
        for _ in range(4):
            page = auditor.get("/runs?" + urlencode({"limit": 2} | ({"cursor": cursor} if cursor else {})))
            found += ids(page)
            cursor = page.json["next_cursor"]
            if cursor is None:
                break
        assert found == made[::-1]
        assert cursor is None

    @pytest.mark.parametrize(
        "state",
        ["pending", "running", "completed", "failed", "blocked", "cleared", "interrupted", "cancelled"],
    )
    def test_states_are_those_of_the_explorer(self, call: Call, runs: RunFactory, state: str) -> None:
        made = runs.every_state()
        answer = call("auditor").get(f"/runs?status={state}")
        assert ids(answer) == [made[state].run_id]
        assert all(run["state"] == state for run in answer.json["runs"])

    def test_filters_narrow_the_list(self, call: Call, runs: RunFactory) -> None:
        wanted = runs.blocked("partial", workflow="billing", environment="prod", message="mail bounced")
        runs.completed("content")
        runs.blocked("permanent", workflow="billing")
        auditor = call("auditor")
        for query in (
            {"q": "bill", "environment": "prod"},
            {"q": wanted.run_id[:10]},
            {"workflow": "billing", "failure": "partial"},
            {"blocked_by": "compensation"},
            {"message": "mail bounced"},
            {"from": "2020-01-01", "environment": "prod", "since": "24h"},
        ):
            assert ids(auditor.get(f"/runs?{urlencode(query)}")) == [wanted.run_id], query
        assert ids(auditor.get("/runs?to=2020-01-01T00:00:00Z")) == []

    def test_a_message_is_that_of_a_cause(self, app: Flask, call: Call, runs: RunFactory) -> None:
        short = runs.blocked("permanent", message="mail bounced")
        long = runs.blocked("permanent", message="x" * 120 + " and what differs")
        auditor, found = call("auditor"), {}
        for text in ("mail bounced", "mail", "x" * 119, "x" * 120, "x" * 120 + " and what differs"):
            found[text] = ids(auditor.get(f"/runs?{urlencode({'message': text})}"))
        assert list(found.values()) == [[short.run_id], [], [], [long.run_id], [long.run_id]]
        described = app.test_client().get("/openapi.json").json["paths"]["/runs"]["get"]["parameters"]
        (message,) = [one["description"] for one in described if one["name"] == "message"]
        assert "the whole of it, of a longer one the first 120 characters" in message

    def test_a_line_says_what_failed(self, call: Call, runs: RunFactory) -> None:
        runs.blocked("permanent", message="no: password=hunter22")
        (line,) = call("operator").get("/runs").json["runs"]
        assert line["failure"]["classification"] == "permanent"
        assert line["blocked_by"] == ["human_approval"]
        assert "hunter22" not in line["failure"]["message"]

    @pytest.mark.parametrize(
        "query",
        [
            "status=paused-for-ever",
            "environment=moon",
            "limit=0",
            "limit=201",
            "limit=1e2",
            "limit=true",
            "cursor=AAAA",
            "cursor=%F0%9F%98%80",
            "since=1y",
            "from=yesterday",
            "from=0001-01-01T00:00:00%2B14:00",
            "to=9999-12-31T23:59:59-14:00",
            "from=2026-02-01&to=2026-01-01",
            "q=" + "x" * 256,
            "sort=created_at",
            "workflow=%00",
        ],
    )
    def test_what_cannot_be_understood_is_refused(self, call: Call, query: str) -> None:
        answer = call("auditor").get(f"/runs?{query}")
        assert answer.status_code in (400, 422), answer.text
        assert answer.json["detail"]

    @pytest.mark.parametrize(
        "text", ["' or 1=1 --", "%", "__", "\\", "1'; drop table runs; --", "a\u202eb", "😀"]
    )
    def test_text_is_text_for_the_database(self, call: Call, runs: RunFactory, text: str) -> None:
        runs.completed()
        for name in ("q", "workflow", "error_type", "message"):
            assert ids(call("auditor").get(f"/runs?{urlencode({name: text})}")) == [], name


class TestKeysForSome:
    def test_other_environments_are_closed(self, call: Call, runs: RunFactory) -> None:
        mine, other = runs.completed(environment="staging"), runs.completed(environment="prod")
        caller = call("operator", environments=["staging", "dev"])
        assert ids(caller.get("/runs")) == [mine.run_id]
        assert caller.get("/runs?environment=prod").status_code == 403
        for path in READS:
            assert caller.get(f"/runs/{mine.run_id}{path}").status_code == 200, path
            assert caller.get(f"/runs/{other.run_id}{path}").status_code == 403, path

    def test_without_a_key_nothing_is_told(self, app: Flask, runs: RunFactory) -> None:
        run = runs.completed()
        for path in READS:
            answer = without_key(app).get(f"/runs/{run.run_id}{path}")
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), path


def test_a_list_costs_the_same_for_one_run_and_for_many(
    call: Call, runs: RunFactory, statements: Statements
) -> None:
    auditor = call("auditor")
    runs.completed()
    auditor.get("/runs")  # notes the use of the key
    statements.clear()
    auditor.get("/runs")
    few = len(statements)
    for _ in range(5):
        runs.blocked("permanent")
    statements.clear()
    auditor.get("/runs")
    assert len(statements) == few <= 2  # the key, the list


def test_the_schema_of_the_parameters_is_made_once(
    call: Call, runs: RunFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    auditor = call("auditor")
    auditor.get("/runs?limit=1")

    def made(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a request made a JSON schema, which takes longer than the list")

    monkeypatch.setattr("pydantic.json_schema.GenerateJsonSchema.generate", made)
    with pytest.raises(AssertionError):
        RunListQuery.model_json_schema(by_alias=True)
    assert auditor.get("/runs?limit=2&status=blocked").status_code == 200


def test_a_known_run_is_read_without_its_records(
    call: Call, runs: RunFactory, statements: Statements
) -> None:
    auditor, run = call("auditor"), runs.completed()
    tag = auditor.get(f"/runs/{run.run_id}").headers["ETag"]
    statements.clear()
    assert auditor.get(f"/runs/{run.run_id}", headers={"If-None-Match": tag}).status_code == 304
    assert len(statements) == 2  # the key, the run


def test_a_whole_run_costs_the_same_statements_for_few_steps_and_for_many(
    call: Call, runs: RunFactory, statements: Statements
) -> None:
    auditor = call("auditor")
    auditor.get("/runs")  # notes the use of the key
    counts: dict[str, set[int]] = {"": set(), "/status": set(), "/audit_events": set()}
    for steps in (2, 60):
        run = runs.completed(count=steps)
        for path, seen in counts.items():
            statements.clear()
            assert auditor.get(f"/runs/{run.run_id}{path}").data
            seen.add(len(statements))
    assert counts == {"": {4}, "/status": {2}, "/audit_events": {4}}


@pytest.mark.parametrize("guess", ["password=hunter2", "password=hunter2 failed", "password=h", "password=x"])
def test_a_filter_does_not_tell_what_is_masked(call: Call, runs: RunFactory, guess: str) -> None:
    runs.blocked("permanent", message="password=hunter2 failed")
    answers = {
        end: ids(call("auditor").get("/runs?" + urlencode({"message": guess + end}))) for end in ("", "••••")
    }
    assert answers[""] == []
    same = ids(call("auditor").get("/runs?" + urlencode({"message": "••••"})))
    assert answers["••••"] == same

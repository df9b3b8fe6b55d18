"""Bodies and queries that no client of ours sends: refused before anything looks at them, on any database."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask import Flask

from resume_engine.core.permissions import Role
from resume_engine.storage.open_store import open_store
from tests.factories import RunFactory
from tests.webapp.api.caller import ApiClient, caller
from tests.webapp.api.conftest import Call
from webapp import Settings, create_app, json_input
from webapp.api import bodies

JSON = "application/json"


@pytest.fixture(params=["sqlite", "postgres"])
def operator(request: pytest.FixtureRequest, settings: Settings) -> Iterator[ApiClient]:
    """An operator's key on each kind of database."""
    if request.param == "postgres":
        settings = replace(settings, database_url=request.getfixturevalue("postgres_url"))
    with open_store(settings.database_url) as store:
        yield caller(create_app(settings, store=store), Role.OPERATOR)


def start(text: str) -> bytes:
    return f'{{"workflow_name": "w", "metadata": {{"x": {text}}}}}'.encode()


BOMBS: dict[str, tuple[bytes, str, int]] = {
    "100,000 nested lists": (b"[" * 100_000, JSON, 400),
    "100,000 nested lists in a field": (start("[" * 100_000 + "]" * 100_000), JSON, 400),
    "5,000 nested objects": (start('{"a":' * 5_000 + "1" + "}" * 5_000), JSON, 400),
    "a number of 5,000 digits": (start("9" * 5_000), JSON, 400),
    "a fraction of 5,000 digits": (start("0." + "9" * 5_000), JSON, 400),
    "1e999": (start("1e999"), JSON, 400),
    "-1e999": (start("-1e999"), JSON, 400),
    "NaN": (start("NaN"), JSON, 400),
    "Infinity": (start("-Infinity"), JSON, 400),
    "one name twice": (b'{"workflow_name": "a", "workflow_name": "b"}', JSON, 400),
    "one name twice, deep": (start('{"a": 1, "\\u0061": 2}'), JSON, 400),
    "half of a pair": (start('"\\ud800"'), JSON, 400),
    "half of a pair as a name": (start('{"\\udfff": 1}'), JSON, 400),
    "NUL": (start('"a\\u0000b"'), JSON, 400),
    "a raw control character": (start('"a\nb"'), JSON, 400),
    "a string without an end": (b'{"workflow_name": "' + b"x" * 900_000, JSON, 400),
    "more than 10 MB": (start('"' + "x" * 10_000_001 + '"'), JSON, 413),
    "UTF-16": ('{"workflow_name": "w"}'.encode("utf-16"), JSON, 400),
    "UTF-16, as it says": ('{"workflow_name": "w"}'.encode("utf-16"), f"{JSON}; charset=utf-16", 415),
    "a byte order mark": (b'\xef\xbb\xbf{"workflow_name": "w"}', JSON, 400),
    "not UTF-8": (b'{"workflow_name": "\xff"}', JSON, 400),
    "a list": (b'["workflow_name"]', JSON, 400),
    "a word": (b'"workflow_name"', JSON, 400),
    "two values": (b'{"workflow_name": "w"} {}', JSON, 400),
    "a comment": (b'{"workflow_name": "w"} // x', JSON, 400),
    "a form": (b"workflow_name=w", "application/x-www-form-urlencoded", 415),
    "plain text": (b'{"workflow_name": "w"}', "text/plain", 415),
    "no type": (b'{"workflow_name": "w"}', "", 415),
    "XML": (b"<workflow_name>w</workflow_name>", "application/xml", 415),
    "nothing": (b"", JSON, 422),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused(operator: ApiClient, name: str) -> None:
    body, content_type, status = BOMBS[name]
    answer = operator.post("/start_run", data=body, content_type=content_type)
    assert answer.status_code == status, answer.text
    assert set(answer.json) >= {"detail", "code", "request_id"}
    assert operator.get("/runs").json["runs"] == []


def test_a_compressed_body_is_refused(call: Call) -> None:
    answer = call("runner").post(
        "/start_run",
        data=gzip.compress(b'{"workflow_name": "w"}'),
        content_type=JSON,
        headers={"Content-Encoding": "gzip"},
    )
    assert answer.status_code == 415


def test_too_many_values_are_refused(call: Call) -> None:
    body = start("[" + "0," * json_input.MAX_VALUES + "0]")
    answer = call("runner").post("/start_run", data=body, content_type=JSON)
    assert (answer.status_code, "values" in answer.json["detail"]) == (400, True)


def test_what_a_runner_sends_may_be_long_and_a_decision_not(call: Call, runs: RunFactory) -> None:
    text = "x" * 2_000_000
    started = call("runner").post("/start_run", json={"workflow_name": "w", "metadata": {"x": text}})
    assert started.status_code == 200
    run = runs.blocked("partial")
    answer = call("operator").post(f"/runs/{run.run_id}/compensate", json={"result": {"x": text}})
    assert answer.status_code == 413
    assert len(text) < bodies.MAX_PAYLOAD_BYTES


@pytest.mark.parametrize("digits", [1, 300, json_input.MAX_DIGITS])
def test_long_numbers_come_back_as_they_were(call: Call, digits: int) -> None:
    runner, number = call("runner"), int("7" * digits)
    made = runner.post("/start_run", json={"workflow_name": "w", "metadata": {"n": number}}).json
    assert json.loads(runner.get(f"/runs/{made['run_id']}").text)["metadata"] == {"n": number}


def test_without_the_check_the_parser_would_give_way(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nesting is counted before parsing; the number of values nobody else would count."""
    monkeypatch.setattr(json_input, "_check_shape", lambda _text: None)
    body = start("[" + "0," * json_input.MAX_VALUES + "0]")
    assert call("runner").post("/start_run", data=body, content_type=JSON).status_code == 200


@pytest.mark.parametrize(
    "query",
    ["limit=1&limit=1", "unknown=1", "limit=1&%6cimit=2", "limit[]=1", "q=a&q=b", "=1", "__proto__=1"],
)
def test_a_parameter_is_known_and_stands_once(call: Call, query: str) -> None:
    answer = call("auditor").get(f"/runs?{query}")
    assert (answer.status_code, answer.json["code"]) == (400, "bad_request")


def test_a_call_without_parameters_takes_none(call: Call, runs: RunFactory) -> None:
    run, operator = runs.blocked("permanent"), call("operator")
    assert operator.get(f"/runs/{run.run_id}?x=1").status_code == 400
    assert operator.post(f"/runs/{run.run_id}/approve?force=1", json={"approved_by": "a"}).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/nothing", 404),
        ("DELETE", "/runs/x", 405),
        ("PUT", "/start_run", 405),
        ("GET", "/start_run", 405),
        ("GET", "/runs/%00", 400),
        ("GET", "/runs/%ff%fe", 404),
        ("GET", "/runs/%ed%a0%80", 404),
        ("GET", "/runs//status", 404),
        ("GET", "/runs/" + "x" * 5_000, 404),
    ],
)
def test_every_refusal_has_one_shape(call: Call, method: str, path: str, status: int) -> None:
    answer = call("admin").open(path, method=method)
    assert answer.status_code == status, answer.text
    assert answer.mimetype == JSON
    assert set(answer.json) == {"detail", "code", "request_id"}
    assert answer.json["request_id"] == answer.headers["X-Request-Id"]


def test_a_failure_of_ours_tells_nothing(app: Flask, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    from webapp.api import one_run

    def fail(_run_id: str) -> None:
        raise RuntimeError("secret-detail")

    auditor = call("auditor")
    monkeypatch.setattr(one_run, "load", fail)
    answer = auditor.get("/runs/x/status")
    assert (answer.status_code, answer.json["code"]) == (500, "runtime")
    assert "secret-detail" not in answer.text


def test_a_list_is_given_item_by_item(call: Call) -> None:
    query = "workflow=a&workflow=b&failed_before=2026-01-01T00:00:00%2B00:00&max_attempts=3&limit=5"
    assert call("runner").get(f"/resumable?{query}").status_code == 200
    assert call("runner").get(f"/resumable?{query}&limit=6").status_code == 400

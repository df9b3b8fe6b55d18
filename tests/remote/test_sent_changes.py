"""Changes that no client of ours sends: refused with the field that is wrong, no failure of the server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.remote.conftest import Caller
from tests.remote.test_runner_calls import RUN, failure, start, step

HELD = {"owner": "worker", "token": 1}
UNREADABLE = [
    {"$codec": 2, "value": {}},
    {"$codec": 1, "value": {"a": {"$type": "uuid", "value": 5}}},
    {"$codec": 1, "value": {"a": {"$type": "date", "value": {}}}},
    {"$codec": 1, "value": {"a": {"$type": {}, "value": 1}}},
]


def claimed(runner: Caller, **fields: Any) -> Any:
    change = {"change_id": "a" * 16, "version": 0, "lease": HELD | {"seconds": 30}}
    body = {"action": "claim", "steps_total": 1, "change": change} | fields
    return runner.call("POST", f"/runs/{RUN}/lease", body)


def recorded(runner: Caller, body: dict[str, Any], **fields: Any) -> Any:
    """Record a step as the client of this release does."""
    change = {
        "change_id": "b" * 16,
        "version": 1,
        "held": HELD,
        "lease": HELD,
        "input_text": json.dumps(body["input_json"]),
        "timestamp": "2026-01-01T00:00:00+00:00",
        "attempt": 1,
    } | fields
    return runner.call("POST", f"/runs/{RUN}/steps", body | {"input_json": None, "change": change})


@pytest.mark.parametrize("envelope", UNREADABLE)
def test_a_payload_that_cannot_be_read_is_refused(runner: Caller, operator: Caller, envelope: Any) -> None:
    start(runner)
    text = json.dumps(envelope)
    answers = {"initial_input_text": claimed(runner, initial_input_text=text)}
    assert claimed(runner).status_code == 200
    for field in ("input_text", "output_text"):
        answers[field] = recorded(runner, step(), **{field: text})
    decision = {"kind": "compensation", "result_text": text}
    answers["result_text"] = operator.call("POST", f"/runs/{RUN}/decisions", decision)
    for field, answer in answers.items():
        assert answer.status_code == 400, answer.text
        assert answer.json["detail"].startswith(f"{field}: "), answer.text
    assert recorded(runner, step(), output_text="{}").status_code == 201


@pytest.mark.parametrize(
    ("field", "moment"),
    [
        ("timestamp", "0001-01-01T00:00:00.000001+00:00"),
        ("retry_at", "9999-12-31T23:59:59.999999+00:00"),
        ("started_at", "1969-12-31T23:59:59+00:00"),
        ("started_at", "tomorrow"),
    ],
)
def test_a_moment_that_no_clock_shows_is_refused(runner: Caller, field: str, moment: str) -> None:
    start(runner)
    claimed(runner)
    body = failure(0, "transient")
    good = {"retry_at": "2026-01-01T00:01:00+00:00", "follows_failure": True}
    answer = recorded(runner, body, **good | {field: moment})
    assert answer.status_code == 400 and answer.json["detail"].startswith(f"{field}: "), answer.text
    assert recorded(runner, body, **good).status_code == 201

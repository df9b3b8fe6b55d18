"""Changes that no client of ours sends: refused with the field that is wrong, no failure of the server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resume_engine.core.failed_attempt import MESSAGE_MAX_CHARACTERS, TRACEBACK_MAX_CHARACTERS
from resume_engine.storage.sql_store import SqlCheckpointStore
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


def test_a_long_message_is_kept_as_far_as_the_engine_keeps_one(
    page_store: SqlCheckpointStore, runner: Caller
) -> None:
    body = failure(0, "transient") | {"error_message": "é" * 9_000}
    start(runner)
    claimed(runner)
    for _ in range(2):
        assert recorded(runner, body, follows_failure=True, lease=None).status_code == 201
    second = failure(1, "transient", step_name="step_0", step_index=0) | {"error_message": "é" * 9_000}
    for _ in range(2):
        assert runner.call("POST", f"/runs/{RUN}/steps", second).status_code == 201
    kept = [record.error_message for record in page_store.iter_steps(RUN)]
    assert kept == ["é" * MESSAGE_MAX_CHARACTERS] * 2
    status = runner.call("GET", f"/runs/{RUN}/status")
    assert len(status.text) < 100_000


@pytest.mark.parametrize(
    ("field", "most"), [("error_type", 255), ("error_traceback", TRACEBACK_MAX_CHARACTERS)]
)
def test_what_the_engine_never_sends_longer_is_refused(runner: Caller, field: str, most: int) -> None:
    start(runner)
    claimed(runner)
    body = failure(0, "transient")
    for length, status in ((most + 1, 422), (most, 201)):
        sent = {field: "x" * length}
        assert recorded(runner, body, follows_failure=True, lease=None, **sent).status_code == status

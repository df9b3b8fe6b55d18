"""What the replay of release 0.2.0 sends: completed records of another run, with their keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.test import TestResponse

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.failure_classifier import TransientStepError
from resume_engine.core.idempotency import generate_idempotency_key
from resume_engine.core.step import Step
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.webapp.api.caller import ApiClient
from tests.webapp.api.conftest import Call

FIELDS = ("step_name", "step_index", "sequence", "idempotency_key")


def of(record: dict[str, Any]) -> dict[str, Any]:
    """Return what the client sends of a record."""
    copied = {name: record[name] for name in FIELDS}
    return copied | {
        "status": record["status"],
        "input_json": record["input_data"],
        "output_json": record["output_data"],
        "failure_classification": None,
        "error_message": None,
    }


@pytest.fixture
def source(page_store: SqlCheckpointStore) -> str:
    """A completed run whose completed records do not follow one on the other: one step failed once."""
    engine = ResumeEngine(page_store)
    failed: list[str] = []

    def flaky(_state: dict[str, Any], key: str) -> dict[str, Any]:
        if not failed:
            failed.append(key)
            raise TransientStepError("not now")
        return {"second": 2}

    steps = [Step("first", lambda *_: {"first": 1}), Step("second", flaky)]
    run_id = engine.start_run("billing", environment="staging").run_id
    with pytest.raises(TransientStepError):
        engine.execute_workflow(run_id, steps, initial_input={"order": 1})
    engine.resume(run_id, steps)
    return run_id


def replay_of(runner: ApiClient, source: str) -> str:
    started = runner.post(
        "/start_run", json={"workflow_name": "billing_replay", "metadata": {"replayed_from": source}}
    )
    return str(started.json["run_id"])


def completed(runner: ApiClient, run_id: str) -> list[dict[str, Any]]:
    return [step for step in runner.get(f"/runs/{run_id}").json["steps"] if step["status"] == "completed"]


def sent(runner: ApiClient, run_id: str, record: dict[str, Any]) -> TestResponse:
    return runner.post(f"/runs/{run_id}/steps", json=of(record))


def test_copies_are_kept_under_keys_of_their_own_run(call: Call, source: str) -> None:
    runner = call("runner")
    originals = completed(runner, source)
    assert [record["sequence"] for record in originals] == [0, 2]
    run_id = replay_of(runner, source)
    for record in [*originals, *originals]:  # each comes twice, as over a bad network
        assert sent(runner, run_id, record).status_code == 201
    kept = runner.get(f"/runs/{run_id}").json["steps"]
    assert [(r["status"], r["sequence"], r["output_data"]) for r in kept] == [
        ("skipped_replay", 0, {"first": 1}),
        ("skipped_replay", 1, {"second": 2}),
    ]
    for record, original in zip(kept, originals, strict=True):
        place = (original["step_name"], original["step_index"], original["input_hash"])
        assert record["idempotency_key"] == generate_idempotency_key(run_id, *place)
        assert runner.get(f"/idempotency/{original['idempotency_key']}").json == original
    assert completed(runner, source) == originals


CHANGES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "another output": lambda record: record | {"output_data": {"first": 2}},
    "another input": lambda record: record | {"input_data": {"order": 2}},
    "another step": lambda record: record | {"step_index": 1},
    "no such key": lambda record: record | {"idempotency_key": "0" * 64},
    "a failure": lambda record: record | {"status": "failed", "output_data": None},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_no_true_copy_is_refused(call: Call, source: str, change: str) -> None:
    runner = call("runner")
    run_id = replay_of(runner, source)
    answer = sent(runner, run_id, CHANGES[change](completed(runner, source)[0]))
    assert answer.status_code == 400 and "idempotency_key" in answer.json["detail"]
    assert runner.get(f"/runs/{run_id}").json["steps"] == []


def test_a_run_that_replays_another_or_none_takes_no_copy(call: Call, source: str) -> None:
    runner = call("runner")
    record = completed(runner, source)[0]
    other = runner.post("/start_run", json={"workflow_name": "billing"}).json["run_id"]
    for run_id in (other, replay_of(runner, other)):
        assert sent(runner, run_id, record).status_code == 400


def test_a_key_copies_only_what_it_may_see(call: Call, source: str) -> None:
    record = completed(call("runner"), source)[0]
    elsewhere = call("runner", environments=["dev"])
    run_id = replay_of(elsewhere, source)
    assert sent(elsewhere, run_id, record).status_code == 403
    assert elsewhere.get(f"/runs/{run_id}").json["steps"] == []

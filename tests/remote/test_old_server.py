"""A control plane of release 0.2.0 knows five calls; the store works with it, and warns once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import RemoteUnsupportedError, ResumeBlockedError, RunExistsError
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError, TransientStepError
from resume_engine.core.idempotency import hash_input
from resume_engine.core.run import RunStatus
from resume_engine.core.step import Step
from resume_engine.storage.remote_backend import RemoteCheckpointStore
from resume_engine.worker import Worker

MOMENT = "2026-01-01T00:00:00+00:00"


def old_server() -> Flask:
    """Return an application that does what the service of 0.2.0 did, and nothing more."""
    app = Flask("old")
    runs: dict[str, dict[str, Any]] = {}

    @app.post("/start_run")
    def start_run() -> ResponseReturnValue:
        body = request.get_json()
        if body["run_id"] in runs:
            return jsonify(detail=f"Run already exists: {body['run_id']}"), 409
        kept = {"run_id": body["run_id"], "workflow_name": body["workflow_name"], "status": "running"}
        times = {"created_at": MOMENT, "updated_at": MOMENT}
        runs[body["run_id"]] = kept | times | {"metadata": body.get("metadata", {}), "steps": []}
        return jsonify(run_id=body["run_id"], status="running")

    @app.get("/runs/<run_id>")
    def get_run(run_id: str) -> ResponseReturnValue:
        return jsonify(runs[run_id]) if run_id in runs else (jsonify(detail="not found"), 404)

    @app.patch("/runs/<run_id>")
    def update_run(run_id: str) -> ResponseReturnValue:
        if run_id not in runs:
            return jsonify(detail="not found"), 404
        body = request.get_json()
        runs[run_id] |= {name: body[name] for name in ("status", "metadata") if name in body}
        return jsonify(runs[run_id])

    @app.post("/runs/<run_id>/steps")
    def append_step(run_id: str) -> ResponseReturnValue:
        body = request.get_json()
        step = {name: body.get(name) for name in ("step_name", "step_index", "status", "sequence")}
        step |= {name: body.get(name) for name in ("failure_classification", "error_message")}
        step |= {"input_data": body["input_json"], "output_data": body.get("output_json")}
        step |= {"input_hash": hash_input(body["input_json"]), "timestamp": MOMENT}
        runs[run_id]["steps"].append(step | {"idempotency_key": body["idempotency_key"]})
        if body["status"] == "failed":
            runs[run_id]["status"] = "failed"
        return jsonify(run_id=run_id), 201

    @app.get("/idempotency/<key>")
    def find_step(key: str) -> ResponseReturnValue:
        for run in runs.values():
            for step in run["steps"]:
                if step["idempotency_key"] == key and step["status"] == "completed":
                    return jsonify(step)
        return jsonify(detail="not found"), 404

    return app


@pytest.fixture
def store() -> Iterator[RemoteCheckpointStore]:
    """A store over the old service."""
    transport = httpx.WSGITransport(old_server())
    with RemoteCheckpointStore("http://localhost", api_key="any", transport=transport) as made:
        yield made


@pytest.fixture
def engine(store: RemoteCheckpointStore) -> Iterator[ResumeEngine]:
    """An engine on it; the warning has been seen."""
    with pytest.warns(UserWarning, match=r"release 0\.2\.0: it keeps no lease"):
        assert store.load_summary("none") is None
    yield ResumeEngine(store)


def steps(error: Exception | None = None) -> list[tuple[str, Any]]:
    def charge(given: dict[str, Any], _key: str) -> dict[str, Any]:
        if error is not None:
            raise error
        return {"charged": given["order"]}

    return [("fetch", lambda *_: {"order": 7}), ("charge", charge), ("notify", lambda *_: {"sent": True})]


def test_the_warning_comes_once(store: RemoteCheckpointStore) -> None:
    with pytest.warns(UserWarning) as seen:
        store.load_summary("none")
        store.load_summary("none")
    assert len(seen) == 1


def test_a_workflow_runs_to_its_end(engine: ResumeEngine) -> None:
    run = engine.start_run("billing", metadata={"team": "a"})
    done = engine.execute_workflow(run.run_id, steps(), initial_input={"a": 1})
    assert (done.status, len(done.steps), done.metadata) == (RunStatus.COMPLETED, 3, {"team": "a"})
    with pytest.raises(RunExistsError):
        engine.start_run("billing", run_id=run.run_id)


@pytest.mark.parametrize("error", [TransientStepError("a"), PermanentStepError("b"), PartialStepError("c")])
def test_a_failure_closes_its_gate_and_the_run_is_resumed(engine: ResumeEngine, error: Exception) -> None:
    run = engine.start_run("billing")
    with pytest.raises(type(error)):
        engine.execute_workflow(run.run_id, steps(error), initial_input={"a": 1})
    found = engine.get_run_status(run.run_id)
    assert found is not None and found.status is RunStatus.FAILED
    if not isinstance(error, TransientStepError):
        with pytest.raises(ResumeBlockedError):
            engine.resume(run.run_id, steps())
    if isinstance(error, PermanentStepError):
        engine.grant_human_approval(run.run_id, "olga@example.com")
    if isinstance(error, PartialStepError):
        engine.record_compensation(run.run_id, result={"undone": True})
    done = engine.resume(run.run_id, steps())
    assert done.status is RunStatus.COMPLETED
    assert done.steps[-1].input_data == {"a": 1, "order": 7, "charged": 7}


def test_a_run_driven_step_by_step(engine: ResumeEngine) -> None:
    with engine.run("billing") as run:
        engine.execute_step(run.run_id, "fetch", 0, {"a": 1}, lambda *_: {"b": 2})
        again = engine.execute_step(run.run_id, "fetch", 0, {"a": 1}, lambda *_: {"never": "called"})
    assert again.output_data == {"b": 2}
    found = engine.get_run_status(run.run_id)
    assert found is not None and found.status is RunStatus.COMPLETED


def test_a_rollback_that_nobody_could_resume_is_refused(engine: ResumeEngine) -> None:
    run = engine.start_run("billing")
    undone: list[str] = []
    made = [Step("fetch", lambda *_: {"order": 7}, compensate=lambda _, key: undone.append(key) or {})]
    failing = Step("charge", steps(PermanentStepError("b"))[1][1])
    with pytest.raises(PermanentStepError):
        engine.execute_workflow(run.run_id, [*made, failing])
    with pytest.raises(RemoteUnsupportedError, match="cannot be rolled back"):
        engine.roll_back(run.run_id, [*made, failing], requested_by="olga@example.com", note="wrong")
    found = engine.get_run_status(run.run_id)
    assert undone == [] and found is not None and found.status is RunStatus.FAILED


def test_a_worker_is_told_that_this_server_knows_too_little(engine: ResumeEngine) -> None:
    with pytest.raises(RemoteUnsupportedError, match=r"release 0\.2\.0"):
        Worker(engine, {"billing": steps()}).run_once()

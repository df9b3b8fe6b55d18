"""What people do with the published client 0.2.0, against the server named in the environment.

Runs in an environment that holds `resume_engine==0.2.0` and nothing of this repository; prints what it saw as
JSON.
"""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from typing import Any

import httpx

from resume_engine.core.checkpoint_store import ResumeEngine
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError, TransientStepError
from resume_engine.core.resume_gates import ResumeBlockedError
from resume_engine.storage.remote_backend import RemoteCheckpointStore

INPUT = {"order": "A-17", "amount": 12.5, "name": "Zoë ✓"}
COMPLETED = "0200aaaa-0000-4000-8000-000000000000"
runner = RemoteCheckpointStore(os.environ["API_URL"], api_key=os.environ["RUNNER_KEY"])
operator = RemoteCheckpointStore(os.environ["API_URL"], api_key=os.environ["OPERATOR_KEY"])
engine, boss = ResumeEngine(runner), ResumeEngine(operator)
seen: dict[str, Any] = {"version": version("resume_engine")}


def steps(error: Exception | None = None) -> list[tuple[str, Any]]:
    def output(index: int) -> Any:
        return lambda _input, _key: {f"out_{index}": index, "text": "naïve ✓", "none": None}

    def fail(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        assert error is not None
        raise error

    return [
        (name, fail if error is not None and index == 1 else output(index))
        for index, name in enumerate(("fetch", "charge", "notify"))
    ]


def refusal(call: Any, *arguments: Any, **options: Any) -> str:
    """Return how a call was refused."""
    try:
        call(*arguments, **options)
    except httpx.HTTPStatusError as error:
        return f"{error.response.status_code}"
    except Exception as error:
        return type(error).__name__
    return "accepted"


def failed(error: Exception, **metadata: Any) -> str:
    run = engine.start_run("billing", metadata=metadata)
    assert (
        refusal(engine.execute_workflow, run.run_id, steps(error), initial_input=INPUT)
        == type(error).__name__
    )
    return run.run_id


def blockers(run_id: str) -> list[str]:
    return [blocker.required_action for blocker in engine.get_resume_blockers(run_id)]


def finish(run_id: str) -> dict[str, Any]:
    run = engine.resume(run_id, steps(), initial_input=INPUT)
    return {"run_id": run_id, "status": run.status.value, "trace": run.audit_trace()}


def completed() -> None:
    run = engine.start_run("billing", run_id=COMPLETED, metadata={"team": "a"})
    done = engine.execute_workflow(run.run_id, steps(), initial_input=INPUT)
    seen["completed"] = [done.status.value, len(done.steps), done.metadata]
    again = engine.execute_step(run.run_id, "fetch", 0, INPUT, lambda *_: {"never": "called"})
    seen["not called again"] = again.output_data
    seen["same id"] = refusal(engine.start_run, "billing", run_id=run.run_id)
    seen["after the end"] = refusal(engine.execute_step, run.run_id, "more", 3, {}, lambda *_: {})
    seen["unknown run"] = runner.get_run("none")


def transient() -> None:
    run_id = failed(TransientStepError("busy"))
    seen["transient"] = [blockers(run_id), finish(run_id)]


def permanent() -> None:
    run_id = failed(PermanentStepError("no such card"))
    before = runner.get_run(run_id)
    assert before is not None
    found = [blockers(run_id), refusal(engine.resume, run_id, steps())]
    found.append(refusal(engine.resume, run_id, steps(), initial_input=INPUT, skip_gate_check=True))
    found.append(refusal(engine.execute_step, run_id, "charge", 1, {"forced": 1}, lambda *_: {}))
    found.append(refusal(engine.grant_human_approval, run_id, "mallory"))
    for status in ("RUNNING", "COMPLETED", "PENDING"):
        run = runner.get_run(run_id)
        assert run is not None
        run.status = type(run.status)[status]
        found.append(refusal(runner.update_run, run))
    boss.grant_human_approval(run_id, "olga@example.com", note="card replaced")
    found.append(blockers(run_id))
    found.append(refusal(runner.update_run, before))  # read before the decision: out of date, no change
    found.append(blockers(run_id))
    seen["permanent"] = [*found, finish(run_id)]


def partial() -> None:
    run_id = failed(PartialStepError("mail sent, row missing"))
    found = [blockers(run_id), refusal(engine.record_compensation, run_id, result={"forged": True})]
    found.append(refusal(engine.execute_compensation, run_id, lambda *_: {"recalled": 1}))
    found.append(blockers(run_id))
    boss.record_compensation(run_id, result={"recalled": 1}, note="by hand")
    seen["partial"] = [*found, blockers(run_id), finish(run_id)]
    other = failed(PartialStepError("mail sent, row missing"))
    boss.execute_compensation(other, lambda *_: {"recalled": 2})
    seen["compensated"] = [blockers(other), finish(other)]


def acknowledged(store: RemoteCheckpointStore, run_id: str) -> None:
    run = store.get_run(run_id)
    assert run is not None
    ack = {
        "granted": True,
        "acknowledged_by": "olga@example.com",
        "acknowledged_at": "2026-01-01",
        "note": None,
    }
    run.metadata["gates"] = {**run.metadata.get("gates", {}), "prod_resume_ack": ack}
    run.status = type(run.status).PAUSED
    store.update_run(run)


def prod() -> None:
    run_id = failed(TransientStepError("busy"), environment="prod")
    found = [refusal(engine.resume, run_id, steps(), initial_input=INPUT)]
    found.append(refusal(acknowledged, runner, run_id))
    acknowledged(operator, run_id)
    seen["prod"] = [*found, finish(run_id)]
    again = failed(TransientStepError("busy"), environment="prod")
    acknowledged(operator, again)
    run_again = refusal(engine.resume, again, steps(TransientStepError("again")), initial_input=INPUT)
    seen["prod, failed again"] = [run_again, refusal(engine.resume, again, steps(), initial_input=INPUT)]


def replayed() -> None:
    run_id = COMPLETED
    original = runner.get_run(run_id)
    assert original is not None
    called: list[str] = []
    never = [(name, lambda _input, _key, name=name: called.append(name)) for name, _ in steps()]
    run, trace = engine.replay_run(run_id, never, initial_input=INPUT)
    seen["replayed"] = {
        "called": called,
        "status": run.status.value,
        "steps": [[step.status.value, step.sequence, step.output_data] for step in run.steps],
        "run_id": run.run_id,
        "trace": trace,
        "original": {"run_id": run_id, "trace": original.audit_trace()},
        "copied without a source": refusal(copy_without_source, run_id),
        "forged": refusal(copy_forged, run_id),
    }


def copy_without_source(run_id: str) -> None:
    record = runner.get_run(run_id).steps[0]
    runner.append_step(engine.start_run("billing_replay").run_id, record)


def copy_forged(run_id: str) -> None:
    record = runner.get_run(run_id).steps[0]
    record.output_data = {"forged": True}
    runner.append_step(engine.start_run("replay", metadata={"replayed_from": run_id}).run_id, record)


for part in (completed, transient, permanent, partial, prod, replayed):
    part()
seen["resume blocked"] = ResumeBlockedError.__name__
print(json.dumps(seen))

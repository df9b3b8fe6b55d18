"""A rollback over a network that cuts, repeats and delays: each step is undone once, then it is over."""

from __future__ import annotations

from typing import Any

import pytest

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.failure_classifier import PermanentStepError
from resume_engine.core.run import RunStatus
from resume_engine.core.step import Step
from resume_engine.core.step_record import StepKind
from tests.crash.http_proxy import Fault
from tests.crash.scale import schedule, tell, times
from tests.crash.test_http_faults import Plane, plane
from tests.factories import failing, passing

__all__ = ["plane"]


def assert_undone(plane: Plane, run_id: str) -> None:
    """Roll a run of three steps back, and look at what was called and recorded."""
    called: list[int] = []

    def undo(index: int) -> Any:
        return lambda _state, _key: called.append(index) or {}

    steps = [Step(f"step_{n}", passing({}), compensate=undo(n)) for n in range(3)]
    steps.append(Step("last", failing(PermanentStepError("declined"))))
    with plane.remote() as remote:
        engine = ResumeEngine(remote, owner="runner")
        run = engine.roll_back(run_id, steps, requested_by="olga@example.com", note="withdrawn")
    assert run.status is RunStatus.CANCELLED and called == [2, 1, 0]
    undone = [(s.step_index, s.status.value) for s in run.steps if s.kind is StepKind.COMPENSATION]
    assert undone == [(n, "completed") for n in (2, 1, 0)]
    kinds = [event.event_type for event in plane.store.list_events(run_id)]
    assert kinds.count("run.rolling_back") == kinds.count("run.rolled_back") == 1


def failed(plane: Plane, run_id: str) -> str:
    engine = ResumeEngine(plane.store)
    steps = [(f"step_{n}", passing({})) for n in range(3)]
    engine.start_run("orders", run_id=run_id)
    with pytest.raises(PermanentStepError):
        engine.execute_workflow(run_id, [*steps, ("last", failing(PermanentStepError("declined")))])
    return run_id


def test_no_fault_undoes_a_step_twice_or_leaves_one(plane: Plane) -> None:
    plane.proxy.begin(lambda _: None)
    assert_undone(plane, failed(plane, "calm"))
    requests = plane.proxy.requests
    chance = schedule("http faults in rollbacks")
    cases = times(short=16, long=400)
    for case in range(cases):
        run_id, fault = failed(plane, f"case-{case}"), list(Fault)[case % len(Fault)]
        number = chance.randint(1, requests)
        plane.proxy.begin(lambda n, number=number, fault=fault: fault if n == number else None)  # type: ignore[misc]
        assert_undone(plane, run_id)
    faults = plane.proxy.faults
    tell(f"http faults in rollbacks: {cases} cases, {requests} calls each, 0 lost, 0 doubled")
    assert faults.total() == cases and set(faults) == set(Fault)

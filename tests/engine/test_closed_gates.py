"""Gates on every path into a run, and the decisions that open them."""

from __future__ import annotations

import pytest

from resume_engine.core.actor import Actor
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import (
    AlreadyDecidedError,
    DecisionInputError,
    NothingToDecideError,
    ResumeBlockedError,
)
from resume_engine.core.permissions import Role
from resume_engine.core.run import Environment, RunStatus
from tests.engine.counted import Counted
from tests.factories import RunFactory, failing, passing, steps


@pytest.mark.parametrize("environment", Environment)
@pytest.mark.parametrize("kind", ["transient", "permanent", "partial"])
def test_a_closed_gate_stops_every_path(
    engine: ResumeEngine, runs: RunFactory, kind: str, environment: Environment
) -> None:
    run_id = runs.failed(kind, environment=environment.value).run_id
    blockers = engine.get_resume_blockers(run_id)
    if kind == "transient" and environment is not Environment.PROD:
        assert blockers == []
        assert engine.resume(run_id, steps(3)).status is RunStatus.COMPLETED
        return
    spy = Counted({})
    workflow = [(f"step_{index}", spy) for index in range(3)]
    for call in (
        lambda: engine.resume(run_id, workflow),
        lambda: engine.execute_workflow(run_id, workflow),
        lambda: engine.execute_step(run_id, "step_1", 1, {}, spy),
        lambda: engine.execute_step(run_id, "step_9", 9, {}, spy),
        lambda: engine.complete_run(run_id),
    ):
        with pytest.raises(ResumeBlockedError) as caught:
            call()
        assert caught.value.blockers == blockers
    if kind != "partial":
        with pytest.raises(ResumeBlockedError):
            engine.execute_step(run_id, "__compensate__step_1", 1, {}, spy)
    assert spy.calls == []
    for blocker in blockers:
        engine.decide(run_id, blocker.required_action, Actor(name="olga", role=Role.OPERATOR))
    assert engine.resume(run_id, workflow).status is RunStatus.COMPLETED
    assert len(spy.calls) == 2


def test_a_closed_gate_still_answers_what_is_recorded(engine: ResumeEngine, runs: RunFactory) -> None:
    run = runs.blocked()
    [completed, _] = run.steps
    again = engine.execute_step(run.run_id, "step_0", 0, completed.input_data, failing(AssertionError()))
    assert again.idempotency_key == completed.idempotency_key


def test_decisions_by_name(engine: ResumeEngine, runs: RunFactory) -> None:
    permanent = runs.blocked("permanent", environment="prod").run_id
    half = engine.grant_human_approval(permanent, "olga@example.com", note="key rotated")
    assert half.metadata["gates"]["human_approval"]["note"] == "key rotated"
    assert [blocker.required_action for blocker in engine.get_resume_blockers(permanent)] == [
        "prod_resume_ack"
    ]
    assert engine.ack_prod_resume(permanent, "omar@example.com").status is RunStatus.PAUSED
    assert engine.get_resume_blockers(permanent) == []
    partial = runs.blocked("partial").run_id
    noted = engine.record_compensation(partial, result={"refund": "r-1"}, note="by hand")
    assert noted.metadata["gates"]["compensations"]["1:1"]["result"] == {"refund": "r-1"}
    rejected = engine.reject_run(runs.blocked().run_id, "olga@example.com", note="sent twice")
    assert rejected.status is RunStatus.CANCELLED


def test_a_decision_is_made_once(engine: ResumeEngine, runs: RunFactory) -> None:
    run_id = runs.blocked().run_id
    engine.grant_human_approval(run_id, "olga@example.com")
    with pytest.raises(AlreadyDecidedError, match="by olga@example.com") as caught:
        engine.grant_human_approval(run_id, "omar@example.com")
    assert caught.value.decision.actor == "olga@example.com"


def test_what_there_is_nothing_to_decide_about(engine: ResumeEngine, runs: RunFactory) -> None:
    for call in (
        lambda: engine.grant_human_approval(runs.blocked("partial").run_id, "olga"),
        lambda: engine.record_compensation(runs.blocked("permanent").run_id),
        lambda: engine.ack_prod_resume(runs.blocked("permanent").run_id, "olga"),
        lambda: engine.execute_compensation(runs.blocked("permanent").run_id, passing({})),
        lambda: engine.execute_compensation(runs.completed().run_id, passing({})),
        lambda: engine.grant_human_approval(runs.completed().run_id, "olga"),
    ):
        with pytest.raises(NothingToDecideError, match="Nothing was changed"):
            call()
    with pytest.raises(DecisionInputError, match="^kind: "):
        engine.decide(runs.blocked().run_id, "approve", Actor(name="olga", role=Role.OPERATOR))

"""The run row: what one more record makes of it, and which state people see."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment, RunStatus
from resume_engine.core.run_summary import RunState, RunSummary, after_step, blockers_of, cleared
from resume_engine.core.step_record import FailureClassification, StepRecord, StepStatus
from tests.stores.changes import NOON, completed, failed

TRANSIENT = FailureClassification.TRANSIENT
PARTIAL = FailureClassification.PARTIAL


def row(**fields: object) -> RunSummary:
    made = RunSummary(
        run_id="run-1",
        workflow_name="billing",
        status=RunStatus.RUNNING,
        environment=Environment.DEV,
        created_at=NOON,
        updated_at=NOON,
    )
    return replace(made, **fields)


def after(*records: StepRecord, run: RunSummary | None = None) -> RunSummary:
    run = run or row()
    for record in records:
        run = after_step(run, record)
    return run


def test_a_completed_step_moves_the_counters() -> None:
    run = after(completed(0), completed(1))
    assert (run.steps_completed, run.next_sequence, run.resume_from_index) == (2, 2, 2)
    assert (run.status, run.failure, run.blocked_by) == (RunStatus.RUNNING, None, ())
    assert run.updated_at == NOON


def test_a_step_out_of_order_does_not_move_the_resume_index_past_a_gap() -> None:
    assert after(completed(0, index=1)).resume_from_index == 0


@pytest.mark.parametrize(
    ("classification", "environment", "actions"),
    [
        (TRANSIENT, Environment.DEV, ()),
        (TRANSIENT, Environment.PROD, (GateAction.PROD_RESUME_ACK,)),
        (PARTIAL, Environment.PROD, (GateAction.COMPENSATION, GateAction.PROD_RESUME_ACK)),
        (FailureClassification.PERMANENT, Environment.STAGING, (GateAction.HUMAN_APPROVAL,)),
        (None, Environment.DEV, (GateAction.HUMAN_APPROVAL,)),
    ],
)
def test_a_failure_closes_its_gates(
    classification: FailureClassification | None, environment: Environment, actions: tuple[GateAction, ...]
) -> None:
    record = replace(failed(0), failure_classification=classification)
    run = after(record, run=row(environment=environment))
    assert (run.status, run.blocked_by) == (RunStatus.FAILED, actions)
    assert run.blocked_since == (NOON if actions else None)
    assert run.failure is not None
    assert (run.failure.key, run.failure.message, run.failure.attempts) == ("0:0", "invalid API key", 1)
    assert [blocker.required_action for blocker in blockers_of(run)] == [action.value for action in actions]


def test_failures_in_a_row_are_counted() -> None:
    run = after(failed(0, TRANSIENT), failed(1, TRANSIENT, index=0), failed(2, TRANSIENT, index=0))
    assert run.failure is not None and run.failure.attempts == 3


def test_success_mends_the_failure_and_starts_the_count_anew() -> None:
    run = after(failed(0, TRANSIENT), completed(1, index=0))
    assert (run.status, run.failure, run.steps_completed) == (RunStatus.RUNNING, None, 1)
    run = after(failed(2, TRANSIENT, index=0), run=run)
    assert run.failure is not None and run.failure.attempts == 1


def test_a_new_failure_closes_the_gate_anew() -> None:
    opened = replace(after(failed(0)), blocked_by=(), blocked_since=None, cleared_by="olga", cleared_at=NOON)
    run = after(failed(1, index=0), run=replace(opened, status=RunStatus.PAUSED))
    assert run.blocked_by == (GateAction.HUMAN_APPROVAL,)
    assert (run.cleared_by, run.cleared_at) == (None, None)
    assert run.failure is not None and run.failure.key == "0:1"


def test_a_compensation_only_takes_a_sequence() -> None:
    blocked = after(failed(0, PARTIAL))
    for record in (
        completed(1, index=0, name="__compensate__step_0"),
        failed(1, TRANSIENT, index=0, name="__compensate__step_0"),
    ):
        assert after(record, run=blocked) == replace(blocked, next_sequence=2)


@pytest.mark.parametrize("status", [StepStatus.PENDING, StepStatus.RUNNING])
def test_an_attempt_under_way_only_takes_a_sequence(status: StepStatus) -> None:
    record = replace(completed(0), status=status, output_data=None)
    assert after(record) == row(next_sequence=1)


@pytest.mark.parametrize(
    "beside", [completed(1), failed(1, TRANSIENT), failed(1, PARTIAL), failed(1)], ids=lambda r: str(r.status)
)
def test_a_branch_beside_it_does_not_open_a_closed_gate(beside: StepRecord) -> None:
    blocked = after(failed(0))
    run = after(beside, run=blocked)
    assert (run.failure, run.blocked_by, run.status) == (
        blocked.failure,
        blocked.blocked_by,
        RunStatus.FAILED,
    )


def test_a_gated_failure_takes_the_place_of_one_without_gates() -> None:
    run = after(failed(0, TRANSIENT), failed(1))
    assert run.failure is not None and run.failure.key == "1:1"
    assert run.blocked_by == (GateAction.HUMAN_APPROVAL,)


def test_nothing_but_the_failure_is_forgotten() -> None:
    run = after(completed(0), failed(1))
    assert cleared(run) == replace(
        run, failure=None, blocked_by=(), blocked_since=None, cleared_by=None, cleared_at=None
    )


def test_the_message_is_text_that_every_database_keeps() -> None:
    run = after(failed(0, error_message="a\x00b"))
    assert run.failure is not None and run.failure.message == "a\\x00b"


STATES: list[tuple[RunState, dict[str, object]]] = [
    (RunState.PENDING, {"status": RunStatus.PENDING}),
    (RunState.RUNNING, {"status": RunStatus.RUNNING}),
    (RunState.RUNNING, {"status": RunStatus.RUNNING, "lease_expires_at": NOON + timedelta(seconds=1)}),
    (RunState.INTERRUPTED, {"status": RunStatus.RUNNING, "lease_expires_at": NOON - timedelta(seconds=1)}),
    (RunState.COMPLETED, {"status": RunStatus.COMPLETED}),
    (RunState.FAILED, {"status": RunStatus.FAILED}),
    (RunState.BLOCKED, {"status": RunStatus.FAILED, "blocked_by": (GateAction.HUMAN_APPROVAL,)}),
    (RunState.BLOCKED, {"status": RunStatus.PAUSED, "blocked_by": (GateAction.PROD_RESUME_ACK,)}),
    (RunState.CLEARED, {"status": RunStatus.PAUSED}),
    (RunState.CANCELLED, {"status": RunStatus.CANCELLED}),
]


@pytest.mark.parametrize(("state", "fields"), STATES)
def test_the_state_people_see(state: RunState, fields: dict[str, object]) -> None:
    assert row(**fields).state(NOON) is state


def test_every_state_is_tested() -> None:
    assert {state for state, _ in STATES} == set(RunState)

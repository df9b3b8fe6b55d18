"""Gate rules: which failure closes which gates, and which decision opens which."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import pytest

from resume_engine.core.resume_gates import (
    GateAction,
    ResumeBlockedError,
    assert_can_resume,
    failure_key,
    get_gates_metadata,
    get_resume_blockers,
    required_actions,
)
from resume_engine.core.run import Environment, Run, RunStatus
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.run_filter import BLOCKED_BY_TEXTS
from tests.stores.changes import completed, failed

TRANSIENT = FailureClassification.TRANSIENT
PERMANENT = FailureClassification.PERMANENT
PARTIAL = FailureClassification.PARTIAL
COMPENSATION = GateAction.COMPENSATION
APPROVAL = GateAction.HUMAN_APPROVAL
ACK = GateAction.PROD_RESUME_ACK

REQUIRED: dict[tuple[FailureClassification, Environment], tuple[GateAction, ...]] = {
    (TRANSIENT, Environment.DEV): (),
    (TRANSIENT, Environment.STAGING): (),
    (TRANSIENT, Environment.PROD): (ACK,),
    (PERMANENT, Environment.DEV): (APPROVAL,),
    (PERMANENT, Environment.STAGING): (APPROVAL,),
    (PERMANENT, Environment.PROD): (APPROVAL, ACK),
    (PARTIAL, Environment.DEV): (COMPENSATION,),
    (PARTIAL, Environment.STAGING): (COMPENSATION,),
    (PARTIAL, Environment.PROD): (COMPENSATION, ACK),
}


def test_the_table_is_complete() -> None:
    assert set(REQUIRED) == set(product(FailureClassification, Environment))


@pytest.mark.parametrize(("case", "actions"), REQUIRED.items())
def test_what_a_failure_asks_for(
    case: tuple[FailureClassification, Environment], actions: tuple[GateAction, ...]
) -> None:
    assert required_actions(*case) == actions


def test_the_texts_of_the_blocked_column_are_these() -> None:
    assert set(BLOCKED_BY_TEXTS) == {"+".join(actions) for actions in REQUIRED.values() if actions}


def gates_for(decided: tuple[GateAction, ...], key: str) -> dict[str, Any]:
    """Return decisions about the failure `key` as 0.2.0's metadata has them."""
    forms: dict[GateAction, dict[str, Any]] = {
        APPROVAL: {"human_approval": {"granted": True, "failure_key": key, "approved_by": "olga"}},
        COMPENSATION: {"compensations": {key: {"result": {}}}},
        ACK: {"prod_resume_ack": {"granted": True, "failure_key": key, "acknowledged_by": "olga"}},
    }
    merged: dict[str, Any] = {}
    for action in decided:
        merged |= forms[action]
    return merged


def run_with(
    classification: FailureClassification | None = PERMANENT,
    environment: Environment = Environment.DEV,
    *,
    status: RunStatus = RunStatus.FAILED,
    gates: dict[str, Any] | None = None,
) -> Run:
    record = failed(1)
    record.failure_classification = classification
    return Run(
        run_id="run-1",
        workflow_name="billing",
        status=status,
        metadata={"gates": gates} if gates is not None else {},
        steps=[completed(0), record],
        environment=environment,
    )


SUBSETS = [subset for size in range(4) for subset in combinations(GateAction, size)]


@pytest.mark.parametrize("decided", SUBSETS, ids=lambda subset: "+".join(subset) or "nothing")
@pytest.mark.parametrize("case", REQUIRED)
def test_every_class_in_every_environment_with_every_decision(
    case: tuple[FailureClassification, Environment], decided: tuple[GateAction, ...]
) -> None:
    expected = [action.value for action in REQUIRED[case] if action not in decided]
    for status in (RunStatus.FAILED, RunStatus.PAUSED):
        run = run_with(*case, status=status, gates=gates_for(decided, "1:1"))
        blockers = get_resume_blockers(run)
        assert [blocker.required_action for blocker in blockers] == expected
        # A decision about another failure event opens nothing.
        other = run_with(*case, status=status, gates=gates_for(decided, "1:0"))
        assert len(get_resume_blockers(other)) == len(REQUIRED[case])


def test_a_blocker_says_everything_about_the_failure() -> None:
    [blocker] = get_resume_blockers(run_with())
    assert blocker.to_dict() == {
        "classification": "permanent",
        "step_index": 1,
        "step_name": "step_1",
        "failure_key": "1:1",
        "message": "invalid API key",
        "required_action": "human_approval",
        "approvals_needed": 1,
        "approvals_given": 0,
    }


def test_an_unclassified_failure_needs_a_person() -> None:
    [blocker] = get_resume_blockers(run_with(None))
    assert (blocker.required_action, blocker.classification) == ("human_approval", PERMANENT)


def test_approvals_by_failure_key_count_too() -> None:
    assert get_resume_blockers(run_with(gates={"approvals": {"1:1": {"approved_by": "olga"}}})) == []
    assert get_resume_blockers(run_with(gates={"approvals": {"1:0": {"approved_by": "olga"}}})) != []


@pytest.mark.parametrize(
    "approval",
    [
        {"granted": False, "failure_key": "1:1"},
        {"granted": True, "failure_key": None},
        {"granted": True},
        {},
        None,
    ],
)
def test_an_approval_that_is_none(approval: Any) -> None:
    assert get_resume_blockers(run_with(gates={"human_approval": approval})) != []


def test_an_acknowledgement_without_a_failure_opens_nothing() -> None:
    """0.2.0 kept one acknowledgement per run, which opened every later failure."""
    gates = {"prod_resume_ack": {"granted": True, "acknowledged_by": "olga"}}
    assert get_resume_blockers(run_with(TRANSIENT, Environment.PROD, gates=gates)) != []


@pytest.mark.parametrize("status", [s for s in RunStatus if s not in (RunStatus.FAILED, RunStatus.PAUSED)])
def test_only_failed_and_paused_runs_are_blocked(status: RunStatus) -> None:
    assert get_resume_blockers(run_with(status=status)) == []


def test_a_mended_failure_blocks_nothing() -> None:
    run = run_with()
    run.steps.append(completed(2, index=1))
    assert get_resume_blockers(run) == []


def test_the_failure_of_a_branch_stays_behind_that_of_another() -> None:
    """A transient failure beside a permanent one does not open the other's gate."""
    run = run_with()
    run.steps.append(failed(2, TRANSIENT))
    assert [blocker.failure_key for blocker in get_resume_blockers(run)] == ["1:1"]


def test_a_compensation_that_failed_is_no_failure_of_the_run() -> None:
    run = run_with(PARTIAL)
    run.steps.append(failed(2, TRANSIENT, index=1, name="__compensate__step_1"))
    assert [blocker.required_action for blocker in get_resume_blockers(run)] == ["compensation"]


def test_assert_can_resume_carries_the_blockers() -> None:
    with pytest.raises(ResumeBlockedError, match=r"human_approval \(invalid API key\)") as caught:
        assert_can_resume(run_with())
    assert caught.value.blockers == get_resume_blockers(run_with())
    assert_can_resume(run_with(TRANSIENT))


def test_names_of_0_2_0_work() -> None:
    assert failure_key(failed(7, index=3)) == "3:7"
    assert get_gates_metadata(run_with(gates={"approvals": {}})) == {"approvals": {}}
    assert get_gates_metadata(Run(run_id="r", workflow_name="w", metadata={"gates": "nonsense"})) == {}

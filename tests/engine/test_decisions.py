"""Decisions: the pure judgement, for every kind in every situation."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.decision_request import DecisionRequest, check_request
from resume_engine.core.decisions import (
    Decision,
    DecisionKind,
    gates_view,
    parse_decision_kind,
)
from resume_engine.core.errors import (
    AlreadyDecidedError,
    DecisionError,
    DecisionInputError,
    DecisionNotAllowedError,
    FailureMovedOnError,
    NothingToDecideError,
)
from resume_engine.core.judgement import judge
from resume_engine.core.permissions import Role
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment, RunStatus
from resume_engine.core.run_summary import RunSummary, after_step
from resume_engine.core.step_record import FailureClassification
from tests.engine.test_run_summary import after, row
from tests.stores.changes import NOON, completed, decision, failed

OLGA = Actor(name="olga@example.com", role=Role.OPERATOR, channel=Channel.DASHBOARD)
LATER = NOON + timedelta(hours=1)
COMPENSATION, APPROVAL = DecisionKind.COMPENSATION, DecisionKind.HUMAN_APPROVAL
ACK, REJECT = DecisionKind.PROD_RESUME_ACK, DecisionKind.REJECT
DEV, PROD = Environment.DEV, Environment.PROD
TRANSIENT = FailureClassification.TRANSIENT
PERMANENT = FailureClassification.PERMANENT
PARTIAL = FailureClassification.PARTIAL


def request(kind: DecisionKind = APPROVAL, **fields: object) -> DecisionRequest:
    return replace(DecisionRequest(run_id="run-1", kind=kind, actor=OLGA, note="the reason"), **fields)


def failing(
    classification: FailureClassification = PERMANENT, environment: Environment = DEV, **fields: object
) -> RunSummary:
    return replace(after(failed(0, classification), run=row(environment=environment)), **fields)


# Which kind finds a gate: "paused" opens the last one, "waits" leaves another closed, "cancelled" rejects.
TABLE: dict[tuple[FailureClassification, Environment, DecisionKind], str] = {
    (TRANSIENT, DEV, COMPENSATION): "nothing",
    (TRANSIENT, DEV, APPROVAL): "nothing",
    (TRANSIENT, DEV, ACK): "nothing",
    (TRANSIENT, DEV, REJECT): "cancelled",
    (TRANSIENT, PROD, COMPENSATION): "nothing",
    (TRANSIENT, PROD, APPROVAL): "nothing",
    (TRANSIENT, PROD, ACK): "paused",
    (TRANSIENT, PROD, REJECT): "cancelled",
    (PERMANENT, DEV, COMPENSATION): "nothing",
    (PERMANENT, DEV, APPROVAL): "paused",
    (PERMANENT, DEV, ACK): "nothing",
    (PERMANENT, DEV, REJECT): "cancelled",
    (PERMANENT, PROD, COMPENSATION): "nothing",
    (PERMANENT, PROD, APPROVAL): "waits",
    (PERMANENT, PROD, ACK): "waits",
    (PERMANENT, PROD, REJECT): "cancelled",
    (PARTIAL, DEV, COMPENSATION): "paused",
    (PARTIAL, DEV, APPROVAL): "nothing",
    (PARTIAL, DEV, ACK): "nothing",
    (PARTIAL, DEV, REJECT): "cancelled",
    (PARTIAL, PROD, COMPENSATION): "waits",
    (PARTIAL, PROD, APPROVAL): "nothing",
    (PARTIAL, PROD, ACK): "waits",
    (PARTIAL, PROD, REJECT): "cancelled",
}


@pytest.mark.parametrize(("case", "expected"), TABLE.items(), ids=lambda value: str(value))
def test_every_kind_on_every_failure(
    case: tuple[FailureClassification, Environment, DecisionKind], expected: str
) -> None:
    classification, environment, kind = case
    run = failing(classification, environment)
    for shown in (None, "0:0"):
        asked = request(kind, failure_key=shown)
        if expected == "nothing":
            with pytest.raises(NothingToDecideError, match="run-1: there is nothing to decide"):
                judge(run, [], asked, LATER)
            continue
        left = judge(run, [], asked, LATER)
        assert left.updated_at == LATER
        assert {"paused": (RunStatus.PAUSED, False), "waits": (RunStatus.PAUSED, True)}.get(
            expected, (RunStatus.CANCELLED, False)
        ) == (left.status, bool(left.blocked_by))


def test_a_decision_changes_nothing_it_need_not() -> None:
    run = failing()
    assert judge(run, [], request(), LATER) == replace(
        run,
        status=RunStatus.PAUSED,
        blocked_by=(),
        blocked_since=None,
        cleared_by=OLGA.name,
        cleared_at=LATER,
        updated_at=LATER,
    )


@pytest.mark.parametrize(("first", "second"), [(APPROVAL, ACK), (ACK, APPROVAL)])
def test_two_gates_are_opened_one_after_the_other_in_any_order(
    first: DecisionKind, second: DecisionKind
) -> None:
    run = failing(PERMANENT, PROD)
    once = judge(run, [], request(first), LATER)
    assert once.blocked_by == (GateAction(second.value),)
    assert once.blocked_since == NOON, "still waiting since the failure"
    twice = judge(once, [decision(kind=first)], request(second), LATER)
    assert (twice.blocked_by, twice.blocked_since, twice.status) == ((), None, RunStatus.PAUSED)


def test_a_half_opened_run_can_be_rejected() -> None:
    once = judge(failing(PERMANENT, PROD), [], request(), LATER)
    assert judge(once, [decision()], request(REJECT), LATER).status is RunStatus.CANCELLED


@pytest.mark.parametrize("kind", [APPROVAL, REJECT])
def test_a_cleared_run_is_not_decided_again(kind: DecisionKind) -> None:
    cleared = judge(failing(), [], request(), LATER)
    with pytest.raises(AlreadyDecidedError, match="by omar@example.com at 2026-03-01"):
        judge(cleared, [decision(actor="omar@example.com")], request(kind), LATER)


@pytest.mark.parametrize("kind", DecisionKind)
def test_a_rejected_run_takes_no_decision_whatever_is_asked(kind: DecisionKind) -> None:
    rejected = judge(failing(PARTIAL, PROD), [], request(REJECT), LATER)
    assert (rejected.blocked_by, rejected.finished_at) == ((), LATER)
    with pytest.raises(AlreadyDecidedError, match="already decided"):
        judge(rejected, [decision(kind=REJECT)], request(kind), LATER)


@pytest.mark.parametrize("kind", DecisionKind)
@pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.COMPLETED, RunStatus.CANCELLED])
def test_a_run_without_a_failure_has_nothing_to_decide(kind: DecisionKind, status: RunStatus) -> None:
    with pytest.raises(NothingToDecideError, match="no open failure"):
        judge(row(status=status), [], request(kind), LATER)


def test_the_failure_shown_must_be_the_current_one() -> None:
    again = after_step(judge(failing(), [], request(), LATER), failed(1, index=0))
    with pytest.raises(
        FailureMovedOnError, match="was for failure 0:0, its current failure is 0:1"
    ) as caught:
        judge(again, [], request(failure_key="0:0"), LATER)
    assert (caught.value.shown, caught.value.current) == ("0:0", "0:1")
    mended = after_step(again, completed(2, index=0))
    with pytest.raises(FailureMovedOnError, match="no open failure now"):
        judge(mended, [], request(failure_key="0:1"), LATER)


def test_a_stale_decision_that_was_made_before_names_who_made_it() -> None:
    again = after_step(judge(failing(), [], request(), LATER), failed(1, index=0))
    with pytest.raises(AlreadyDecidedError, match="olga@example.com"):
        judge(again, [decision()], request(failure_key="0:0"), LATER)


def test_a_decision_about_an_earlier_failure_opens_nothing_now() -> None:
    again = after_step(judge(failing(), [], request(), LATER), failed(1, index=0))
    assert judge(again, [], request(), LATER).blocked_by == ()


@pytest.mark.parametrize("role", Role)
def test_who_may_decide(role: Role) -> None:
    asked = request(actor=replace(OLGA, role=role))
    if role in (Role.OPERATOR, Role.ADMIN):
        check_request(asked)
    else:
        with pytest.raises(DecisionNotAllowedError, match=f"olga@example.com \\({role}\\) may not decide"):
            check_request(asked)


ACCEPTED = [
    request(note=None),
    request(note=""),
    request(note="x" * 2_000),
    request(note="line\nline ✓"),
    request(COMPENSATION, result={}),
    request(COMPENSATION, result={"refund": {"id": "r-1", "lines": [1, None]}}),
    request(REJECT, note="x"),
]


@pytest.mark.parametrize("asked", ACCEPTED)
def test_what_a_request_may_say(asked: DecisionRequest) -> None:
    check_request(asked)


def test_an_unknown_kind_is_named() -> None:
    assert parse_decision_kind("reject") is REJECT
    for value in ("approve", "", None, 3):
        with pytest.raises(DecisionInputError, match=r"^kind: .* is unknown; use one of comp"):
            parse_decision_kind(value)


def test_the_view_of_decisions_has_the_old_shape() -> None:
    made: list[Decision] = [
        decision(failure_key="0:0", note="first"),
        decision(failure_key="1:3", decided_at=LATER, actor="omar@example.com"),
        decision(kind=COMPENSATION, failure_key="2:5", result={"refund": 1}, note="by hand"),
        decision(kind=COMPENSATION, failure_key="2:7", result={"undone": 1}, step_sequence=8),
        decision(kind=ACK, failure_key="2:7"),
        decision(kind=REJECT, failure_key="2:7"),
    ]
    at, later = NOON.isoformat(), LATER.isoformat()
    approvals = {
        key: {"granted": True, "failure_key": key, "approved_by": by, "approved_at": moment, "note": note}
        for key, by, moment, note in (
            ("0:0", "olga@example.com", at, "first"),
            ("1:3", "omar@example.com", later, None),
        )
    }
    ack = {
        "granted": True,
        "failure_key": "2:7",
        "acknowledged_by": "olga@example.com",
        "acknowledged_at": at,
        "note": None,
    }
    assert gates_view(made) == {
        "human_approval": approvals["1:3"],
        "approvals": approvals,
        "compensations": {
            "2:5": {
                "completed_at": at,
                "result": {"refund": 1},
                "note": "by hand",
                "recorded_externally": True,
            },
            "2:7": {"completed_at": at, "step_sequence": 8, "output": {"undone": 1}},
        },
        "prod_resume_ack": ack,
        "prod_resume_acks": {"2:7": ack},
    }
    assert gates_view([]) == {}


def test_every_refusal_is_a_decision_error() -> None:
    for kind in (
        AlreadyDecidedError,
        DecisionInputError,
        DecisionNotAllowedError,
        FailureMovedOnError,
        NothingToDecideError,
    ):
        assert issubclass(kind, DecisionError)

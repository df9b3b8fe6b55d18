"""What the timeline of a run tells."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from resume_engine.core.decisions import Decision, DecisionKind
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment, RunStatus
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import StepKind, StepStatus
from resume_engine.storage.step_queries import AttemptMark
from webapp.pages.run_timeline import timeline_of

START = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


def later(**by: float) -> datetime:
    return START + timedelta(**by)


def run(**changes: Any) -> RunSummary:
    values: dict[str, Any] = {
        "run_id": "r",
        "workflow_name": "flow",
        "status": RunStatus.COMPLETED,
        "environment": Environment.DEV,
        "created_at": START,
        "updated_at": START,
        "next_sequence": 2,
    }
    return RunSummary(**values | changes)


def attempt(
    sequence: int, begun: float, took: float, status: str = "completed", **changes: Any
) -> AttemptMark:
    values: dict[str, Any] = {
        "sequence": sequence,
        "step_index": sequence,
        "step_name": f"step_{sequence}",
        "kind": StepKind.STEP,
        "status": StepStatus(status),
        "attempt": 1,
        "started_at": later(seconds=begun),
        "recorded_at": later(seconds=begun + took),
        "duration_ms": int(took * 1_000),
        "classification": None,
        "error_type": None,
        "error_message": None,
    }
    return AttemptMark(**values | changes)


def decision(after: float) -> Decision:
    return Decision(
        run_id="r",
        failure_key="1:1",
        kind=DecisionKind.HUMAN_APPROVAL,
        actor="olga",
        role="operator",
        channel="dashboard",
        decided_at=later(seconds=after),
    )


def told(*args: Any) -> list[tuple[str, str]]:
    return [(piece.kind, piece.label) for piece in timeline_of(*args).pieces]


def test_attempts_waits_and_decisions_stand_in_order() -> None:
    attempts = [attempt(0, 0, 1), attempt(1, 1, 3, "failed"), attempt(2, 3_700, 2, step_index=1)]
    assert told(run(next_sequence=3), attempts, [decision(3_604)], later(hours=9)) == [
        ("completed", "step 0 step_0: completed after 1.0 s"),
        ("failed", "step 1 step_1: failed after 3.0 s"),
        ("wait", "waited 1 h 0 m"),
        ("decision", "Approved by olga"),
        ("wait", "waited 1 min"),
        ("completed", "step 1 step_2: completed after 2.0 s"),
    ]


def test_the_words_say_what_the_picture_shows() -> None:
    attempts = [attempt(0, 0, 1), attempt(1, 1, 3, "failed")]
    blocked = run(status=RunStatus.FAILED, blocked_by=(GateAction.HUMAN_APPROVAL,))
    shown = timeline_of(blocked, attempts, [], later(seconds=4 + 7_200))
    assert shown.pieces[-1].label == "waiting for a person for 2 h 0 m"
    assert shown.words == "2 attempts, 4.0 s of work, 1 failed, 2 h 0 m of waiting"


def test_only_the_latest_attempts_of_a_long_run_are_drawn() -> None:
    shown = timeline_of(run(next_sequence=10_000), [attempt(9_999, 0, 1)], [], later(hours=1))
    assert shown.words.startswith("the latest 1 attempt of 10,000")


def test_a_running_step_is_drawn_until_now() -> None:
    running = run(status=RunStatus.RUNNING, resume_from_index=1, lease_expires_at=later(hours=2))
    assert told(running, [attempt(0, 0, 1)], [], later(seconds=61))[-1] == (
        "running",
        "step 1: running for 1 min",
    )


def test_records_without_start_and_duration_are_drawn() -> None:
    old = attempt(0, 0, 0, started_at=None, duration_ms=None)
    assert told(run(next_sequence=1), [old], [], later(hours=1)) == [
        ("completed", "step 0 step_0: completed")
    ]
    assert timeline_of(run(next_sequence=1), [old], [], later(hours=1)).words == "1 attempt"


def test_clocks_that_disagree_do_not_change_the_order() -> None:
    attempts = [attempt(0, 100, 1), attempt(1, 0, 1, "failed")]
    assert [kind for kind, _ in told(run(), attempts, [], later(hours=1))] == ["completed", "failed"]


def test_a_compensation_looks_like_one() -> None:
    undo = attempt(1, 2, 1, kind=StepKind.COMPENSATION, step_name="__compensate__charge", step_index=0)
    assert told(run(), [undo], [], later(hours=1)) == [
        ("compensation", "compensation of step 0 charge: completed after 1.0 s")
    ]


def test_nothing_recorded_draws_nothing() -> None:
    shown = timeline_of(run(next_sequence=0), [], [], later(hours=1))
    assert (list(shown.pieces), shown.words) == ([], "")

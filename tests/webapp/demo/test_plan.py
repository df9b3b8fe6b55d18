"""The week that is played: the same for the same seed, with everything in it that the dashboard shows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from resume_engine import PartialStepError
from webapp.demo.live import needs_somebody
from webapp.demo.plan import SHARES, WAITING, fault_of_class, plan_week
from webapp.demo.workflows import ALL, PLAYED_LIVE, DemoWorkflow

END = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)


def test_the_same_seed_gives_the_same_week() -> None:
    assert plan_week(7, END) == plan_week(7, END)
    assert plan_week(7, END) != plan_week(8, END)


def test_a_week_lies_in_the_seven_days_before_its_end() -> None:
    moments = [planned.at for planned in plan_week(7, END)]
    assert moments == sorted(moments)
    assert END - timedelta(days=7) <= moments[0] and moments[-1] < END
    last_day = sum(at > END - timedelta(days=1) for at in moments)
    assert 0.25 < last_day / len(moments) < 0.6


def test_every_environment_and_workflow_has_runs() -> None:
    stories = [planned.story for planned in plan_week(7, END)]
    assert {story.environment for story in stories} == {"dev", "staging", "prod"}
    assert {story.workflow.name for story in stories} == {workflow.name for workflow in ALL}


def test_every_live_workflow_has_a_share() -> None:
    assert {workflow.name for workflow, _ in SHARES} == {workflow.name for workflow in PLAYED_LIVE}


@pytest.mark.parametrize("entry", WAITING, ids=lambda entry: f"{entry.workflow.name}-{entry.step}")
def test_every_waiting_run_names_a_fault_that_exists(entry: object) -> None:
    assert fault_of_class(entry.workflow, entry.step, entry.classification)  # type: ignore[attr-defined]


@pytest.mark.parametrize("workflow", ALL, ids=lambda workflow: workflow.name)
def test_workflows_are_well_formed(workflow: DemoWorkflow) -> None:
    names = [step.name for step in workflow.steps]
    assert len(set(names)) == len(names)
    assert 3 <= len(names) <= 40
    for step in workflow.steps:
        assert 0 < step.seconds[0] < step.seconds[1]
        for fault in step.faults:
            assert (fault.undo is not None) == (fault.error is PartialStepError), fault.message


def test_failures_that_close_a_gate_are_told_apart() -> None:
    kinds = {
        (planned.story.environment, planned.story.trouble is None, needs_somebody(planned.story))
        for planned in plan_week(7, END)
    }
    assert ("prod", False, True) in kinds and ("prod", False, False) not in kinds
    assert ("dev", False, True) in kinds and ("dev", False, False) in kinds
    assert not any(needs for _, calm, needs in kinds if calm)

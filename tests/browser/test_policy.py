"""Two people at one gate, each in a browser of their own; the pages on wide and small screens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.permissions import Role
from tests.browser.conftest import Visit
from tests.factories import RunFactory, ago, at, steps
from tests.provision.app_fixtures import with_policy
from webapp import Settings

ANA, OSCAR = (
    Actor(name=f"{name}@example.org", role=Role.OPERATOR, channel=Channel.DASHBOARD)
    for name in ("ana", "oscar")
)
POLICY = """
[[rule]]
name = "Payouts in prod take two people, never the one who started the run"
environments = ["prod"]
approvers = 2
not_starter = true
note_required = true
expires_after = "8h"

[[rule]]
name = "Only admins reject in prod"
decisions = ["reject"]
environments = ["prod"]
roles = ["admin"]
"""


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return with_policy(settings, tmp_path, POLICY)


@pytest.fixture
def runs(runs: RunFactory, settings: Settings) -> RunFactory:
    from resume_engine.core.policy_file import read_policy

    runs.engine.policy = read_policy(str(settings.policy_file))
    return runs


def test_two_people_open_a_gate_together(
    runs: RunFactory, visit: Visit, working: Callable[..., object]
) -> None:
    run = runs.blocked(environment="prod", message="Quota used up", fail_at=1)
    ana, oscar = visit("ana"), visit("oscar")
    ana.open("/gates")
    ana.sees("0 of 2 approvals")
    ana.button("Approve").click()  # the browser asks for the note
    assert ana.page.get_by_label("Note").evaluate("field => !field.checkValidity()")
    ana.approve("Quota raised")
    ana.sees("You have decided already.")
    assert ana.button("Approve").count() == 0
    oscar.open("/")
    oscar.sees("1 of 2 approvals, by ana@example.org")
    oscar.approve("Looked at the bill")
    oscar.sees("0 of 2 acknowledgements")
    ana.sees("Approved by oscar@example.org")  # without a reload
    for person in (oscar, ana):
        person.open(f"/gates?run={run.run_id}")
        person.page.get_by_label("Note").fill("Agreed")
        person.acknowledge(run.workflow_name)
        person.sees("Prod resume acknowledged by you")
    ana.sees("Waiting for a runner. What was decided counts until")
    with working({run.workflow_name: steps(3)}):  # type: ignore[attr-defined]
        ana.sees("The run is completed")


def half_way(runs: RunFactory) -> str:
    run = runs.blocked(environment="prod", message="Quota used up", fail_at=1)
    runs.engine.decide(run.run_id, "human_approval", ANA, note="Quota raised")
    return run.run_id


def cleared(runs: RunFactory) -> str:
    run = runs.blocked(environment="prod", fail_at=1)
    for kind in ("human_approval", "prod_resume_ack"):
        for person in (ANA, OSCAR):
            runs.engine.decide(run.run_id, kind, person, note="Agreed")
    return run.run_id


def over(runs: RunFactory) -> str:
    with at(ago(hours=9)):
        return cleared(runs)


def own(runs: RunFactory) -> str:
    return runs.blocked(environment="prod", fail_at=1, actor=ANA).run_id


STATES = {"half way": half_way, "cleared": cleared, "over": over, "own": own}
ADDRESSES = {
    "half way": ("/", "/gates?run={}", "/gates/approvals?cause=Quota+used+up"),
    "cleared": ("/runs/{}",),
    "over": ("/runs/{}",),
    "own": ("/gates?run={}",),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_pages_are_accessible_and_fit(
    runs: RunFactory, visit: Visit, state: str, width: int, scheme: str
) -> None:
    run_id = STATES[state](runs)
    ana = visit("ana", width=width, color_scheme=scheme)
    for address in ADDRESSES[state]:
        ana.open(address.format(run_id))
        assert ana.accessibility_problems() == [], address
        assert ana.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), address

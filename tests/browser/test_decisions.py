"""Journeys of people who decide, in a real browser, with a real worker behind them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect
from sqlalchemy import delete

from resume_engine.core.run import RunStatus
from resume_engine.storage.schema import user_sessions
from tests.browser.conftest import Visit
from tests.factories import RunFactory, ago, at, steps

Working = Callable[..., Any]
CLAIMS = {"claims_intake": steps(3)}


def status(runs: RunFactory, run: Any) -> RunStatus:
    return runs.reload(run).status


def test_approve_the_oldest_from_the_landing_page_and_watch_it_complete(
    runs: RunFactory, visit: Visit, working: Working
) -> None:
    with at(ago(hours=3, minutes=12)):
        run = runs.blocked("permanent", message="Invalid API key", fail_at=1)
    ana = visit("ana")
    ana.open("/")
    ana.sees("1 waiting for a person")
    ana.sees("Invalid API key")
    ana.approve()  # one action, no reason asked
    ana.sees("Waiting for a runner")
    ana.sees("Nobody has to decide anything right now")  # the number above follows by itself
    with working(CLAIMS):
        ana.sees("The run is completed")
    for line in ("Approved by you", "Resumed by worker-2", "Step 1 passed"):
        assert line in re.sub(r"\s+", " ", ana.decision.inner_text())
    assert status(runs, run) is RunStatus.COMPLETED
    ana.page.wait_for_timeout(1_300)  # it has nothing more to ask for
    assert ana.decision.get_attribute("hx-trigger") is None


def test_a_run_whose_id_has_slashes_is_decided_like_any_other(runs: RunFactory, visit: Visit) -> None:
    run = runs.blocked("permanent", run_id="team//a b?1#%/", fail_at=1)
    ana = visit("ana")
    ana.open("/gates")
    ana.approve("looked at it")
    ana.sees("Waiting for a runner")
    ana.page.get_by_role("link", name="claims_intake").first.click()
    ana.sees("Approved by you")
    assert len(runs.store.list_decisions(run.run_id)) == 1


def test_approve_from_the_queue_with_a_reason(runs: RunFactory, visit: Visit, working: Working) -> None:
    first = runs.blocked("permanent", message="Invalid API key")
    second = runs.blocked("permanent", message="Quota used up")
    ana = visit("ana")
    ana.open("/gates")
    ana.queue.nth(1).click()
    ana.sees("Quota used up")
    ana.approve("Quota raised")
    ana.sees("Quota raised")
    with working(CLAIMS):
        ana.sees("The run is completed")
    assert ana.queue.count() == 1  # the list followed; the item stayed
    assert status(runs, second) is RunStatus.COMPLETED
    assert status(runs, first) is RunStatus.FAILED
    ana.sees("Decided in the last hour")
    ana.page.locator("#decided").get_by_text("Approved by ana@example.org").wait_for()


def test_a_step_that_fails_again_is_told_and_led_to(runs: RunFactory, visit: Visit, working: Working) -> None:
    runs.blocked("permanent", message="Invalid API key", fail_at=1)
    ana = visit("ana")
    ana.open("/gates")
    ana.approve()
    with working({"claims_intake": steps(3, fail_at=1, error=ValueError("Still the wrong key"))}):
        ana.sees("Step 1 failed again: Still the wrong key")
    ana.page.get_by_role("link", name="Look at what it waits for now").click()
    ana.sees("attempt 2")
    ana.button("Approve").wait_for()


def test_compensate(runs: RunFactory, visit: Visit, working: Working) -> None:
    run = runs.blocked("partial", message="2 of 5 invoices were sent")
    ana = visit("ana")
    ana.open("/gates?kind=compensation")
    ana.record_compensation('{"refund_id": "r-1",\n "cents" 120}')
    ana.sees("at line 2, column 10")
    assert status(runs, run) is RunStatus.FAILED
    ana.page.wait_for_function("document.activeElement.name === 'result'")  # the cursor is at the mistake
    ana.record_compensation('{"refund_id": "r-1", "cents": 120}', "Refunded by hand")
    ana.sees("Refunded by hand")
    with working(CLAIMS):
        ana.sees("The run is completed")
    (decision,) = runs.store.list_decisions(run.run_id)
    assert decision.result == {"refund_id": "r-1", "cents": 120}


def test_prod_is_approved_then_acknowledged_by_name(runs: RunFactory, visit: Visit, working: Working) -> None:
    run = runs.blocked("permanent", environment="prod")
    ana = visit("ana")
    ana.open("/")
    ana.sees("PROD · what you decide here acts on production")
    ana.approve()
    ana.sees("decision 2 of 2")
    ana.cannot_press("Acknowledge prod resume")
    ana.page.get_by_label("Workflow name").fill("claims")
    ana.cannot_press("Acknowledge prod resume")
    ana.acknowledge("claims_intake")
    with working(CLAIMS):
        ana.sees("The run is completed")
    assert status(runs, run) is RunStatus.COMPLETED


def test_reject_needs_a_reason_and_is_apart(runs: RunFactory, visit: Visit) -> None:
    run = runs.blocked("permanent")
    ana = visit("ana")
    ana.open("/gates")
    assert not ana.button("Reject").is_visible()  # folded away
    ana.page.get_by_text("Reject this run…").click()
    approve, reject = ana.button("Approve").bounding_box(), ana.button("Reject").bounding_box()
    assert approve is not None
    assert reject is not None
    assert reject["y"] > approve["y"] + approve["height"] + 100  # a slip of the finger does not reach it
    ana.button("Reject").click()
    assert status(runs, run) is RunStatus.FAILED  # the browser asks for the reason
    ana.page.get_by_label("Reason").fill("Sent twice")
    ana.button("Reject").click()
    ana.sees("The run is cancelled.")
    assert status(runs, run) is RunStatus.CANCELLED


def test_an_auditor_sees_no_button(runs: RunFactory, visit: Visit) -> None:
    runs.blocked("partial", environment="prod")
    alice = visit("alice")
    for address in ("/", "/gates"):
        alice.open(address)
        alice.sees("Your role may look but not decide")
        for name in ("Approve", "Record compensation", "Acknowledge prod resume", "Reject"):
            assert alice.button(name).count() == 0
        assert alice.page.get_by_text("Reject this run…").count() == 0


def test_of_two_operators_at_once_one_wins_and_the_other_is_told(runs: RunFactory, visit: Visit) -> None:
    run = runs.blocked("permanent")
    ana, oscar = visit("ana"), visit("oscar")
    ana.open("/gates")
    oscar.open("/gates")
    ana.page.route(
        re.compile(r"/decision\?"), lambda route: route.fulfill(status=204)
    )  # she presses before she is told
    ana.page.get_by_label("Note").fill("mine")
    oscar.approve("his")
    oscar.sees("Waiting for a runner")
    ana.button("Approve").click()
    ana.sees(re.compile(r"oscar@example\.org approved this .+ before you\. Nothing was changed\."))
    (decision,) = runs.store.list_decisions(run.run_id)
    assert (decision.actor, decision.note) == ("oscar@example.org", "his")


def test_an_open_page_learns_of_the_decision_of_another(runs: RunFactory, visit: Visit) -> None:
    runs.blocked("permanent")
    ana, oscar = visit("ana"), visit("oscar")
    ana.open("/gates")
    oscar.open("/gates")
    oscar.approve()
    ana.sees(re.compile(r"Approved by oscar@example\.org"), within_seconds=10)
    assert ana.button("Approve").count() == 0


def test_a_stale_page_changes_nothing(runs: RunFactory, visit: Visit) -> None:
    run = runs.blocked("permanent", fail_at=1)
    ana = visit("ana")
    ana.open("/gates")
    ana.page.get_by_label("Note").fill("typed before it moved on")
    runs.engine.grant_human_approval(run.run_id, "oscar@example.org")
    with pytest.raises(ValueError, match="other"):
        runs.engine.resume(run.run_id, steps(3, fail_at=2, error=ValueError("other")))
    ana.button("Approve").click()
    ana.sees(re.compile("Nothing was changed"))
    assert [d.actor for d in runs.store.list_decisions(run.run_id)] == ["oscar@example.org"]


@pytest.mark.parametrize("kind", ["human_approval", "compensation", "prod_resume_ack", "reject"])
def test_every_decision_works_without_javascript(runs: RunFactory, visit: Visit, kind: str) -> None:
    classes = {"compensation": "partial", "prod_resume_ack": "transient"}
    run = runs.blocked(
        classes.get(kind, "permanent"), environment="prod" if kind == "prod_resume_ack" else "dev"
    )
    ana = visit("ana", java_script_enabled=False)
    ana.open("/")
    if kind == "human_approval":
        ana.approve("Key rotated")
    elif kind == "compensation":
        ana.record_compensation("{nope")
        ana.sees("Not recorded")
        ana.sees("at line 1, column 2")
        ana.record_compensation('{"refund_id": "r-1"}')
    elif kind == "prod_resume_ack":
        ana.acknowledge("claims")
        ana.sees("Expected claims_intake, found claims.")
        ana.acknowledge("claims_intake")
    else:
        ana.reject("Sent twice")
    ana.sees("The run is cancelled." if kind == "reject" else "Waiting for a runner")
    assert f"run={run.run_id}" in ana.page.url
    (decision,) = runs.store.list_decisions(run.run_id)
    assert decision.kind.value == kind


def test_a_late_decision_without_javascript_is_a_page_that_says_who(runs: RunFactory, visit: Visit) -> None:
    run = runs.blocked("permanent")
    ana = visit("ana", java_script_enabled=False)
    ana.open("/gates")
    runs.engine.grant_human_approval(run.run_id, "oscar@example.org")
    ana.approve()
    ana.sees(re.compile(r"oscar@example\.org approved this .* before you\. Nothing was changed\."))
    ana.page.get_by_role("link", name="Back", exact=True).click()
    ana.sees("Waiting for a runner")


def test_several_of_one_cause_are_approved_together(runs: RunFactory, visit: Visit, working: Working) -> None:
    made = [runs.blocked("permanent", message="Invalid API key") for _ in range(4)]
    ana = visit("ana")
    ana.open("/")
    ana.page.get_by_role("link", name="Approve together: Invalid API key").click()
    ana.page.get_by_role("checkbox").nth(3).uncheck()
    ana.page.get_by_label("Note").fill("Key rotated")
    runs.engine.grant_human_approval(made[0].run_id, "oscar@example.org")
    ana.button("Approve the marked runs").click()
    ana.sees("2 runs approved, 1 not")
    ana.sees(re.compile(r"oscar@example\.org approved this"))
    with working(CLAIMS):
        for run in made[:3]:
            _until(lambda run=run: status(runs, run) is RunStatus.COMPLETED)
    assert status(runs, made[3]) is RunStatus.FAILED


def test_a_signed_out_person_keeps_what_was_typed(runs: RunFactory, visit: Visit) -> None:
    runs.blocked("permanent")
    ana = visit("ana")
    ana.open("/gates")
    ana.page.context.clear_cookies()
    ana.approve("typed for a while")
    ana.sees("You are signed out. Nothing was changed.")
    assert ana.page.get_by_label("Note").input_value() == "typed for a while"


def _until(holds: Callable[[], bool]) -> None:
    ended = threading.Event()
    for _ in range(100):
        if holds():
            return
        ended.wait(0.1)
    pytest.fail("waited 10 seconds in vain")


def test_a_phone_says_where_it_is_pressed_that_the_session_ended(runs: RunFactory, visit: Visit) -> None:
    run = runs.blocked(initial_input={f"field_{n}": "v" for n in range(20)})
    ana = visit("ana", width=390)
    ana.open(f"/gates?run={run.run_id}")
    ana.page.get_by_label("Note").fill("key rotated")
    with runs.store.writing() as conn:
        conn.execute(delete(user_sessions))
    ana.button("Approve").click()
    expect(ana.page.get_by_text("You are signed out. Nothing was changed.")).to_be_in_viewport()
    expect(ana.button("Approve")).to_be_in_viewport()
    assert ana.page.get_by_label("Note").input_value() == "key rotated"
    assert ana.accessibility_problems() == []


def test_a_whole_prod_approval_by_keyboard_and_by_ear(
    runs: RunFactory, visit: Visit, working: Working
) -> None:
    run = runs.blocked("permanent", environment="prod")
    ana = visit("ana")
    ana.open("/")
    press, typed = ana.page.keyboard.press, ana.page.keyboard.type
    heard = ana.page.locator("#say")
    for key in ("Tab", "Enter", "Tab"):  # the skip link, and what follows it
        press(key)
    typed("key rotated")
    press("Tab")
    press("Enter")
    expect(heard).to_contain_text("Approved by you")
    expect(ana.decision).to_be_focused()
    press("Tab")
    typed(run.workflow_name)
    press("Tab")
    press("Tab")
    press("Enter")
    expect(heard).to_contain_text("Prod resume acknowledged by you")
    kinds = [decision.kind for decision in runs.store.list_decisions(run.run_id)]
    assert kinds == ["human_approval", "prod_resume_ack"]
    with working(CLAIMS):
        expect(heard).to_contain_text("The run is completed", timeout=15_000)
    expect(ana.decision).to_be_focused()

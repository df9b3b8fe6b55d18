"""What somebody types into a decision: not lost with the session, not another's, told of what others do."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import expect
from sqlalchemy import update

from resume_engine.core.clock import utc_now
from resume_engine.storage.schema import user_sessions
from tests.browser.conftest import Visit
from tests.browser.dashboard import Dashboard
from tests.factories import RunFactory, steps
from tests.webapp.helpers import PASSWORD, give_password
from webapp.accounts.records import ABSOLUTE_LIMIT, IDLE_LIMIT, Person

People = dict[str, Person]
KEPT = "What you typed is kept in this tab until you have signed in again."
BACK = "What you entered is in the form again. Nothing was decided"


@pytest.fixture
def ana(app: Flask, people: People, visit: Visit) -> Dashboard:
    """An operator who has the queue open."""
    for name in ("ana", "oscar"):
        give_password(app, people[name])
    return visit("ana")


def end_sessions(runs: RunFactory, **values: Any) -> None:
    """Let every session have reached a limit, by default that of idle ones."""
    values = values or {"last_seen_at": utc_now() - 2 * IDLE_LIMIT}
    with runs.store.writing() as conn:
        conn.execute(update(user_sessions).values(**values))


def sign_in(dashboard: Dashboard, name: str = "ana") -> None:
    """Follow the notice to the door and go through."""
    link = dashboard.page.locator("#complaint").get_by_role("link", name="Sign in")
    if link.count():
        link.click()
    dashboard.page.get_by_label("Email").fill(f"{name}@example.org")
    dashboard.page.get_by_label("Password").fill(PASSWORD)
    dashboard.button("Sign in").click()
    dashboard.page.wait_for_url(lambda url: "/login" not in url)


def stored(dashboard: Dashboard) -> str | None:
    """Return what waits in the tab."""
    found: str | None = dashboard.page.evaluate("sessionStorage.getItem('typed')")
    return found


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("address", ["/gates", "/", "/runs/{run}"])
def test_a_note_is_in_the_form_again_after_signing_in(
    app: Flask, people: People, runs: RunFactory, visit: Visit, width: int, address: str
) -> None:
    give_password(app, people["ana"])
    run = runs.blocked("partial", environment="prod", fail_at=1)
    ana = visit("ana", width=width)
    ana.open(address.format(run=run.run_id))
    before = ana.page.url
    end_sessions(runs)
    ana.record_compensation('{"refund_id": "r-1"}', "refunded by hand")
    ana.sees(KEPT)
    assert ana.accessibility_problems() == []
    sign_in(ana)
    assert ana.page.url == before
    ana.sees(BACK)
    result = ana.page.get_by_label("Result of the compensation")
    assert result.input_value() == '{"refund_id": "r-1"}'
    assert ana.page.get_by_label("Note").input_value() == "refunded by hand"
    expect(result).to_be_focused()
    expect(ana.page.locator("#say")).to_contain_text(BACK)
    assert ana.problems_on_all_screens() == []
    assert runs.store.list_decisions(run.run_id) == []
    assert stored(ana) is None
    ana.button("Record compensation").click()
    ana.sees("decision 2 of 2")
    (decision,) = runs.store.list_decisions(run.run_id)
    assert (decision.note, decision.actor) == ("refunded by hand", "ana@example.org")


def test_a_password_and_a_typed_name_are_not_kept(runs: RunFactory, ana: Dashboard) -> None:
    run = runs.blocked("transient", environment="prod", fail_at=1)
    ana.open("/gates")
    end_sessions(runs, created_at=utc_now() - ABSOLUTE_LIMIT, last_seen_at=utc_now() - 2 * IDLE_LIMIT)
    ana.page.get_by_label("Note").fill("looked at it")
    ana.acknowledge(run.workflow_name)
    ana.sees(KEPT)
    waiting = stored(ana) or ""
    assert "looked at it" in waiting
    assert run.workflow_name not in waiting.replace(f"/runs/{run.run_id}", "")
    assert PASSWORD not in waiting and "csrf" not in waiting
    sign_in(ana)
    ana.sees(BACK)
    assert ana.page.get_by_label("Note").input_value() == "looked at it"
    assert ana.page.get_by_label("Workflow name").input_value() == ""
    ana.cannot_press("Acknowledge prod resume")  # the name is typed anew


def test_another_person_is_not_offered_it(runs: RunFactory, ana: Dashboard) -> None:
    runs.blocked(fail_at=1)
    ana.open("/gates")
    end_sessions(runs)
    ana.approve("for ana's eyes")
    ana.sees(KEPT)
    sign_in(ana, "oscar")
    assert ana.page.get_by_label("Note").input_value() == ""
    assert stored(ana) is None
    assert "for ana's eyes" not in ana.page.content()
    ana.page.locator(".menu > summary").first.click()
    ana.button("Sign out").click()
    sign_in(ana)
    ana.open("/gates")
    assert ana.page.get_by_label("Note").input_value() == ""  # nor is it there for her any more


def test_signing_out_ends_it_in_every_tab(runs: RunFactory, ana: Dashboard) -> None:
    runs.blocked(fail_at=1)
    ana.open("/gates")
    end_sessions(runs)
    ana.approve("from before")
    ana.sees(KEPT)
    other = Dashboard(ana.page.context.new_page())
    other.open("/login")
    sign_in(other)
    other.page.locator(".menu > summary").click()
    other.button("Sign out").click()
    other.sees("You are signed out.")
    expect(ana.page.get_by_label("Note")).to_have_value("from before")  # on the screen it stays
    sign_in(ana)
    assert ana.page.get_by_label("Note").input_value() == ""
    assert stored(ana) is None


def test_a_decision_on_an_old_view_is_refused_and_the_text_is_shown(runs: RunFactory, ana: Dashboard) -> None:
    run = runs.blocked(fail_at=1)
    ana.open(f"/gates?run={run.run_id}&failure=1%3A1")
    end_sessions(runs)
    ana.approve("key rotated")
    ana.sees(KEPT)
    runs.engine.grant_human_approval(run.run_id, "oscar@example.org")
    sign_in(ana)
    ana.sees("What you typed is not put back: this was decided or has changed meanwhile. You had typed: key")
    assert ana.accessibility_problems() == []
    assert [d.actor for d in runs.store.list_decisions(run.run_id)] == ["oscar@example.org"]


def test_what_was_typed_about_one_failure_is_not_put_to_another(runs: RunFactory, ana: Dashboard) -> None:
    run = runs.blocked(fail_at=1)
    ana.open("/gates")
    end_sessions(runs)
    ana.approve("key rotated")
    ana.sees(KEPT)
    runs.engine.grant_human_approval(run.run_id, "oscar@example.org")
    with pytest.raises(ValueError, match="again"):
        runs.engine.resume(run.run_id, steps(3, fail_at=1, error=ValueError("again")))
    sign_in(ana)
    ana.sees("attempt 2")  # the same run waits, because of another failure
    assert ana.page.get_by_label("Note").input_value() == ""
    ana.page.get_by_role("link", name="Go back to its form").click()
    ana.sees("You had typed: key rotated")
    assert stored(ana) is None


def test_who_lands_elsewhere_is_led_to_the_form(runs: RunFactory, ana: Dashboard) -> None:
    """As somebody does who signs in by a link."""
    run = runs.blocked(fail_at=1)
    ana.open("/gates")
    end_sessions(runs)
    ana.reject("sent twice")
    ana.sees(KEPT)
    ana.open("/login?next=/account")
    ana.sees(KEPT)
    assert ana.accessibility_problems() == []
    sign_in(ana)
    ana.page.get_by_role("link", name="Go back to its form").click()
    ana.sees(BACK)
    assert ana.page.get_by_label("Reason").input_value() == "sent twice"  # unfolded
    expect(ana.page.get_by_label("Reason")).to_be_focused()
    assert runs.store.list_decisions(run.run_id) == []


def test_a_page_of_an_earlier_session_keeps_its_text(runs: RunFactory, ana: Dashboard) -> None:
    """Somebody signed in again in another tab: the form of this one is too old to be taken."""
    run = runs.blocked(fail_at=1)
    ana.open("/gates")
    end_sessions(runs)
    other = Dashboard(ana.page.context.new_page())
    other.open("/login")
    sign_in(other)
    ana.approve("typed here")
    ana.sees("What you typed is kept.")
    ana.page.get_by_role("link", name="Reload").click()
    ana.sees(BACK)
    assert ana.page.get_by_label("Note").input_value() == "typed here"
    ana.button("Approve").click()
    ana.sees("Waiting for a runner")
    assert [d.note for d in runs.store.list_decisions(run.run_id)] == ["typed here"]


def test_several_together_come_back_with_their_marks(runs: RunFactory, ana: Dashboard) -> None:
    made = [runs.blocked(message="Invalid API key") for _ in range(3)]
    ana.open("/gates/approvals?cause=Invalid+API+key")
    ana.page.get_by_role("checkbox").nth(1).uncheck()
    ana.page.get_by_label("Note").fill("key rotated")
    end_sessions(runs)
    later = runs.blocked(message="Invalid API key")
    ana.button("Approve the marked runs").click()
    ana.sees("You were signed out in the meantime.")
    sign_in(ana)
    ana.sees(BACK)
    assert ana.page.get_by_label("Note").input_value() == "key rotated"
    boxes = ana.page.get_by_role("checkbox")
    assert [boxes.nth(n).is_checked() for n in range(4)] == [
        True,
        False,
        True,
        False,
    ]  # what nobody saw is not marked
    assert ana.problems_on_all_screens() == []
    assert not any(runs.store.list_decisions(run.run_id) for run in (*made, later))
    ana.button("Approve the marked runs").click()
    ana.sees("2 runs approved")
    assert stored(ana) is None
    assert ana.page.get_by_text("What you").count() == 0
    ana.open("/gates/approvals?cause=Invalid+API+key")
    assert ana.page.get_by_label("Note").input_value() == ""


def test_without_javascript_the_door_says_that_it_is_lost(
    app: Flask, people: People, runs: RunFactory, visit: Visit
) -> None:
    give_password(app, people["ana"])
    run = runs.blocked(fail_at=1)
    ana = visit("ana", java_script_enabled=False)
    ana.open("/gates")
    end_sessions(runs)
    ana.approve("lost")
    ana.sees("Without JavaScript what you typed is not kept. After signing in, type it again.")
    sign_in(ana)
    assert f"/gates?run={run.run_id}" in ana.page.url
    assert ana.page.get_by_label("Note").input_value() == ""


# Somebody else decides meanwhile


@pytest.mark.parametrize("address", ["/gates", "/", "/runs/{run}"])
def test_who_types_is_told_that_another_decided(runs: RunFactory, visit: Visit, address: str) -> None:
    run = runs.blocked(fail_at=1)
    ana, oscar = visit("ana"), visit("oscar")
    ana.open(address.format(run=run.run_id))
    note = ana.page.get_by_label("Note")
    note.fill("mine, half typed")
    note.evaluate("node => { node.setSelectionRange(4, 4); window.mark = node; }")
    oscar.open("/gates")
    oscar.approve("his")
    ana.sees(re.compile(r"decided this at \d\d:\d\d:\d\d UTC: approved\."))
    told = ana.page.locator("#meanwhile")
    expect(told).to_contain_text("oscar@example.org decided this at")
    expect(ana.page.locator("#say")).to_contain_text("oscar@example.org decided this at")
    ana.cannot_press("Approve")
    expect(note).to_be_focused()
    assert note.evaluate("node => node === window.mark && node.selectionStart === 4")
    assert note.input_value() == "mine, half typed"
    assert ana.problems_on_all_screens() == []
    ana.page.keyboard.press("Tab")  # the button can be reached, and says why it does nothing
    expect(ana.button("Approve")).to_be_focused()
    ana.page.evaluate("document.getElementById('say').textContent = ''")
    ana.page.keyboard.press("Enter")
    expect(ana.page.locator("#say")).to_contain_text("decided this at")
    assert [d.note for d in runs.store.list_decisions(run.run_id)] == ["his"]
    told.get_by_role("link", name="Show it as it is now").click()
    ana.sees("Waiting for a runner")


def test_what_can_still_be_decided_can_still_be_pressed(runs: RunFactory, visit: Visit) -> None:
    run = runs.blocked(fail_at=1, environment="prod")
    ana = visit("ana")
    ana.open("/gates")
    ana.page.get_by_text("Reject this run…").click()
    ana.page.get_by_label("Reason").fill("sent twice")
    runs.engine.grant_human_approval(run.run_id, "oscar@example.org")
    ana.sees("It now waits for: prod acknowledgement.")
    ana.cannot_press("Approve")
    ana.button("Reject").click()
    ana.sees("The run is cancelled.")


def test_a_hidden_tab_asks_nothing(runs: RunFactory, visit: Visit) -> None:
    runs.blocked(fail_at=1)
    ana = visit("ana")
    ana.open("/gates")
    ana.page.get_by_label("Note").fill("mine")
    asked: list[str] = []
    ana.page.on("request", lambda request: asked.append(request.url))
    with ana.page.expect_response("**/decision?*"):
        pass  # it does ask while it is seen
    ana.page.evaluate("Object.defineProperty(document, 'hidden', {get: () => true})")
    asked.clear()
    ana.page.wait_for_timeout(6_000)
    assert asked == []

"""Giving the password once more before a decision in prod, in a real browser."""

from __future__ import annotations

from datetime import timedelta

import pytest
from flask import Flask
from playwright.sync_api import expect
from sqlalchemy import update

from resume_engine.core.audit import EventType
from resume_engine.core.clock import utc_now
from resume_engine.storage.schema import user_sessions
from tests.browser.conftest import Visit
from tests.browser.dashboard import Dashboard
from tests.factories import RunFactory
from tests.webapp.helpers import PASSWORD, events, give_password
from webapp.accounts.records import Person
from webapp.accounts.step_up import RECENT

HINT = "You signed in a while ago: type your password to go on."


@pytest.fixture
def ana(app: Flask, people: dict[str, Person], visit: Visit) -> Dashboard:
    """An operator with a password, who signed in a moment ago."""
    give_password(app, people["ana"])
    return visit("ana")


def leave_open(runs: RunFactory) -> None:
    """Let every session be older than a decision in prod may be."""
    with runs.store.writing() as conn:
        conn.execute(update(user_sessions).values(created_at=utc_now() - RECENT - timedelta(minutes=1)))


def test_a_page_left_open_asks_in_place_and_keeps_what_was_typed(runs: RunFactory, ana: Dashboard) -> None:
    run = runs.blocked("partial", environment="prod", fail_at=1)
    ana.open("/gates")
    password = ana.decision.get_by_label("Your password").first
    expect(password).to_be_hidden()
    leave_open(runs)
    ana.record_compensation('{"refund_id": "r-1"}', "refunded by hand")
    ana.sees(HINT)
    expect(password).to_be_focused()
    assert ana.page.get_by_label("Result of the compensation").input_value() == '{"refund_id": "r-1"}'
    assert ana.page.get_by_label("Note").input_value() == "refunded by hand"
    assert runs.store.list_decisions(run.run_id) == []
    assert ana.problems_on_all_screens() == []
    password.fill("not this one at all")
    ana.button("Record compensation").click()
    ana.sees("This is not your current password.")
    password.fill(PASSWORD)
    ana.button("Record compensation").click()
    ana.sees("decision 2 of 2")  # and the next one does not ask again
    expect(password).to_be_hidden()
    ana.acknowledge(run.workflow_name)
    ana.sees("Waiting for a runner")
    assert [d.note for d in runs.store.list_decisions(run.run_id)] == ["refunded by hand", None]
    assert len(events(runs.store, EventType.AUTH_CONFIRMED, EventType.AUTH_CONFIRM_FAILED)) == 2
    ana.open("/account")  # the new id works
    ana.sees("Where you are signed in")


def test_approving_several_together_asks_once_without_any_script(
    app: Flask, people: dict[str, Person], runs: RunFactory, visit: Visit
) -> None:
    give_password(app, people["ana"])
    made = [runs.blocked(message="Invalid API key", environment="prod") for _ in range(2)]
    ana = visit("ana", width=390, java_script_enabled=False)
    leave_open(runs)
    ana.open("/gates/approvals?cause=Invalid+API+key")
    assert ana.overflow() == 0
    ana.sees(HINT)
    ana.page.get_by_label("Your password").fill(PASSWORD)
    ana.page.get_by_label("Note").fill("key rotated")
    ana.button("Approve the marked runs").click()
    ana.sees("2 runs approved")
    for run in made:
        assert [d.note for d in runs.store.list_decisions(run.run_id)] == ["key rotated"]


def test_secrets_in_prod_ask_in_place_and_are_shown_there(runs: RunFactory, ana: Dashboard) -> None:
    runs.blocked(environment="prod", message="login with password=c4nary9x refused")
    ana.open("/gates")
    leave_open(runs)
    ana.button("Reveal the error").focus()
    ana.page.keyboard.press("Enter")
    ana.sees(HINT)
    password = ana.page.locator(".reveal").get_by_label("Your password")
    expect(password).to_be_focused()
    assert ana.problems_on_all_screens() == []
    password.fill(PASSWORD)
    ana.page.keyboard.press("Enter")
    ana.sees("login with password=c4nary9x refused")
    expect(ana.page.locator(".revealed")).to_be_focused()
    assert "Shown to you with its secrets" in ana.page.locator("#say").inner_text()
    leave_open(runs)
    ana.button("Download with secrets").click()  # a page of its own asks, and sends the file
    ana.page.get_by_label("Your password").fill(PASSWORD)
    with ana.page.expect_download() as download:
        ana.button("Download with secrets").click()
    assert "c4nary9x" in download.value.path().read_text()

"""A page on which somebody works in a form asks what others do meanwhile; its form is left alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from resume_engine.core.permissions import Role
from resume_engine.core.run import Run
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory, steps
from tests.provision.app_fixtures import PageClient, Statements, add_person, signed_in_client, with_policy
from tests.webapp.conftest import FakeClock
from webapp import Settings, create_app
from webapp.accounts.records import Person

SignIn = Callable[[str], PageClient]
POLICY = """
[[rule]]
name = "two people"
approvers = 2
decisions = ["human_approval"]
"""
OPEN = r'id="meanwhile" data-mark="([^"]+)" data-open="([^"]*)"'


def mark_on(text: str) -> str:
    """Return how far a page with a form says that it is."""
    found = re.search(r'id="meanwhile" data-mark="([^"]+)"', text)
    assert found is not None
    return found.group(1)


def ask(client: PageClient, run: Run, mark: str) -> TestResponse:
    """Ask as a page does whose form somebody works in."""
    headers = {"X-Live": "1", "X-Typing": mark}
    address = f"/gates/{run.run_id}/decision?failure=1:1&v=old&next=/gates"
    return client.get(address, htmx=True, headers=headers)


def words_of(answer: TestResponse) -> str:
    """Return what can be read of an answer."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", answer.text)).strip()


def test_nothing_is_sent_while_nothing_changes_and_it_costs_one_statement(
    runs: RunFactory, ana: PageClient, statements: Statements
) -> None:
    run = runs.blocked(fail_at=1)
    mark = mark_on(ana.get("/gates").text)
    statements.clear()
    answer = ask(ana, run, mark)
    assert (answer.status_code, answer.text) == (204, "")
    assert len(statements) == 2  # the session, as with every request, and the run's row


def test_who_decided_when_and_what_is_told_beside_the_form(runs: RunFactory, ana: PageClient) -> None:
    run = runs.blocked(fail_at=1)
    mark = mark_on(ana.get("/gates").text)
    runs.engine.grant_human_approval(run.run_id, "oscar@example.org", note="his")
    answer = ask(ana, run, mark)
    assert answer.headers["HX-Retarget"] == "#meanwhile"
    assert answer.status_code == 200  # never the status that ends the asking
    said = words_of(answer)
    assert re.match(r"oscar@example\.org decided this at \d\d:\d\d:\d\d UTC: approved\.", said)
    assert "Nothing that you typed was sent." in said
    assert "gate-form" not in answer.text
    found = re.search(OPEN, answer.text)
    assert found is not None
    assert found.group(2) == ""
    assert ask(ana, run, found.group(1)).status_code == 204  # told once


def test_what_can_still_be_decided_stays_open(runs: RunFactory, ana: PageClient) -> None:
    run = runs.blocked(fail_at=1, environment="prod")
    first = mark_on(ana.get("/gates").text)
    runs.engine.grant_human_approval(run.run_id, "oscar@example.org")
    answer = ask(ana, run, first)
    assert 'data-open="prod_resume_ack reject"' in answer.text
    assert "It now waits for: prod acknowledgement." in words_of(answer)
    # A page that shows the approval already is told of the acknowledgement alone.
    second = mark_on(ana.get("/gates").text)
    runs.engine.ack_prod_resume(run.run_id, "otto@example.org")
    said = words_of(ask(ana, run, second))
    assert said.startswith("otto@example.org decided this at")
    assert "oscar" not in said


@pytest.mark.parametrize("mark", ["", "/", "x", "1.blocked.5", "/-1", "9/9999999999", "é/²", "<b>/0"])
def test_a_mark_that_no_page_of_ours_holds_is_told_everything(
    runs: RunFactory, ana: PageClient, mark: str
) -> None:
    run = runs.blocked(fail_at=1)
    runs.engine.grant_human_approval(run.run_id, "oscar@example.org")
    answer = ask(ana, run, mark.encode("utf-8").decode("latin-1"))
    assert answer.status_code == 200
    assert "oscar@example.org" in answer.text
    assert "<b>" not in answer.text


def test_a_failure_that_is_over_without_a_decision(runs: RunFactory, ana: PageClient) -> None:
    run = runs.failed(fail_at=1)
    mark = mark_on(ana.get(f"/gates?run={run.run_id}").text)  # it can be rejected
    runs.engine.resume(run.run_id, steps(3))
    answer = ask(ana, run, mark)
    assert "The run has moved on: this failure is no longer open." in words_of(answer)
    assert 'data-open=""' in answer.text


def test_a_step_that_failed_anew(runs: RunFactory, ana: PageClient) -> None:
    run = runs.blocked(fail_at=1)
    mark = mark_on(ana.get("/gates").text)
    runs.engine.grant_human_approval(run.run_id, "oscar@example.org")
    with pytest.raises(ValueError, match="again"):
        runs.engine.resume(run.run_id, steps(3, fail_at=1, error=ValueError("again")))
    answer = ask(ana, run, mark)
    assert "It failed anew since." in words_of(answer)
    assert 'data-open=""' in answer.text


def test_one_of_two_approvals_leaves_the_form_open(
    settings: Settings, tmp_path: Path, page_store: SqlCheckpointStore, runs: RunFactory
) -> None:
    app = create_app(with_policy(settings, tmp_path, POLICY), store=page_store)
    app.test_client_class = PageClient
    ana, oscar = (
        signed_in_client(app, page_store, add_person(page_store, name, Role.OPERATOR))
        for name in ("ana", "oscar")
    )
    run = runs.blocked(fail_at=1)
    mark = mark_on(ana.get("/gates").text)
    data = {"failure_key": "1:1", "note": "his"}
    assert oscar.post(f"/runs/{run.run_id}/decisions/human_approval", data=data).status_code == 303
    answer = ask(ana, run, mark)
    assert 'data-open="human_approval reject"' in answer.text
    said = words_of(answer)
    assert said.startswith("Oscar decided this at") or said.startswith("oscar@example.org decided this at")
    assert "1 of 2 approvals" in said
    assert "Nothing that you typed was sent" not in said
    assert words_of(ask(oscar, run, mark)).startswith("You decided this at")


def test_asking_keeps_nobody_signed_in(
    app: Flask, people: dict[str, Person], runs: RunFactory, ana: PageClient, fake_clock: FakeClock
) -> None:
    run = runs.blocked(fail_at=1)
    mark = mark_on(ana.get("/gates").text)
    for _ in range(6):
        fake_clock.forward(minutes=4)
        assert ask(ana, run, mark).status_code in (200, 204)
    fake_clock.forward(minutes=7)
    assert ask(ana, run, mark).status_code == 401

"""Before a decision in prod the password was given lately: a session left open is not enough."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from flask import Flask

from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.decisions import DecisionKind
from resume_engine.core.permissions import Role
from resume_engine.core.run import Run
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory, passing
from tests.provision.app_fixtures import SYSTEM, PageClient
from tests.webapp.conftest import FakeClock
from tests.webapp.helpers import PASSWORD, events, session_id_of, sign_in_by_form, with_session
from webapp.accounts import step_up
from webapp.extensions import services

SignIn = Callable[[str], PageClient]
EVERY_KIND = [kind.value for kind in DecisionKind]
FIELD = 'name="password"'
BULK = "/gates/approvals?cause=Invalid+API+key"


@pytest.fixture
def tired(left_open: SignIn) -> PageClient:
    """An operator with a password, who signed in six minutes ago."""
    return left_open("ana")


def waiting_for(runs: RunFactory, kind: str, environment: str = "prod") -> Run:
    """Return a run whose first closed gate wants a decision of this kind."""
    failure = {"compensation": "partial", "prod_resume_ack": "transient"}.get(kind, "permanent")
    return runs.blocked(failure, environment=environment, fail_at=1)


def sent(kind: str, run: Run) -> dict[str, str]:
    """Return what a person types, but for the password."""
    special = {
        "compensation": {"result": '{"refund_id": "r-1"}'},
        "prod_resume_ack": {"typed_name": run.workflow_name},
    }
    return {"failure_key": "1:1", "note": "Looked at the bank", "next": f"/gates?run={run.run_id}"} | (
        special.get(kind, {})
    )


def address(run: Run, kind: str) -> str:
    return f"/runs/{run.run_id}/decisions/{kind}"


def step_ups(store: SqlCheckpointStore) -> list[AuditEvent]:
    return events(store, EventType.AUTH_CONFIRMED, EventType.AUTH_CONFIRM_FAILED)


@pytest.mark.parametrize("htmx", [True, False])
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_decision_in_prod_is_not_stored_until_the_password_is_given(
    runs: RunFactory, tired: PageClient, kind: str, htmx: bool
) -> None:
    run = waiting_for(runs, kind)
    assert FIELD in tired.get(f"/gates?run={run.run_id}").text
    for password in ("", "not this one at all"):
        answer = tired.post(address(run, kind), data=sent(kind, run) | {"password": password}, htmx=htmx)
        assert answer.status_code == 422
        assert FIELD in answer.text
        assert "Looked at the bank" in answer.text  # what was typed is still there
        assert "not this one" not in answer.text
        assert runs.store.list_decisions(run.run_id) == []
    answer = tired.post(address(run, kind), data=sent(kind, run) | {"password": PASSWORD}, htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    (decision,) = runs.store.list_decisions(run.run_id)
    assert (decision.kind.value, decision.note) == (kind, "Looked at the bank")


def test_it_is_this_rule_that_stops_it(
    runs: RunFactory, tired: PageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power check: without the rule the same request is a decision."""
    run = waiting_for(runs, "human_approval")
    monkeypatch.setattr(step_up, "is_recent", lambda: True)
    assert tired.post(address(run, "human_approval"), data=sent("human_approval", run)).status_code == 303
    assert len(runs.store.list_decisions(run.run_id)) == 1


@pytest.mark.parametrize("environment", ["dev", "staging"])
@pytest.mark.parametrize("kind", ["human_approval", "compensation", "reject"])
def test_elsewhere_nobody_is_asked(runs: RunFactory, tired: PageClient, kind: str, environment: str) -> None:
    run = waiting_for(runs, kind, environment)
    assert FIELD not in tired.get(f"/gates?run={run.run_id}").text
    assert tired.post(address(run, kind), data=sent(kind, run)).status_code == 303


def test_who_signed_in_a_moment_ago_is_not_asked(
    app: Flask, runs: RunFactory, left_open: SignIn, client: PageClient
) -> None:
    left_open("ana")  # gives her a password
    sign_in_by_form(client, "ana@example.org")
    run = waiting_for(runs, "human_approval")
    assert FIELD not in client.get(f"/gates?run={run.run_id}").text
    assert client.post(address(run, "human_approval"), data=sent("human_approval", run)).status_code == 303


def test_a_page_drawn_in_time_and_sent_too_late_asks_in_place(
    runs: RunFactory, left_open: SignIn, client: PageClient, fake_clock: FakeClock
) -> None:
    left_open("ana")
    sign_in_by_form(client, "ana@example.org")
    run = waiting_for(runs, "compensation")
    assert FIELD not in client.get(f"/gates?run={run.run_id}").text
    fake_clock.forward(minutes=5)
    answer = client.post(address(run, "compensation"), data=sent("compensation", run), htmx=True)
    assert answer.status_code == 422
    for kept in (FIELD, "refund_id", "Looked at the bank", 'name="failure_key" value="1:1"'):
        assert kept in answer.text


def test_once_given_it_counts_for_the_next_decisions_a_while(
    runs: RunFactory, tired: PageClient, fake_clock: FakeClock
) -> None:
    first, second, third = (waiting_for(runs, "human_approval") for _ in range(3))
    typed = sent("human_approval", first) | {"password": PASSWORD}
    answer = tired.post(address(first, "human_approval"), data=typed, htmx=True)
    assert "Acknowledge prod resume" in answer.text and FIELD not in answer.text
    fake_clock.forward(minutes=4)
    answer = tired.post(address(second, "human_approval"), data=sent("human_approval", second))
    assert answer.status_code == 303
    fake_clock.forward(minutes=2)
    answer = tired.post(address(third, "human_approval"), data=sent("human_approval", third))
    assert answer.status_code == 422


def test_a_mistake_elsewhere_does_not_make_anybody_type_it_twice(runs: RunFactory, tired: PageClient) -> None:
    run = waiting_for(runs, "compensation")
    typed = sent("compensation", run) | {"result": '{"refund_id": r-1}', "password": PASSWORD}
    answer = tired.post(address(run, "compensation"), data=typed, htmx=True)
    assert answer.status_code == 422
    assert "field-wrong" in answer.text and FIELD not in answer.text
    assert runs.store.list_decisions(run.run_id) == []
    assert tired.post(address(run, "compensation"), data=sent("compensation", run)).status_code == 303


def test_what_was_shown_is_checked_again_after_the_password(runs: RunFactory, tired: PageClient) -> None:
    run = waiting_for(runs, "human_approval")
    runs.engine.grant_human_approval(run.run_id, "oscar@example.org")
    typed = sent("human_approval", run) | {"password": PASSWORD}
    answer = tired.post(address(run, "human_approval"), data=typed, htmx=True)
    assert answer.status_code == 409
    assert "oscar@example.org approved this" in answer.text
    assert len(runs.store.list_decisions(run.run_id)) == 1


def test_giving_it_makes_a_new_id_and_the_old_one_is_dead(
    app: Flask, runs: RunFactory, tired: PageClient
) -> None:
    run, before = waiting_for(runs, "human_approval"), session_id_of(tired)
    token = tired.csrf
    typed = sent("human_approval", run) | {"password": PASSWORD}
    tired.post(address(run, "human_approval"), data=typed)
    assert session_id_of(tired) != before
    assert tired.get("/account").status_code == 200
    assert with_session(app, before).get("/account").status_code == 303
    # The page that is open, and those in other tabs, hold the form token of before.
    other = waiting_for(runs, "human_approval")
    answer = tired.post(address(other, "human_approval"), data=sent("human_approval", other), token=token)
    assert answer.status_code == 303


def test_a_part_that_renews_itself_meanwhile_does_not_take_the_new_id_away(
    app: Flask, runs: RunFactory, tired: PageClient
) -> None:
    run, before = waiting_for(runs, "human_approval"), session_id_of(tired)
    tired.post(address(run, "human_approval"), data=sent("human_approval", run) | {"password": PASSWORD})
    late = with_session(app, before).get("/gates/queue", htmx=True, headers={"X-Live": "1"})
    assert late.status_code == 401
    assert not [c for c in late.headers.getlist("Set-Cookie") if c.startswith("session=")]


def test_both_outcomes_are_events(
    runs: RunFactory, tired: PageClient, page_store: SqlCheckpointStore
) -> None:
    run = waiting_for(runs, "human_approval")
    for password in ("not this one at all", PASSWORD):
        typed = sent("human_approval", run) | {"password": password}
        tired.post(address(run, "human_approval"), data=typed)
    failed, given = step_ups(page_store)
    assert [failed.event_type, given.event_type] == ["auth.confirm_failed", "auth.confirmed"]
    for event in (failed, given):
        assert (event.actor, event.role, event.channel) == ("ana@example.org", "operator", "dashboard")
        assert event.payload["address"] == "127.0.0.1"
        assert "not this one" not in str(event)
    assert "gave the password again" in tired.get("/audit").text
    assert events(page_store, EventType.AUTH_SIGNED_IN)[-1].payload["how"] == "tests"  # no sign-in of its own


def test_guesses_are_throttled(runs: RunFactory, tired: PageClient, page_store: SqlCheckpointStore) -> None:
    run = waiting_for(runs, "human_approval")
    for n in range(8):
        typed = sent("human_approval", run) | {"password": f"guess {n}"}
        answer = tired.post(address(run, "human_approval"), data=typed)
    assert "Too many attempts" in answer.text
    assert len(step_ups(page_store)) == 5
    typed = sent("human_approval", run) | {"password": PASSWORD}
    right = tired.post(address(run, "human_approval"), data=typed)
    assert right.status_code == 422
    assert runs.store.list_decisions(run.run_id) == []


def test_a_stranger_at_the_door_does_not_keep_anybody_from_deciding(
    runs: RunFactory, tired: PageClient, client: PageClient
) -> None:
    for n in range(8):
        answer = sign_in_by_form(client, "ana@example.org", f"guess {n}")
    assert answer.status_code == 429
    run = waiting_for(runs, "human_approval")
    typed = sent("human_approval", run) | {"password": PASSWORD}
    assert tired.post(address(run, "human_approval"), data=typed).status_code == 303


def test_who_signs_in_by_links_only_is_not_asked_and_is_told(
    runs: RunFactory, sign_in: SignIn, fake_clock: FakeClock
) -> None:
    """As everybody in the demo: there is nothing that could be typed."""
    ana = sign_in("ana")
    fake_clock.forward(minutes=20)
    prod, dev = waiting_for(runs, "human_approval"), waiting_for(runs, "human_approval", "dev")
    assert "You have no password, so none is asked for here." in ana.get(f"/gates?run={prod.run_id}").text
    assert "You have no password" not in ana.get(f"/gates?run={dev.run_id}").text
    assert ana.post(address(prod, "human_approval"), data=sent("human_approval", prod)).status_code == 303


def test_a_key_is_its_own_proof(app: Flask, runs: RunFactory) -> None:
    key = services(app).keys.create("pager", Role.OPERATOR, actor=SYSTEM)
    run = waiting_for(runs, "human_approval")
    answer = app.test_client().post(
        f"/api/runs/{run.run_id}/approve",
        json={"approved_by": "the pager"},
        headers={"Authorization": f"Bearer {key.text}"},
    )
    assert answer.status_code == 200


class TestBulkApprovals:
    """`POST /gates/approvals`: asked for as soon as one of the chosen runs is in prod."""

    @pytest.fixture
    def made(self, runs: RunFactory) -> dict[str, Run]:
        """One run in each environment, stopped by the same error."""
        return {
            environment: runs.blocked(message="Invalid API key", environment=environment, fail_at=1)
            for environment in ("dev", "prod")
        }

    def test_nothing_is_approved_without_it(
        self, runs: RunFactory, tired: PageClient, made: dict[str, Run]
    ) -> None:
        assert FIELD in tired.get(BULK).text
        items = [f"{run.run_id}@1:1" for run in made.values()]
        for password in ("", "not this one at all"):
            answer = tired.post(BULK, data={"item": items, "note": "key rotated", "password": password})
            assert answer.status_code == 422
            assert answer.text.count(" checked>") == 2 and "key rotated" in answer.text
            assert FIELD in answer.text
        assert [runs.store.list_decisions(run.run_id) for run in made.values()] == [[], []]
        answer = tired.post(BULK, data={"item": items, "note": "key rotated", "password": PASSWORD})
        assert "2 runs approved" in answer.text

    def test_runs_outside_prod_do_not_need_it(
        self, runs: RunFactory, tired: PageClient, made: dict[str, Run]
    ) -> None:
        assert re.search(r'name="password"[^>]* required', tired.get(BULK).text) is None
        answer = tired.post(BULK, data={"item": f"{made['dev'].run_id}@1:1"})
        assert "1 run approved" in answer.text
        assert runs.store.list_decisions(made["prod"].run_id) == []

    def test_a_page_without_prod_shows_no_field(self, runs: RunFactory, tired: PageClient) -> None:
        runs.blocked(message="Invalid API key", environment="staging")
        assert FIELD not in tired.get(BULK).text

    def test_nothing_chosen_is_a_mistake_and_the_field_stays(
        self, tired: PageClient, made: dict[str, Run]
    ) -> None:
        answer = tired.post(BULK, data={})
        assert answer.status_code == 422
        assert "Choose at least one run." in answer.text and FIELD in answer.text


# Secrets of a run in prod

LOOK = {"field": "metadata"}


def with_secret(runs: RunFactory, environment: str = "prod") -> Run:
    return runs.blocked(environment=environment, metadata={"token": "c4nary9x"})


@pytest.mark.parametrize("file", [{}, {"download": "1"}])
@pytest.mark.parametrize("htmx", [True, False])
def test_secrets_in_prod_are_not_shown_until_the_password_is_given(
    runs: RunFactory, tired: PageClient, page_store: SqlCheckpointStore, htmx: bool, file: dict[str, str]
) -> None:
    run = with_secret(runs)
    where = f"/runs/{run.run_id}/reveal"
    for password in ({}, {"password": "not this one at all"}):
        answer = tired.post(where, data=LOOK | file | password, htmx=htmx)
        assert answer.status_code == 422
        assert FIELD in answer.text and 'name="field" value="metadata"' in answer.text
        assert "c4nary9x" not in answer.text
        assert ("<html" in answer.text) is not htmx
    assert events(page_store, EventType.PAYLOAD_REVEALED) == []
    shown = tired.post(where, data=LOOK | file | {"password": PASSWORD}, htmx=htmx)
    assert shown.status_code == 200 and "c4nary9x" in shown.text
    assert "c4nary9x" in tired.post(where, data=LOOK, htmx=htmx).text, "and not asked again"
    assert len(events(page_store, EventType.PAYLOAD_REVEALED)) == 2
    assert [e.event_type for e in step_ups(page_store)] == ["auth.confirm_failed", "auth.confirmed"]


@pytest.mark.parametrize("environment", ["dev", "staging"])
def test_secrets_elsewhere_need_the_session_only(
    runs: RunFactory, tired: PageClient, environment: str
) -> None:
    run = with_secret(runs, environment)
    assert "c4nary9x" in tired.post(f"/runs/{run.run_id}/reveal", data=LOOK).text
    done = runs.engine.start_run("billing", environment=environment)
    runs.engine.execute_workflow(done.run_id, [("first", passing({"token": "c4nary9x"}))])
    assert "c4nary9x" in tired.get(f"/runs/{done.run_id}/audit-log").text


def test_an_audit_log_with_secrets_of_prod_asks_first_and_leads_back(
    runs: RunFactory, tired: PageClient, page_store: SqlCheckpointStore
) -> None:
    run = runs.engine.start_run("billing", environment="prod")
    runs.engine.execute_workflow(run.run_id, [("first", passing({"token": "c4nary9x"}))])
    where = f"/runs/{run.run_id}/audit-log"
    answer = tired.get(where)
    assert answer.status_code == 303 and "c4nary9x" not in answer.text
    assert answer.location == f"/account/confirm?next=/runs/{run.run_id}"
    asked = tired.get(answer.location).text
    assert FIELD in asked and "holds secrets of a run in prod" in asked
    assert events(page_store, EventType.PAYLOAD_REVEALED, EventType.AUDIT_EXPORTED) == []
    back = tired.post("/account/confirm", data={"password": PASSWORD, "next": f"/runs/{run.run_id}"})
    assert back.location == f"/runs/{run.run_id}"
    assert "c4nary9x" in tired.get(where).text
    assert len(events(page_store, EventType.PAYLOAD_REVEALED)) == 1


def test_an_audit_log_without_secrets_does_not_ask(runs: RunFactory, tired: PageClient) -> None:
    run = runs.completed(environment="prod")
    assert tired.get(f"/runs/{run.run_id}/audit-log").status_code == 200

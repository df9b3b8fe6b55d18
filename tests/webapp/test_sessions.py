"""Sessions: what ends them ends them at once, whoever holds a copy of the cookie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from resume_engine.core.permissions import Role
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.provision.app_fixtures import (
    SYSTEM,
    PageClient,
    Statements,
    new_client,
    signed_in_client,
)
from tests.webapp.conftest import FakeClock
from tests.webapp.helpers import PASSWORD, give_password, session_id_of, sign_in_by_form, with_session
from webapp import Settings, create_app
from webapp.accounts.records import Person
from webapp.extensions import services

SignIn = Callable[[str], PageClient]
People = dict[str, Person]


def is_signed_in(client: PageClient) -> bool:
    return client.get("/account").status_code == 200


class TestWhatEndsASession:
    """A copied cookie is as dead as the original."""

    @pytest.fixture
    def ana(self, sign_in: SignIn) -> PageClient:
        return sign_in("ana")

    @pytest.fixture
    def copy(self, app: Flask, ana: PageClient) -> PageClient:
        copied = with_session(app, session_id_of(ana))
        assert is_signed_in(copied)
        return copied

    def test_signing_out(self, ana: PageClient, copy: PageClient) -> None:
        assert ana.post("/logout").status_code == 303
        assert not is_signed_in(copy)
        assert not is_signed_in(ana)

    def test_signing_out_everywhere(self, ana: PageClient, copy: PageClient, sign_in: SignIn) -> None:
        phone = sign_in("ana")
        assert ana.post("/account/sessions/end-all").status_code == 303
        assert not is_signed_in(copy)
        assert not is_signed_in(phone)

    def test_a_new_password(self, ana: PageClient, copy: PageClient, sign_in: SignIn) -> None:
        phone = sign_in("ana")
        assert ana.post("/account/password", data={"new": PASSWORD}).status_code == 303
        assert not is_signed_in(copy)
        assert not is_signed_in(phone)
        assert is_signed_in(ana)  # under a new id

    def test_another_role(self, app: Flask, people: People, copy: PageClient) -> None:
        services(app).accounts.set_role(people["ana"].user_id, Role.AUDITOR, actor=SYSTEM)
        assert not is_signed_in(copy)

    def test_a_disabled_account_stays_out_when_enabled_again(
        self, app: Flask, people: People, copy: PageClient
    ) -> None:
        services(app).accounts.disable(people["ana"].user_id, actor=SYSTEM)
        assert not is_signed_in(copy)
        services(app).accounts.enable(people["ana"].user_id, actor=SYSTEM)
        assert not is_signed_in(copy)

    def test_the_account_alone_is_disabled(self, page_store: SqlCheckpointStore, copy: PageClient) -> None:
        """Even if nothing had ended the session itself."""
        with page_store.writing() as conn:
            conn.execute(text("update users set disabled_at = '2026-01-01 00:00:00.000000'"))
        assert not is_signed_in(copy)

    def test_an_administrator(self, ana: PageClient, copy: PageClient, sign_in: SignIn) -> None:
        assert ana.person is not None
        assert sign_in("otto").post(f"/admin/users/{ana.person.user_id}/sign-out").status_code == 303
        assert not is_signed_in(copy)

    def test_signing_out_leaves_other_browsers_alone(self, ana: PageClient, sign_in: SignIn) -> None:
        phone = sign_in("ana")
        ana.post("/logout")
        assert is_signed_in(phone)

    def test_a_demoted_person_loses_rights_within_the_same_session_too(
        self, page_store: SqlCheckpointStore, sign_in: SignIn
    ) -> None:
        """The role is read with every request and never remembered."""
        otto = sign_in("otto")
        assert otto.get("/admin/users").status_code == 200
        with page_store.writing() as conn:
            conn.execute(text("update users set role = 'operator' where email = 'otto@example.org'"))
        assert otto.get("/admin/users").status_code == 403


class TestIds:
    """The id of a session."""

    def test_it_is_new_after_signing_in(self, app: Flask, people: People) -> None:
        give_password(app, people["ana"])
        planted = "planted-by-somebody-else"
        victim = with_session(app, planted)
        assert sign_in_by_form(victim, "ana@example.org").status_code == 303
        assert session_id_of(victim) != planted
        assert is_signed_in(victim)
        assert not is_signed_in(with_session(app, planted))

    def test_signing_in_again_ends_the_earlier_session(
        self, app: Flask, people: People, sign_in: SignIn
    ) -> None:
        give_password(app, people["oscar"])
        browser = sign_in("ana")
        before = session_id_of(browser)
        assert sign_in_by_form(browser, "oscar@example.org").status_code == 303
        assert not is_signed_in(with_session(app, before))
        assert "oscar@example.org" in browser.get("/account").text

    def test_the_form_token_is_new_too(self, app: Flask, people: People) -> None:
        give_password(app, people["ana"])
        browser = new_client(app)
        before = browser.csrf
        sign_in_by_form(browser, "ana@example.org")
        assert browser.post("/logout", token=before).status_code == 403

    def test_it_has_256_bits_and_is_not_in_the_database(
        self, app: Flask, people: People, page_store: SqlCheckpointStore
    ) -> None:
        give_password(app, people["ana"])
        browser = new_client(app)
        sign_in_by_form(browser, "ana@example.org")
        session_id = session_id_of(browser)
        assert len(session_id) == 43
        with page_store.reading() as conn:
            rows = conn.execute(text("select * from user_sessions")).all()
        assert rows
        assert session_id not in repr(rows)

    @pytest.mark.parametrize("value", ["", "x", "0" * 64, "é" * 10, "'; drop table users; --"])
    def test_any_other_value_is_nobody(self, app: Flask, people: People, value: str) -> None:
        assert new_client(app).get("/account", headers={"Cookie": f"session={value}"}).status_code == 303

    def test_the_stored_hash_opens_nothing(
        self, app: Flask, sign_in: SignIn, page_store: SqlCheckpointStore
    ) -> None:
        sign_in("ana")
        with page_store.reading() as conn:
            stored = conn.execute(text("select session_hash from user_sessions")).scalar_one()
        assert not is_signed_in(with_session(app, stored))

    def test_a_visitor_cookie_cannot_make_a_session(
        self, app: Flask, people: People, client: PageClient
    ) -> None:
        """Even signed with our own key: who somebody is comes from a row only."""
        signer = app.session_interface._signer  # type: ignore[attr-defined]
        client.set_cookie("visitor", signer.dumps({"_user_id": people["otto"].get_id(), "_fresh": True}))
        assert not is_signed_in(client)


class TestLimits:
    """Idle 30 minutes, 12 hours at most."""

    def test_idle(self, sign_in: SignIn, fake_clock: FakeClock) -> None:
        ana = sign_in("ana")
        fake_clock.forward(minutes=29)
        assert is_signed_in(ana)
        fake_clock.forward(minutes=29)
        assert is_signed_in(ana)
        fake_clock.forward(minutes=30)
        assert not is_signed_in(ana)

    @pytest.mark.parametrize("header", ["X-Live", "X-Background"])
    def test_a_page_that_renews_itself_does_not_keep_anybody_signed_in(
        self, sign_in: SignIn, fake_clock: FakeClock, header: str
    ) -> None:
        ana = sign_in("ana")
        answers = []
        for _ in range(120):
            fake_clock.forward(minutes=1)
            answers.append(ana.get("/account", headers={header: "1"}).status_code)
        assert answers[:29] == [200] * 29
        assert set(answers[29:]) == {303}

    def test_absolute(self, sign_in: SignIn, fake_clock: FakeClock) -> None:
        ana = sign_in("ana")
        for _ in range(11 * 3 + 2):
            fake_clock.forward(minutes=20)
            assert is_signed_in(ana)
        fake_clock.forward(minutes=20)
        assert not is_signed_in(ana)

    def test_activity_is_written_once_a_minute(
        self, sign_in: SignIn, fake_clock: FakeClock, statements: Statements
    ) -> None:
        ana = sign_in("ana")
        fake_clock.forward(seconds=61)
        statements.clear()
        for _ in range(5):
            ana.get("/account")
        assert len([s for s in statements if s.startswith("UPDATE user_sessions")]) == 1


class TestCost:
    """What a request asks the database because of its session."""

    def test_session_and_person_come_in_one_statement(self, sign_in: SignIn, statements: Statements) -> None:
        ana = sign_in("ana")
        statements.clear()
        assert ana.get("/nothing-here", htmx=True).status_code == 404
        assert len(statements) == 1

    def test_files_and_probes_ask_nothing(self, sign_in: SignIn, statements: Statements) -> None:
        ana = sign_in("ana")
        statements.clear()
        assert ana.get("/health").status_code == 200
        assert ana.get("/static/x/app.css").status_code == 200
        assert statements == []

    def test_visitors_get_no_row(self, client: PageClient, page_store: SqlCheckpointStore) -> None:
        client.get("/login")
        with page_store.reading() as conn:
            assert conn.execute(text("select count(*) from user_sessions")).scalar() == 0


class TestCookies:
    """Every cookie on every answer is locked down."""

    def test_on_plain_loopback(self, client: PageClient, app: Flask, people: People) -> None:
        give_password(app, people["ana"])
        cookies = client.get("/login").headers.getlist("Set-Cookie")
        cookies += sign_in_by_form(client, "ana@example.org").headers.getlist("Set-Cookie")
        cookies += client.post("/logout").headers.getlist("Set-Cookie")
        assert len(cookies) >= 4
        for cookie in cookies:
            assert "HttpOnly" in cookie
            assert "SameSite=Lax" in cookie
            assert "Path=/" in cookie
            assert "Domain" not in cookie

    def test_behind_tls(self, settings: Settings, page_store: SqlCheckpointStore, people: People) -> None:
        app = create_app(replace(settings, secure_cookies=True), store=page_store)
        app.test_client_class = PageClient
        give_password(app, people["ana"])
        browser = new_client(app)
        cookies = browser.get("/login", base_url="https://localhost").headers.getlist("Set-Cookie")
        cookies += sign_in_by_form(browser, "ana@example.org", base_url="https://localhost").headers.getlist(
            "Set-Cookie"
        )
        assert {cookie.partition("=")[0] for cookie in cookies} == {"__Host-session", "__Host-visitor"}
        for cookie in cookies:
            assert "Secure" in cookie
            assert "Path=/" in cookie
            assert "Domain" not in cookie

    def test_nobody_is_remembered(self, sign_in: SignIn, app: Flask, people: People) -> None:
        """A cookie without an end dies with the browser; Flask-Login's own is neither made nor read."""
        give_password(app, people["ana"])
        browser = new_client(app)
        for cookie in sign_in_by_form(browser, "ana@example.org").headers.getlist("Set-Cookie"):
            assert cookie.startswith("visitor=;") or "Expires" not in cookie
        from flask_login import encode_cookie

        with app.app_context():
            forged = encode_cookie(people["otto"].get_id())
        stranger = new_client(app)
        stranger.set_cookie("remember_token", forged)
        assert not is_signed_in(stranger)


def test_a_database_that_is_away_signs_nobody_in(
    app: Flask, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    ana = sign_in("ana")

    def away(*_: object) -> None:
        raise OperationalError("select", {}, Exception("connection refused at 10.0.0.7"))

    monkeypatch.setattr(services(app).sessions, "load", away)
    answer = ana.get("/account")
    assert answer.status_code == 503
    assert "10.0.0.7" not in answer.text
    assert "ana@example.org" not in answer.text
    assert ana.get("/health").status_code == 200


def test_two_people_in_two_browsers_stay_apart(
    app: Flask, page_store: SqlCheckpointStore, people: People
) -> None:
    ana = signed_in_client(app, page_store, people["ana"])
    oscar = signed_in_client(app, page_store, people["oscar"])
    assert "ana@example.org" in ana.get("/account").text
    assert "oscar@example.org" in oscar.get("/account").text
    assert "ana@example.org" not in oscar.get("/account").text

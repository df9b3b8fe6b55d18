"""Signing in by password and by link."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from flask import Flask
from sqlalchemy import text

from resume_engine.core.audit import EventType
from resume_engine.core.permissions import Role
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.provision.app_fixtures import SYSTEM, PageClient, add_person, new_client
from tests.webapp.conftest import FakeClock
from tests.webapp.helpers import PASSWORD, events, give_password, sign_in_by_form
from webapp import Settings, create_app
from webapp.accounts.records import Person, Purpose
from webapp.accounts.sign_in import WRONG
from webapp.extensions import services
from webapp.settings import PasswordCost

SignIn = Callable[[str], PageClient]
People = dict[str, Person]


def link_for(app: Flask, person: Person, purpose: Purpose = Purpose.SIGN_IN) -> str:
    return services(app).accounts.create_link(person.user_id, purpose, actor=SYSTEM).path


class TestPassword:
    """`/login`."""

    @pytest.fixture(autouse=True)
    def passwords(self, app: Flask, people: People) -> None:
        give_password(app, people["ana"])

    def test_works(self, client: PageClient, page_store: SqlCheckpointStore) -> None:
        answer = sign_in_by_form(client, "ana@example.org")
        assert (answer.status_code, answer.headers["Location"]) == (303, "/")
        assert client.get("/account").status_code == 200
        (event,) = events(page_store, EventType.AUTH_SIGNED_IN)
        assert (event.actor, event.role, event.channel) == ("ana@example.org", "operator", "dashboard")
        assert event.payload == {"how": "password", "address": "127.0.0.1"}

    @pytest.mark.parametrize("email", [" ana@example.org ", "ANA@Example.ORG"])
    def test_an_email_is_known_however_it_is_written(self, client: PageClient, email: str) -> None:
        assert sign_in_by_form(client, email).status_code == 303

    def test_fields_and_button_are_named_as_promised(self, client: PageClient) -> None:
        page = client.get("/login").text
        assert '<label for="email">Email</label>' in page
        assert '<label for="password">Password</label>' in page
        assert "Sign in</button>" in page
        assert 'autocomplete="current-password"' in page

    def test_without_script_the_token_is_in_the_form(self, client: PageClient) -> None:
        import re

        found = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/login").text)
        assert found
        data = {"email": "ana@example.org", "password": PASSWORD, "csrf_token": found.group(1)}
        assert client.post("/login", data=data, token=False).status_code == 303

    @pytest.mark.parametrize(
        ("email", "password"),
        [
            ("ana@example.org", "wrong password, this is"),
            ("nobody@example.org", PASSWORD),
            ("otto@example.org", PASSWORD),  # has no password
            ("ana@example.org", PASSWORD + " "),
            ("ana@example.org", PASSWORD.upper()),
            ("ana%", PASSWORD),
            ("' or 1=1 --", PASSWORD),
        ],
    )
    def test_every_refusal_reads_the_same(
        self, client: PageClient, page_store: SqlCheckpointStore, email: str, password: str
    ) -> None:
        answer = sign_in_by_form(client, email, password)
        assert answer.status_code == 422
        assert WRONG in answer.text
        assert password not in answer.text
        assert client.get("/account").status_code == 303
        (event,) = events(page_store, EventType.AUTH_SIGN_IN_FAILED)
        assert event.actor == (email if "@" in email else "unknown")
        assert event.payload["reason"] == "email or password is wrong"
        assert password not in str(event.to_dict())

    def test_a_disabled_person_reads_the_same(self, app: Flask, client: PageClient, people: People) -> None:
        services(app).accounts.disable(people["ana"].user_id, actor=SYSTEM)
        answer = sign_in_by_form(client, "ana@example.org")
        assert (answer.status_code, WRONG in answer.text) == (422, True)

    def test_every_refusal_costs_the_same(
        self, app: Flask, client: PageClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One hash is computed, whoever it is: time tells nobody which accounts exist."""
        hasher = services(app).passwords._hasher
        computed = []
        real = hasher.verify

        def counted(stored: str, password: str) -> bool:
            computed.append(stored)
            return real(stored, password)

        monkeypatch.setattr(type(hasher), "verify", lambda _self, stored, password: counted(stored, password))
        for email in ("ana@example.org", "otto@example.org", "nobody@example.org"):
            computed.clear()
            sign_in_by_form(client, email, "wrong password, this is")
            assert len(computed) == 1, email

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({"email": "", "password": "x"}, "Type your email."),
            ({"email": "ana@example.org", "password": ""}, "Type your password."),
            ({"email": "a" * 256, "password": "x"}, "cannot be longer"),
            ({"email": "ana@example.org", "password": "x" * 1_025}, "cannot be longer"),
        ],
    )
    def test_invalid_input(
        self, client: PageClient, page_store: SqlCheckpointStore, data: dict[str, str], message: str
    ) -> None:
        answer = sign_in_by_form(client, data["email"], data["password"])
        assert answer.status_code == 422
        assert message in answer.text
        assert events(page_store, EventType.AUTH_SIGN_IN_FAILED) == []

    def test_wrong_method(self, client: PageClient) -> None:
        assert client.put("/login").status_code == 405
        assert client.get("/logout").status_code in (303, 405)

    def test_who_is_signed_in_is_sent_on(self, sign_in: SignIn) -> None:
        assert sign_in("ana").get("/login?next=/account").headers["Location"] == "/account"

    def test_an_old_hash_is_renewed(
        self, settings: Settings, page_store: SqlCheckpointStore, people: People
    ) -> None:
        dearer = create_app(
            replace(settings, password_cost=PasswordCost(time_cost=2, memory_kib=16, parallelism=1)),
            store=page_store,
        )
        dearer.test_client_class = PageClient
        before = services(dearer).accounts.credentials("ana@example.org")
        assert sign_in_by_form(new_client(dearer), "ana@example.org").status_code == 303
        after = services(dearer).accounts.credentials("ana@example.org")
        assert before and after and before[1] != after[1]
        assert sign_in_by_form(new_client(dearer), "ana@example.org").status_code == 303

    def test_only_the_hash_is_stored(self, page_store: SqlCheckpointStore) -> None:
        with page_store.reading() as conn:
            assert PASSWORD not in repr(conn.execute(text("select * from users")).all())

    def test_signing_out_is_an_event(self, client: PageClient, page_store: SqlCheckpointStore) -> None:
        sign_in_by_form(client, "ana@example.org")
        assert client.post("/logout").headers["Location"] == "/login"
        (event,) = events(page_store, EventType.AUTH_SIGNED_OUT)
        assert event.actor == "ana@example.org"
        assert client.post("/logout").status_code == 303
        assert len(events(page_store, EventType.AUTH_SIGNED_OUT)) == 1

    def test_an_expired_form_says_that_nothing_happened(
        self, client: PageClient, fake_clock: FakeClock
    ) -> None:
        sign_in_by_form(client, "ana@example.org")
        fake_clock.forward(hours=1)
        answer = client.post("/account/password", data={"new": "whatever this is now"})
        assert answer.status_code == 303
        page = client.get(answer.headers["Location"]).text
        assert "Nothing was changed" in page
        assert "Nothing was changed" not in client.get("/login").text


class TestThrottle:
    """Guessing gets slow; nobody is locked out."""

    @pytest.fixture(autouse=True)
    def passwords(self, app: Flask, people: People, fake_clock: FakeClock) -> None:
        give_password(app, people["ana"])

    def guess(self, client: PageClient, email: str = "ana@example.org", **kwargs: object) -> int:
        return sign_in_by_form(client, email, "wrong password, this is", **kwargs).status_code

    def test_each_further_guess_waits_longer(self, client: PageClient, fake_clock: FakeClock) -> None:
        assert [self.guess(client) for _ in range(6)] == [422] * 5 + [429]
        waits = []
        for _ in range(9):
            answer = sign_in_by_form(client, "ana@example.org", "wrong password, this is")
            assert answer.status_code == 429
            waits.append(int(answer.headers["Retry-After"]))
            fake_clock.forward(seconds=waits[-1])
            assert self.guess(client) == 422
        assert waits == [1, 2, 4, 8, 16, 32, 64, 120, 120]

    def test_waiting_says_how_long(self, client: PageClient, page_store: SqlCheckpointStore) -> None:
        for _ in range(6):
            answer = sign_in_by_form(client, "ana@example.org", "wrong password, this is")
        assert "Try again in 1 second." in answer.text
        assert (
            len(events(page_store, EventType.AUTH_SIGN_IN_FAILED)) == 5
        )  # what was not checked did not fail

    def test_the_right_password_has_to_wait_too(self, client: PageClient, fake_clock: FakeClock) -> None:
        for _ in range(5):
            self.guess(client)
        assert sign_in_by_form(client, "ana@example.org").status_code == 429
        fake_clock.forward(seconds=1)
        assert sign_in_by_form(client, "ana@example.org").status_code == 303

    def test_a_success_forgets_the_account_s_attempts(self, app: Flask, client: PageClient) -> None:
        for _ in range(4):
            self.guess(client)
        assert sign_in_by_form(client, "ana@example.org").status_code == 303
        assert [self.guess(new_client(app)) for _ in range(5)] == [422] * 5

    def test_an_hour_forgets_everything(self, client: PageClient, fake_clock: FakeClock) -> None:
        for _ in range(5):
            self.guess(client)
        fake_clock.forward(minutes=61)
        assert [self.guess(client) for _ in range(5)] == [422] * 5

    def test_accounts_that_do_not_exist_slow_down_alike(self, client: PageClient) -> None:
        assert [self.guess(client, "nobody@example.org") for _ in range(6)] == [422] * 5 + [429]

    def test_one_address_cannot_try_everybody(self, client: PageClient) -> None:
        answers = [self.guess(client, f"person{number}@example.org") for number in range(31)]
        assert answers == [422] * 30 + [429]

    def test_other_people_are_not_slowed_down(self, app: Flask, client: PageClient, people: People) -> None:
        give_password(app, people["oscar"])
        for _ in range(10):
            self.guess(client)
        assert sign_in_by_form(client, "oscar@example.org").status_code == 303

    def test_claiming_to_come_from_elsewhere_changes_nothing(self, client: PageClient) -> None:
        answers = [
            self.guess(
                client,
                f"person{number}@example.org",
                headers={"X-Forwarded-For": f"10.0.0.{number}", "Forwarded": f"for=10.0.0.{number}"},
            )
            for number in range(31)
        ]
        assert answers[-1] == 429

    def test_behind_a_proxy_the_proxy_s_word_counts(
        self, settings: Settings, page_store: SqlCheckpointStore
    ) -> None:
        """One hop: the last entry is the proxy's, the others are anybody's."""
        app = create_app(replace(settings, proxy_hops=1), store=page_store)
        app.test_client_class = PageClient
        client = new_client(app)
        answers = [
            self.guess(
                client,
                f"person{number}@example.org",
                headers={"X-Forwarded-For": f"10.0.0.{number}, 192.0.2.1"},
            )
            for number in range(31)
        ]
        assert answers[-1] == 429
        assert self.guess(client, "x@example.org", headers={"X-Forwarded-For": "192.0.2.2"}) == 422

    def test_a_link_works_while_the_account_is_slowed_down(
        self, app: Flask, client: PageClient, people: People
    ) -> None:
        for _ in range(10):
            self.guess(client)
        assert client.post(link_for(app, people["ana"])).status_code == 303

    def test_many_at_once_find_no_gap(self, app: Flask) -> None:
        """100 guesses from 20 threads: 5 are looked at."""
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: self.guess(new_client(app)), range(100)))
        assert sorted(set(answers)) == [422, 429]
        assert answers.count(422) == 5


class TestLink:
    """`/login/link/<token>`."""

    def test_works_once(self, app: Flask, people: People, page_store: SqlCheckpointStore) -> None:
        path = link_for(app, people["ana"])
        browser = new_client(app)
        assert "Sign in</button>" in browser.get(path).text
        answer = browser.post(path)
        assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
        assert browser.get("/account").status_code == 200
        (event,) = events(page_store, EventType.AUTH_SIGNED_IN)
        assert event.payload["how"] == "link"
        stranger = new_client(app)
        assert stranger.get(path).status_code == 410
        assert stranger.post(path).status_code == 410
        assert stranger.get("/account").status_code == 303

    def test_looking_at_it_uses_nothing_up(self, app: Flask, people: People) -> None:
        path = link_for(app, people["ana"])
        for _ in range(3):
            assert new_client(app).get(path).status_code == 200
            assert new_client(app).head(path).status_code == 200
        assert new_client(app).post(path).status_code == 303

    def test_somebody_new_is_asked_for_a_password(self, app: Flask, people: People) -> None:
        browser = new_client(app)
        answer = browser.post(link_for(app, people["ana"], Purpose.INVITE))
        assert answer.headers["Location"] == "/account"
        assert "Choose a password" in browser.get("/account").text

    @pytest.mark.parametrize(("purpose", "hours"), [(Purpose.SIGN_IN, 1), (Purpose.INVITE, 24)])
    def test_it_gets_old(
        self, app: Flask, people: People, fake_clock: FakeClock, purpose: Purpose, hours: int
    ) -> None:
        path = link_for(app, people["ana"], purpose)
        fake_clock.forward(hours=hours, seconds=-1)
        assert new_client(app).get(path).status_code == 200
        fake_clock.forward(seconds=1)
        assert new_client(app).get(path).status_code == 410
        assert new_client(app).post(path).status_code == 410

    def test_a_newer_one_replaces_it(self, app: Flask, people: People) -> None:
        first, second = link_for(app, people["ana"]), link_for(app, people["ana"])
        assert new_client(app).post(first).status_code == 410
        assert new_client(app).post(second).status_code == 303

    def test_it_dies_with_the_account(self, app: Flask, people: People) -> None:
        path = link_for(app, people["ana"])
        services(app).accounts.disable(people["ana"].user_id, actor=SYSTEM)
        services(app).accounts.enable(people["ana"].user_id, actor=SYSTEM)
        assert new_client(app).post(path).status_code == 410

    def test_it_dies_with_a_new_password(self, app: Flask, people: People) -> None:
        path = link_for(app, people["ana"])
        give_password(app, people["ana"])
        assert new_client(app).post(path).status_code == 410

    @pytest.mark.parametrize("token", ["x", "A" * 43, "%2e%2e", "' or 1=1 --", "é"])
    def test_a_guess(self, client: PageClient, token: str) -> None:
        assert client.get(f"/login/link/{token}").status_code == 410
        assert client.post(f"/login/link/{token}").status_code == 410

    def test_the_stored_hash_is_no_link(
        self, app: Flask, people: People, page_store: SqlCheckpointStore
    ) -> None:
        path = link_for(app, people["ana"])
        with page_store.reading() as conn:
            rows = conn.execute(text("select * from login_links")).all()
        assert path.rpartition("/")[2] not in repr(rows)
        assert new_client(app).post(f"/login/link/{rows[0].token_hash}").status_code == 410

    def test_of_many_at_once_one_gets_in(self, app: Flask, people: People) -> None:
        path = link_for(app, people["ana"])
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: new_client(app).post(path).status_code, range(8)))
        assert sorted(answers) == [303] + [410] * 7

    def test_it_replaces_who_was_signed_in(self, app: Flask, people: People, sign_in: SignIn) -> None:
        browser = sign_in("oscar")
        path = link_for(app, people["ana"])
        assert "oscar@example.org" in browser.get(path).text
        assert browser.post(path).status_code == 303
        assert "ana@example.org" in browser.get("/account").text


class TestNobodyYet:
    """A fresh installation."""

    def test_the_page_says_how_to_begin(self, client: PageClient) -> None:
        assert "resume-engine users add" in client.get("/login").text

    def test_not_any_more_when_somebody_can_sign_in(
        self, app: Flask, client: PageClient, page_store: SqlCheckpointStore
    ) -> None:
        give_password(app, add_person(page_store, "mia", Role.ADMIN))
        assert "resume-engine users add" not in client.get("/login").text

    def test_there_is_no_default_account(self, page_store: SqlCheckpointStore, app: Flask) -> None:
        with page_store.reading() as conn:
            assert conn.execute(text("select count(*) from users")).scalar() == 0

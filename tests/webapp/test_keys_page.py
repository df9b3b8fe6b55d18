"""`/admin/keys`: keys in the hands of administrators."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from flask import Flask

from resume_engine.core.audit import EventType
from resume_engine.core.permissions import Role
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.provision.app_fixtures import SYSTEM, PageClient, new_client, signed_in_client
from tests.webapp.conftest import FakeClock
from tests.webapp.helpers import PASSWORD, events
from webapp import Settings, create_app
from webapp.accounts.records import Person
from webapp.extensions import services
from webapp.keys.store import NewKey

SignIn = Callable[[str], PageClient]
People = dict[str, Person]
KEY = re.compile(r"re_[a-z0-9]{8}_[\w-]{43}")
GOOD = {"name": "ci", "role": "runner", "lifetime": "90"}


@pytest.fixture
def otto(sign_in: SignIn) -> PageClient:
    """The administrator."""
    return sign_in("otto")


@pytest.fixture
def key(app: Flask) -> NewKey:
    """A key that works."""
    return services(app).keys.create("claims-runner", Role.RUNNER, actor=SYSTEM)


def opens(app: Flask, text: str) -> int:
    """Return the status that the API gives to a key: 404 when it reaches the view."""
    client = app.test_client()
    answer = client.post(
        "/api/start_run", json={"workflow_name": "w"}, headers={"Authorization": f"Bearer {text}"}
    )
    return answer.status_code


def key_in(page: str) -> str:
    found = KEY.search(page)
    assert found is not None
    return found[0]


class TestCreate:
    """`POST /admin/keys`."""

    def test_the_key_is_shown_once_and_works(self, app: Flask, otto: PageClient) -> None:
        answer = otto.post("/admin/keys", data=GOOD)
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "no-store"
        assert opens(app, key_in(answer.text)) == 200
        page = otto.get("/admin/keys").text
        assert "ci" in page
        assert not KEY.search(page)
        assert not KEY.search(otto.get("/audit").text)

    def test_a_reload_makes_no_second_one(self, otto: PageClient, page_store: SqlCheckpointStore) -> None:
        assert [otto.post("/admin/keys", data=GOOD).status_code for _ in range(2)] == [200, 422]
        assert len(events(page_store, EventType.KEY_CREATED)) == 1

    def test_everything_can_be_said(self, app: Flask, otto: PageClient, fake_clock: FakeClock) -> None:
        data = {"name": "ci", "role": "operator", "environments": ["prod", "dev"], "lifetime": "7"}
        assert otto.post("/admin/keys", data=data).status_code == 200
        (key,) = services(app).keys.list_keys()
        assert (key.role, key.environments, key.created_by) == (
            Role.OPERATOR,
            ("dev", "prod"),
            "otto@example.org",
        )
        assert key.expires_at is not None
        assert (key.expires_at - fake_clock.now).days == 7

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"name": ""}, "Give the key a name."),
            ({"name": "x" * 101}, "cannot be longer"),
            ({"name": "a\u202eb"}, "printable"),
            ({"role": "emperor"}, "Not a valid choice"),
            ({"lifetime": "1000"}, "Not a valid choice"),
            ({"environments": ["moon"]}, "not a valid choice"),
            ({"name": "Claims-Runner"}, "has this name already"),
        ],
    )
    def test_invalid_input(
        self,
        otto: PageClient,
        key: NewKey,
        page_store: SqlCheckpointStore,
        changed: dict[str, object],
        message: str,
    ) -> None:
        before = events(page_store)
        answer = otto.post("/admin/keys", data={**GOOD, **changed})
        assert answer.status_code == 422
        assert message in answer.text
        assert events(page_store) == before

    def test_a_name_is_text(self, otto: PageClient) -> None:
        otto.post("/admin/keys", data={**GOOD, "name": '<img src=x onerror="alert(1)">'})
        assert "<img" not in otto.get("/admin/keys").text


class TestRotateAndRevoke:
    """The other acts."""

    def test_rotate(self, app: Flask, otto: PageClient, key: NewKey) -> None:
        assert "Rotate key" in otto.get(f"/admin/keys/{key.key.key_id}/rotate").text
        answer = otto.post(f"/admin/keys/{key.key.key_id}/rotate", data={"grace": "1"})
        new = key_in(answer.text)
        assert new != key.text
        assert [opens(app, text) for text in (key.text, new)] == [200, 200]
        again = otto.post(f"/admin/keys/{key.key.key_id}/rotate", data={"grace": "1"})
        assert again.status_code == 303
        assert "has a successor already" in otto.get("/admin/keys").text

    def test_rotate_at_once(self, app: Flask, otto: PageClient, key: NewKey) -> None:
        otto.post(f"/admin/keys/{key.key.key_id}/rotate", data={"grace": "0"})
        assert opens(app, key.text) == 401

    def test_revoke(self, app: Flask, otto: PageClient, key: NewKey, page_store: SqlCheckpointStore) -> None:
        assert opens(app, key.text) == 200
        assert "Revoke key" in otto.get(f"/admin/keys/{key.key.key_id}/revoke").text
        assert opens(app, key.text) == 200
        for _ in range(2):
            assert otto.post(f"/admin/keys/{key.key.key_id}/revoke").status_code == 303
        assert opens(app, key.text) == 401
        assert "Nothing was changed" in otto.get("/admin/keys").text
        (event,) = events(page_store, EventType.KEY_REVOKED)
        assert event.actor == "otto@example.org"

    @pytest.mark.parametrize("act", ["rotate", "revoke"])
    @pytest.mark.parametrize("key_id", ["abcdefgh", "x", "%00", "x" * 5_000])
    def test_nobody_s_key(self, otto: PageClient, act: str, key_id: str) -> None:
        assert otto.get(f"/admin/keys/{key_id}/{act}").status_code in (400, 404)
        assert otto.post(f"/admin/keys/{key_id}/{act}", data={"grace": "24"}).status_code in (400, 404)

    def test_no_grace_that_is_not_offered(self, app: Flask, otto: PageClient, key: NewKey) -> None:
        answer = otto.post(f"/admin/keys/{key.key.key_id}/rotate", data={"grace": "99999"})
        assert answer.status_code == 422
        assert services(app).keys.get(key.key.key_id) == key.key


class TestList:
    """`GET /admin/keys`."""

    @pytest.mark.parametrize("name", ["alice", "ana"])
    def test_it_is_for_administrators(self, sign_in: SignIn, name: str) -> None:
        assert sign_in(name).get("/admin/keys").status_code == 403

    def test_it_costs_few_statements(self, otto: PageClient, key: NewKey, statements: list[str]) -> None:
        statements.clear()
        assert otto.get("/admin/keys").status_code == 200
        assert len(statements) <= 3  # session and person, keys, open gates

    def test_it_tells_what_a_key_is_good_for(self, app: Flask, otto: PageClient, key: NewKey) -> None:
        keys = services(app).keys
        keys.rotate(key.key.key_id, actor=SYSTEM)
        gone = keys.create("gone", Role.AUDITOR, actor=SYSTEM)
        keys.revoke(gone.key.key_id, actor=SYSTEM)
        page = otto.get("/admin/keys").text
        assert "revoked" in page
        assert "any environment" in page
        assert f"/admin/keys/{gone.key.key_id}/revoke" not in page
        assert f"/admin/keys/{key.key.key_id}/rotate" not in page

    def test_a_key_of_another_secret_is_said(
        self, settings: Settings, page_store: SqlCheckpointStore, people: People, key: NewKey
    ) -> None:
        peppered = replace(settings, secret_key="0123456789abcdef" * 4)
        first = create_app(peppered, store=page_store)
        services(first).keys.create("foreign", Role.RUNNER, actor=SYSTEM)
        second = create_app(replace(peppered, secret_key="fedcba9876543210" * 4), store=page_store)
        second.test_client_class = PageClient
        page = signed_in_client(second, page_store, people["otto"]).get("/admin/keys").text
        assert page.count("made under another SECRET_KEY") == 2  # the one made under `settings` too
        assert "re_" not in page.replace("re_…", "")


class TestStepUp:
    """A session left open is not enough to make keys."""

    @pytest.fixture
    def tired(self, left_open: SignIn) -> PageClient:
        """An administrator with a password, who signed in six minutes ago."""
        return left_open("otto")

    def test_the_password_is_asked_for(
        self, tired: PageClient, key: NewKey, page_store: SqlCheckpointStore
    ) -> None:
        before = len(events(page_store, EventType.KEY_CREATED))
        for address, data in (
            ("/admin/keys", GOOD),
            (f"/admin/keys/{key.key.key_id}/rotate", {"grace": "24"}),
            (f"/admin/keys/{key.key.key_id}/revoke", {}),
        ):
            assert "Your password" in tired.get(address).text
            for password in (None, "not this one at all"):
                answer = tired.post(address, data={**data, **({"password": password} if password else {})})
                assert answer.status_code == 422, address
                assert not KEY.search(answer.text)
        assert len(events(page_store, EventType.KEY_CREATED)) == before
        assert events(page_store, EventType.KEY_ROTATED, EventType.KEY_REVOKED) == []

    def test_once_given_it_counts_for_a_while(self, tired: PageClient, fake_clock: FakeClock) -> None:
        assert tired.post("/admin/keys", data={**GOOD, "password": PASSWORD}).status_code == 200
        assert "Your password" not in tired.get("/admin/keys").text
        fake_clock.forward(minutes=4)
        assert tired.post("/admin/keys", data={**GOOD, "name": "second"}).status_code == 200
        fake_clock.forward(minutes=2)
        assert tired.post("/admin/keys", data={**GOOD, "name": "third"}).status_code == 422

    def test_another_session_gains_nothing_by_it(
        self, app: Flask, tired: PageClient, page_store: SqlCheckpointStore, fake_clock: FakeClock
    ) -> None:
        assert tired.person is not None
        other = signed_in_client(app, page_store, tired.person)
        fake_clock.forward(minutes=6)
        assert tired.post("/admin/keys", data={**GOOD, "password": PASSWORD}).status_code == 200
        assert "Your password" in other.get("/admin/keys").text

    def test_guesses_are_throttled(self, tired: PageClient) -> None:
        answers = [tired.post("/admin/keys", data={**GOOD, "password": f"guess {n}"}).text for n in range(8)]
        assert "This is not your current password." in answers[0]
        assert "Too many attempts" in answers[-1]

    def test_who_has_no_password_is_not_asked(self, sign_in: SignIn, fake_clock: FakeClock) -> None:
        otto = sign_in("otto")
        fake_clock.forward(minutes=20)
        assert otto.post("/admin/keys", data=GOOD).status_code == 200


def test_a_form_token_is_needed(app: Flask, otto: PageClient, page_store: SqlCheckpointStore) -> None:
    assert otto.post("/admin/keys", data=GOOD, token=False).status_code == 403
    assert new_client(app).post("/admin/keys", data=GOOD).status_code == 303
    assert events(page_store, EventType.KEY_CREATED) == []

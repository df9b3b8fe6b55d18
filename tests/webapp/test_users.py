"""People and their roles."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from flask import Flask

from resume_engine.core.audit import EventType
from resume_engine.core.permissions import Role
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.provision.app_fixtures import SYSTEM, PageClient, new_client
from tests.webapp.helpers import PASSWORD, events, give_password
from webapp.accounts.records import Person
from webapp.accounts.store import LAST_ADMIN
from webapp.extensions import services

SignIn = Callable[[str], PageClient]
People = dict[str, Person]
ACTS = ["role", "disable", "enable", "sign-out", "link"]


@pytest.fixture
def otto(sign_in: SignIn) -> PageClient:
    """The administrator."""
    return sign_in("otto")


def role_of(app: Flask, person: Person) -> str:
    found = services(app).accounts.get(person.user_id)
    assert found is not None
    return found.role


def link_in(page: str) -> str:
    found = re.search(r"http://localhost(/login/link/[\w-]{43})", page)
    assert found is not None
    return found.group(1)


class TestList:
    """`GET /admin/users`."""

    def test_it_shows_everybody(self, otto: PageClient) -> None:
        page = otto.get("/admin/users").text
        for name in ("alice", "ana", "oscar", "otto"):
            assert f"{name}@example.org" in page

    @pytest.mark.parametrize("name", ["alice", "ana"])
    def test_it_is_for_administrators(self, sign_in: SignIn, name: str) -> None:
        assert sign_in(name).get("/admin/users").status_code == 403

    def test_it_costs_few_statements(self, otto: PageClient, statements: list[str]) -> None:
        statements.clear()
        assert otto.get("/admin/users").status_code == 200
        assert len(statements) <= 3  # session and person, people, open gates


class TestAdd:
    """`POST /admin/users`."""

    def test_works(self, app: Flask, otto: PageClient, page_store: SqlCheckpointStore) -> None:
        answer = otto.post(
            "/admin/users", data={"email": "Mia@Example.org", "display_name": "Mia M", "role": "auditor"}
        )
        assert answer.status_code == 200
        browser = new_client(app)
        assert browser.post(link_in(answer.text)).headers["Location"] == "/account"
        assert "mia@example.org" in browser.get("/account").text
        (created, _) = events(page_store, EventType.USER_CREATED)[-1:] + events(
            page_store, EventType.USER_LINK_CREATED
        )
        assert (created.actor, created.channel) == ("otto@example.org", "dashboard")
        assert created.payload == {"email": "mia@example.org", "role": "auditor"}

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({"email": "", "role": "operator"}, "Type an email."),
            ({"email": "mia", "role": "operator"}, "is not an email address"),
            ({"email": "mia@a@b", "role": "operator"}, "is not an email address"),
            ({"email": "mia m@example.org", "role": "operator"}, "is not an email address"),
            ({"email": "mia\u202e@example.org", "role": "operator"}, "is not an email address"),
            ({"email": "mia@example.org", "role": "runner"}, "Not a valid choice"),
            ({"email": "mia@example.org", "role": "emperor"}, "Not a valid choice"),
            ({"email": "mia@example.org"}, "Not a valid choice"),
            ({"email": "mia@example.org", "role": "operator", "display_name": "x" * 101}, "cannot be longer"),
            ({"email": "ANA@example.org", "role": "operator"}, "has an account already"),
        ],
    )
    def test_invalid_input(
        self, otto: PageClient, page_store: SqlCheckpointStore, data: dict[str, str], message: str
    ) -> None:
        before = events(page_store)
        answer = otto.post("/admin/users", data=data)
        assert answer.status_code == 422
        assert message in answer.text
        assert events(page_store) == before

    def test_repeated(self, otto: PageClient, page_store: SqlCheckpointStore) -> None:
        data = {"email": "mia@example.org", "role": "auditor"}
        assert [otto.post("/admin/users", data=data).status_code for _ in range(2)] == [200, 422]

    @pytest.mark.parametrize("name", ["alice", "ana"])
    def test_wrong_role(self, sign_in: SignIn, page_store: SqlCheckpointStore, name: str) -> None:
        browser = sign_in(name)
        before = len(events(page_store, EventType.USER_CREATED))
        data = {"email": "mia@example.org", "role": "admin"}
        assert browser.post("/admin/users", data=data).status_code == 403
        assert len(events(page_store, EventType.USER_CREATED)) == before

    def test_nothing_else_can_be_set(self, app: Flask, otto: PageClient) -> None:
        otto.post(
            "/admin/users",
            data={"email": "mia@example.org", "role": "auditor", "password_hash": "x", "user_id": "1"},
        )
        mia = services(app).accounts.find("mia@example.org")
        assert mia is not None
        assert not mia.has_password
        assert mia.role == "auditor"

    def test_a_name_is_text(self, otto: PageClient) -> None:
        name = '<img src=x onerror="alert(1)">'
        otto.post("/admin/users", data={"email": "mia@example.org", "role": "auditor", "display_name": name})
        assert "<img" not in otto.get("/admin/users").text


class TestRole:
    """`POST /admin/users/<id>/role`."""

    def test_works(
        self, app: Flask, otto: PageClient, people: People, sign_in: SignIn, page_store: SqlCheckpointStore
    ) -> None:
        ana = sign_in("ana")
        answer = otto.post(f"/admin/users/{people['ana'].user_id}/role", data={"role": "auditor"})
        assert answer.headers["Location"] == "/admin/users"
        assert role_of(app, people["ana"]) == "auditor"
        assert ana.get("/account").status_code == 303
        (event,) = events(page_store, EventType.USER_ROLE_CHANGED)
        assert event.payload == {"email": "ana@example.org", "role": "auditor", "role_before": "operator"}

    def test_the_same_role_changes_nothing(
        self, otto: PageClient, people: People, sign_in: SignIn, page_store: SqlCheckpointStore
    ) -> None:
        ana = sign_in("ana")
        otto.post(f"/admin/users/{people['ana'].user_id}/role", data={"role": "operator"})
        assert "Nothing was changed" in otto.get("/admin/users").text
        assert ana.get("/account").status_code == 200
        assert events(page_store, EventType.USER_ROLE_CHANGED) == []

    @pytest.mark.parametrize("role", ["", "runner", "emperor", "ADMIN"])
    def test_invalid_input(self, app: Flask, otto: PageClient, people: People, role: str) -> None:
        answer = otto.post(f"/admin/users/{people['ana'].user_id}/role", data={"role": role})
        assert answer.status_code == 422
        assert role_of(app, people["ana"]) == "operator"

    def test_nobody_promotes_themselves(self, app: Flask, people: People, sign_in: SignIn) -> None:
        ana = sign_in("ana")
        answer = ana.post(f"/admin/users/{people['ana'].user_id}/role", data={"role": "admin"})
        assert answer.status_code == 403
        assert role_of(app, people["ana"]) == "operator"


class TestLastAdministrator:
    """Somebody always can administrate."""

    @pytest.mark.parametrize(("act", "data"), [("role", {"role": "operator"}), ("disable", {})])
    def test_stays(
        self, app: Flask, otto: PageClient, people: People, act: str, data: dict[str, str]
    ) -> None:
        otto.post(f"/admin/users/{people['otto'].user_id}/{act}", data=data)
        assert LAST_ADMIN in otto.get("/admin/users").text
        found = services(app).accounts.get(people["otto"].user_id)
        assert found is not None and found.is_active and found.role == "admin"

    def test_goes_when_there_is_another(self, app: Flask, otto: PageClient, people: People) -> None:
        services(app).accounts.set_role(people["oscar"].user_id, Role.ADMIN, actor=SYSTEM)
        answer = otto.post(f"/admin/users/{people['otto'].user_id}/role", data={"role": "operator"})
        assert answer.status_code == 303
        assert role_of(app, people["otto"]) == "operator"

    def test_a_disabled_administrator_does_not_count(
        self, app: Flask, otto: PageClient, people: People
    ) -> None:
        services(app).accounts.set_role(people["oscar"].user_id, Role.ADMIN, actor=SYSTEM)
        services(app).accounts.disable(people["oscar"].user_id, actor=SYSTEM)
        otto.post(f"/admin/users/{people['otto'].user_id}/role", data={"role": "operator"})
        assert role_of(app, people["otto"]) == "admin"


class TestDisable:
    """`POST /admin/users/<id>/disable` and `/enable`."""

    def test_works_and_back(
        self, app: Flask, otto: PageClient, people: People, sign_in: SignIn, page_store: SqlCheckpointStore
    ) -> None:
        ana = sign_in("ana")
        otto.post(f"/admin/users/{people['ana'].user_id}/disable")
        assert ana.get("/account").status_code == 303
        assert "disabled" in otto.get("/admin/users").text
        otto.post(f"/admin/users/{people['ana'].user_id}/enable")
        assert [
            e.event_type for e in events(page_store, EventType.USER_DISABLED, EventType.USER_ENABLED)
        ] == [
            "user.disabled",
            "user.enabled",
        ]
        found = services(app).accounts.get(people["ana"].user_id)
        assert found is not None and found.is_active

    @pytest.mark.parametrize(("act", "kind"), [("disable", "user.disabled"), ("enable", "user.enabled")])
    def test_repeated(
        self, otto: PageClient, people: People, page_store: SqlCheckpointStore, act: str, kind: str
    ) -> None:
        for _ in range(3):
            assert otto.post(f"/admin/users/{people['ana'].user_id}/{act}").status_code == 303
        assert "Nothing was changed" in otto.get("/admin/users").text
        expected = 1 if act == "disable" else 0  # ana was enabled from the start
        assert len(events(page_store, EventType(kind))) == expected


class TestLinks:
    """`POST /admin/users/<id>/link`."""

    def test_it_is_shown_once_and_works(self, app: Flask, otto: PageClient, people: People) -> None:
        give_password(app, people["ana"])
        answer = otto.post(f"/admin/users/{people['ana'].user_id}/link")
        assert answer.headers["Cache-Control"] == "no-store"
        path = link_in(answer.text)
        assert path not in otto.get("/admin/users").text
        browser = new_client(app)
        assert browser.post(path).status_code == 303
        assert browser.get("/account").status_code == 200

    def test_not_for_a_disabled_person(self, app: Flask, otto: PageClient, people: People) -> None:
        services(app).accounts.disable(people["ana"].user_id, actor=SYSTEM)
        assert otto.post(f"/admin/users/{people['ana'].user_id}/link").status_code == 303
        assert "enable the account first" in otto.get("/admin/users").text

    def test_repeated_the_newer_one_counts(self, app: Flask, otto: PageClient, people: People) -> None:
        first = link_in(otto.post(f"/admin/users/{people['ana'].user_id}/link").text)
        second = link_in(otto.post(f"/admin/users/{people['ana'].user_id}/link").text)
        assert new_client(app).post(first).status_code == 410
        assert new_client(app).post(second).status_code == 303


class TestSignOut:
    """`POST /admin/users/<id>/sign-out`."""

    def test_works_once(
        self, otto: PageClient, people: People, sign_in: SignIn, page_store: SqlCheckpointStore
    ) -> None:
        ana = sign_in("ana")
        for _ in range(2):
            assert otto.post(f"/admin/users/{people['ana'].user_id}/sign-out").status_code == 303
        assert ana.get("/account").status_code == 303
        (event,) = events(page_store, EventType.AUTH_SESSIONS_ENDED)
        assert (event.actor, event.payload["email"]) == ("otto@example.org", "ana@example.org")


@pytest.mark.parametrize("act", ACTS)
class TestEveryAct:
    """What holds for each of them."""

    def test_wrong_method(self, otto: PageClient, people: People, act: str) -> None:
        assert otto.get(f"/admin/users/{people['ana'].user_id}/{act}").status_code == 405

    @pytest.mark.parametrize("name", ["alice", "ana"])
    def test_wrong_role(
        self, sign_in: SignIn, people: People, page_store: SqlCheckpointStore, act: str, name: str
    ) -> None:
        browser = sign_in(name)
        before = len(events(page_store))
        answer = browser.post(f"/admin/users/{people['oscar'].user_id}/{act}", data={"role": "admin"})
        assert answer.status_code == 403
        new = events(page_store)[before:]
        assert [event.event_type for event in new] == ["access.denied"]

    @pytest.mark.parametrize("user_id", ["999999", "0", "-1", "x", "99999999999999999999"])
    def test_nobody(self, otto: PageClient, act: str, user_id: str) -> None:
        answer = otto.post(f"/admin/users/{user_id}/{act}", data={"role": "admin"})
        assert answer.status_code == 404


class TestStepUp:
    """A session left open is not enough to change what people may do."""

    @pytest.fixture
    def tired(self, left_open: SignIn) -> PageClient:
        """An administrator with a password, who signed in six minutes ago."""
        return left_open("otto")

    def test_nothing_is_done_without_the_password(
        self, app: Flask, tired: PageClient, people: People, page_store: SqlCheckpointStore
    ) -> None:
        before = events(page_store)
        address = f"/admin/users/{people['ana'].user_id}"
        for path, data in (
            ("/admin/users", {"email": "mia@example.org", "role": "admin"}),
            (f"{address}/role", {"role": "admin"}),
            (f"{address}/disable", {}),
            (f"{address}/enable", {}),
            (f"{address}/link", {}),
        ):
            answer = tired.post(path, data=data)
            assert answer.headers["Location"] == "/account/confirm?next=/admin/users", path
        assert events(page_store) == before
        assert "Nothing was changed" in tired.get("/account/confirm?next=/admin/users").text

    def test_with_it_everything_goes_on(self, app: Flask, tired: PageClient, people: People) -> None:
        wrong = tired.post("/account/confirm", data={"password": "not this one", "next": "/admin/users"})
        assert wrong.status_code == 422
        right = tired.post("/account/confirm", data={"password": PASSWORD, "next": "/admin/users"})
        assert right.headers["Location"] == "/admin/users"
        tired.post(f"/admin/users/{people['ana'].user_id}/role", data={"role": "admin"})
        assert role_of(app, people["ana"]) == "admin"

    def test_it_leads_to_pages_of_ours_only(self, tired: PageClient) -> None:
        data = {"password": PASSWORD, "next": "//evil.example"}
        assert tired.post("/account/confirm", data=data).headers["Location"] == "/"

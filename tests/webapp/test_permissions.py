"""Every route says who may use it; what it says is enforced, and a refusal leaves an event."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask

from resume_engine.core.audit import EventType
from resume_engine.core.permissions import Permission
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.provision.app_fixtures import PageClient
from tests.webapp.conftest import SeldomClock
from tests.webapp.helpers import address_of, events, page_rules
from webapp import permissions
from webapp.permissions import RouteMarkError, public, requires

SignIn = Callable[[str], PageClient]

# All that is open to people who are not signed in. A new public route is added here, on purpose.
PUBLIC_ROUTES = {
    "assets.serve",
    "documents.file",
    "documents.openapi",
    "documents.page",
    "health.health",
    "health.ready",
    "sign_in.show",
    "sign_in.show_link",
    "sign_in.submit",
    "sign_in.use_link",
    "theme.choose",
}


def test_every_route_has_exactly_one_mark(app: Flask) -> None:
    for rule in app.url_map.iter_rules():
        mark = permissions.permission_of(app.view_functions[rule.endpoint])
        assert mark == permissions.PUBLIC or isinstance(mark, Permission), rule


def test_public_routes_are_the_listed_ones(app: Flask) -> None:
    found = {
        endpoint
        for endpoint, view in app.view_functions.items()
        if permissions.permission_of(view) == permissions.PUBLIC
    }
    assert found == PUBLIC_ROUTES


def test_a_second_mark_is_refused() -> None:
    with pytest.raises(RouteMarkError, match="marked twice"):

        @public
        @requires(Permission.RUNS_READ)
        def view() -> str:
            return ""


def test_a_route_without_a_mark_stops_the_start(app: Flask) -> None:
    app.add_url_rule("/forgotten", "forgotten", lambda: "secret")
    with pytest.raises(RouteMarkError, match="/forgotten"):
        permissions.check_routes(app)


def test_a_route_without_a_mark_is_closed_to_everybody(
    app: Flask, sign_in: SignIn, client: PageClient
) -> None:
    app.add_url_rule("/forgotten", "forgotten", lambda: "secret")
    assert client.get("/forgotten").status_code == 303
    answer = sign_in("otto").get("/forgotten")
    assert answer.status_code == 403
    assert "secret" not in answer.text


def routes_with(app: Flask, wanted: Callable[[Permission], bool]) -> list[tuple[str, str, Permission]]:
    """Return (method, address, permission) of every protected route whose permission is wanted."""
    found = []
    for rule in page_rules(app):
        mark = permissions.permission_of(app.view_functions[rule.endpoint])
        if not isinstance(mark, Permission) or not wanted(mark):
            continue
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            found.append((method, address_of(rule), mark))
    return found


def test_who_is_not_signed_in_sees_nothing(app: Flask, client: PageClient) -> None:
    for method, address, _ in routes_with(app, lambda _: True):
        answer = client.open(address, method=method)
        assert answer.status_code == 303, (method, address)
        assert answer.location.startswith("/login?next="), (method, address)


@pytest.mark.parametrize("name", ["alice", "ana", "otto"])
def test_the_table_of_roles_decides_every_route(
    app: Flask, sign_in: SignIn, page_store: SqlCheckpointStore, name: str
) -> None:
    """Walk all routes: without the permission 403 and an event, with it anything but 403."""
    from resume_engine.core.permissions import role_allows

    person = sign_in(name)
    assert person.person is not None
    for method, address, needed in routes_with(app, lambda _: True):
        if address in ("/logout", "/account/sessions/end-all"):
            continue  # would end the walk
        before = len(events(page_store, EventType.ACCESS_DENIED))
        answer = person.open(address, method=method)
        refused = len(events(page_store, EventType.ACCESS_DENIED)) - before
        allowed = role_allows(person.person.role, needed)
        assert (answer.status_code == 403) is not allowed, (name, method, address, answer.status_code)
        assert refused == (0 if allowed else 1), (name, method, address)
        assert answer.status_code < 500, (name, method, address)


def test_a_refusal_says_who_what_and_where(sign_in: SignIn, page_store: SqlCheckpointStore) -> None:
    assert sign_in("alice").get("/admin/users").status_code == 403
    (event,) = events(page_store, EventType.ACCESS_DENIED)
    assert (event.actor, event.role, event.channel) == ("alice@example.org", "auditor", "dashboard")
    assert event.payload == {
        "method": "GET",
        "path": "/admin/users",
        "needs": "users:manage",
        "left_out_before": 0,
    }
    assert event.run_id is None  # in the control stream


def test_whoever_goes_on_trying_is_told_of_once_a_minute(
    app: Flask, sign_in: SignIn, page_store: SqlCheckpointStore, seldom_clock: SeldomClock
) -> None:
    alice = sign_in("alice")
    for _ in range(30):
        assert alice.get("/admin/users").status_code == 403
    assert len(events(page_store, EventType.ACCESS_DENIED)) == 1
    seldom_clock.now += 61
    assert alice.get("/admin/users").status_code == 403
    assert events(page_store, EventType.ACCESS_DENIED)[-1].payload["left_out_before"] == 29


def test_an_unknown_role_may_nothing(sign_in: SignIn, page_store: SqlCheckpointStore) -> None:
    from sqlalchemy import text

    ana = sign_in("ana")
    with page_store.writing() as conn:
        conn.execute(text("update users set role = 'emperor' where email = 'ana@example.org'"))
    assert ana.get("/account").status_code in (303, 403)


def test_nobody_sees_a_link_they_may_not_follow(sign_in: SignIn) -> None:
    assert "/admin/users" not in sign_in("ana").get("/account").text
    assert "/admin/users" in sign_in("otto").get("/account").text


class TestSignedOutParts:
    """htmx asks for a part of a page after the session ended."""

    def test_a_link_leads_to_the_sign_in_page_and_back(self, client: PageClient) -> None:
        answer = client.get("/account", htmx=True, headers={"HX-Current-URL": "http://localhost/account?x=1"})
        assert answer.status_code == 401
        assert answer.headers["HX-Redirect"] == "/login?next=/account?x%3D1"

    def test_a_form_stays_on_the_page_with_what_was_typed(self, client: PageClient) -> None:
        answer = client.post("/account/password", htmx=True)
        assert answer.status_code == 401
        assert "HX-Redirect" not in answer.headers
        assert "<html" not in answer.text

    def test_a_part_that_renews_itself_does_not_leave_the_page(self, client: PageClient) -> None:
        answer = client.get("/account", htmx=True, headers={"X-Live": "1"})
        assert answer.status_code == 401
        assert "HX-Redirect" not in answer.headers

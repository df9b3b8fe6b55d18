"""Every route and role against the table in `tests/data/route_roles.txt`; keys and sessions swapped too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from flask import Flask
from werkzeug.routing import Rule

from resume_engine.core.permissions import Role
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.provision.app_fixtures import PageClient
from tests.webapp.api.caller import ApiClient, caller
from tests.webapp.helpers import address_of
from webapp import Settings, create_app, permissions
from webapp.permissions import requires

TABLE = Path(__file__).parents[1] / "data" / "route_roles.txt"
RANK = [role.value for role in Role]
PEOPLE = {"alice": "auditor", "ana": "operator", "otto": "admin"}
ENDS_THE_SESSION = ("/logout", "/account/sessions/end-all")

SignIn = Callable[[str], PageClient]


class Row(NamedTuple):
    """One line of the table."""

    path: str
    method: str
    opened_by: str
    lowest: str

    def admits(self, role: str) -> bool:
        """Return whether the role is high enough."""
        return RANK.index(role) >= RANK.index(self.lowest)


def table() -> list[Row]:
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    return [Row(*line.rsplit(None, 3)) for line in lines if not line.startswith("#")]


def routes(app: Flask) -> dict[tuple[str, str], Rule]:
    return {
        (rule.rule, method): rule
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


@pytest.fixture
def app(settings: Settings, page_store: SqlCheckpointStore) -> Flask:
    """An application with every route there is, without a limit on how often it is asked."""
    wide = replace(settings, demo_mode=True, metrics_public=False, api_rate_limit=None)
    application = create_app(wide, store=page_store)
    application.test_client_class = PageClient
    return application


def keyed(app: Flask, role: str) -> ApiClient:
    client = caller(app, Role(role))
    client.base = ""
    return client


def test_the_table_names_every_route(app: Flask) -> None:
    named, served = {(row.path, row.method) for row in table()}, set(routes(app))
    assert served - named == set(), f"add a line to {TABLE.name} for each of these"
    assert named - served == set(), f"these lines of {TABLE.name} are of no route"


def test_a_new_route_without_a_line_is_found(app: Flask) -> None:
    app.add_url_rule("/new", "new", requires(permissions.Permission.RUNS_READ)(lambda: ""))
    assert ("/new", "GET") in set(routes(app)) - {(row.path, row.method) for row in table()}


@pytest.mark.parametrize("role", RANK)
def test_a_key_opens_the_api_by_its_role_and_no_page(app: Flask, role: str) -> None:
    client, found = keyed(app, role), routes(app)
    for row in table():
        answer = client.open(address_of(found[row.path, row.method]), method=row.method)
        if row.opened_by == "key":
            refused = answer.status_code in (401, 403)
            assert refused is not row.admits(role), (row, role, answer.status_code)
        elif row.opened_by == "session":
            # As for somebody who is not signed in: to the sign-in page, or told to go there.
            assert answer.status_code in (303, 401), (row, role, answer.status_code)
            assert answer.status_code == 401 or answer.location.startswith("/login"), row
        assert answer.status_code < 500, (row, role)
        answer.close()


@pytest.mark.parametrize("name", PEOPLE)
def test_a_session_opens_pages_by_its_role_and_no_call(app: Flask, sign_in: SignIn, name: str) -> None:
    client, found, role = sign_in(name), routes(app), PEOPLE[name]
    for row in table():
        if row.path in ENDS_THE_SESSION:
            continue
        answer = client.open(address_of(found[row.path, row.method]), method=row.method)
        if row.opened_by == "key":
            assert answer.status_code == 401, (row, name, answer.status_code)
        elif row.opened_by == "session":
            assert (answer.status_code == 403) is not row.admits(role), (row, name, answer.status_code)
        assert answer.status_code < 500, (row, name)
        answer.close()


def test_nobody_gets_only_what_is_for_anybody(app: Flask, client: PageClient) -> None:
    found = routes(app)
    for row in table():
        answer = client.open(address_of(found[row.path, row.method]), method=row.method)
        expected = {"key": {401}, "session": {303, 401}}.get(row.opened_by)
        if expected is not None:
            assert answer.status_code in expected, (row, answer.status_code)
        else:
            assert answer.status_code not in (401, 403), (row, answer.status_code)
        answer.close()

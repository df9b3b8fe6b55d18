"""Every request that changes something comes from one of our own pages, or changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from flask import Flask

from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.provision.app_fixtures import PageClient, new_client
from tests.webapp.helpers import address_of, events, page_rules
from webapp import Settings, create_app
from webapp.permissions import PUBLIC, permission_of

SignIn = Callable[[str], PageClient]
SAFE = {"GET", "HEAD", "OPTIONS"}


def writing_routes(app: Flask, *, public: bool) -> Iterator[tuple[str, str]]:
    """Yield (method, address) of every route that is not only for reading."""
    for rule in page_rules(app):
        if (permission_of(app.view_functions[rule.endpoint]) == PUBLIC) is public:
            for method in sorted((rule.methods or set()) - SAFE):
                yield method, address_of(rule)


def attacks(victim: PageClient, stranger: PageClient) -> dict[str, dict[str, object]]:
    """Return ways to send a request that did not come from one of the victim's own pages."""
    cross = {"Sec-Fetch-Site": "cross-site"}
    return {
        "no token": {"token": False},
        "an empty token": {"token": False, "data": {"csrf_token": ""}},
        "a made-up token": {"token": "made.up.token"},
        "the token of another session": {"token": stranger.csrf},
        "a token in the address": {"token": False, "query_string": {"csrf_token": victim.csrf}},
        "another site, with the right token": {"headers": cross},
        "a neighbour site": {"headers": {"Sec-Fetch-Site": "same-site"}},
        "an unknown word": {"headers": {"Sec-Fetch-Site": "own"}},
        "a foreign origin": {"headers": {"Origin": "https://evil.example"}},
        "another port": {"headers": {"Origin": "http://localhost:9999"}},
        "a text body": {
            "token": False,
            "data": f"csrf_token={victim.csrf}",
            "content_type": "text/plain",
        },
        "a JSON body": {"token": False, "json": {"csrf_token": victim.csrf}},
    }


ATTACKS = [
    "no token",
    "an empty token",
    "a made-up token",
    "the token of another session",
    "a token in the address",
    "another site, with the right token",
    "a neighbour site",
    "an unknown word",
    "a foreign origin",
    "another port",
    "a text body",
    "a JSON body",
]


def test_the_list_is_complete(sign_in: SignIn) -> None:
    assert list(attacks(sign_in("ana"), sign_in("oscar"))) == ATTACKS


@pytest.mark.parametrize("name", ATTACKS)
def test_no_route_of_signed_in_people_believes_it(
    app: Flask, sign_in: SignIn, page_store: SqlCheckpointStore, name: str
) -> None:
    otto, stranger = sign_in("otto"), sign_in("ana")
    before = len(events(page_store))
    routes = list(writing_routes(app, public=False))
    assert len(routes) > 8
    for method, address in routes:
        answer = otto.open(address, method=method, **attacks(otto, stranger)[name])
        assert answer.status_code == 403, (name, method, address)
    assert len(events(page_store)) == before
    assert otto.get("/account").status_code == 200


@pytest.mark.parametrize("name", ATTACKS)
def test_no_public_route_believes_it(app: Flask, page_store: SqlCheckpointStore, name: str) -> None:
    """Signing in too: or somebody could sign a victim in as somebody else."""
    visitor, stranger = new_client(app), new_client(app)
    visitor.get("/login")
    before = len(events(page_store))
    routes = list(writing_routes(app, public=True))
    assert ("POST", "/login") in routes
    for method, address in routes:
        answer = visitor.open(address, method=method, **attacks(visitor, stranger)[name])
        assert answer.status_code == 403, (name, method, address)
        assert "session=" not in " ".join(answer.headers.getlist("Set-Cookie")), (name, address)
    assert len(events(page_store)) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "null"},  # what our no-referrer policy makes of it
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://localhost"},
        {"Origin": "null"},
        {},
    ],
)
def test_our_own_pages_are_believed(sign_in: SignIn, headers: dict[str, str]) -> None:
    answer = sign_in("ana").post("/account/sessions/none/end", headers=headers)
    assert answer.status_code == 303


def test_the_refusal_says_what_to_do(sign_in: SignIn) -> None:
    answer = sign_in("ana").post("/logout", token=False)
    assert "Nothing was changed" in answer.text
    assert "reload" in answer.text


def test_the_form_field_works_as_well_as_the_header(sign_in: SignIn) -> None:
    ana = sign_in("ana")
    assert ana.post("/logout", token=False, data={"csrf_token": ana.csrf}).status_code == 303


def test_nothing_changes_on_get(app: Flask, sign_in: SignIn, page_store: SqlCheckpointStore) -> None:
    otto = sign_in("otto")
    before = [event for event in events(page_store) if event.event_type != "audit.exported"]
    for rule in app.url_map.iter_rules():
        if "GET" in (rule.methods or set()):
            otto.get(address_of(rule))
    after = [event for event in events(page_store) if event.event_type != "audit.exported"]
    assert after == before


def test_a_browser_that_keeps_no_cookie_is_told_why(
    settings: Settings, page_store: SqlCheckpointStore
) -> None:
    """Served for HTTPS and visited by plain HTTP, nobody could sign in, and nobody would know why."""
    app = create_app(replace(settings, secure_cookies=True), store=page_store)
    visitor = app.test_client(use_cookies=False)
    answer = visitor.post("/login", data={"email": "ana@example.org", "password": "x"})
    assert answer.status_code == 403
    assert "https://" in answer.text

"""Every request that changes something comes from one of our own pages, or changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from flask import Flask

from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.chain_report import Verdict
from resume_engine.storage.chain_verification import ChainVerifier
from resume_engine.storage.sealing import seal
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.provision.app_fixtures import PageClient, new_client
from tests.webapp.conftest import SeldomClock
from tests.webapp.helpers import address_of, events, page_rules
from webapp import Settings, create_app
from webapp.extensions import services
from webapp.keys.guard import EVENTS
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


def done(store: SqlCheckpointStore) -> list[AuditEvent]:
    """Return every event but those that say that a request was refused: these are all it may leave."""
    return [event for event in events(store) if event.event_type != EventType.ACCESS_FOREIGN]


@pytest.mark.parametrize("name", ATTACKS)
def test_no_route_of_signed_in_people_believes_it(
    app: Flask, sign_in: SignIn, page_store: SqlCheckpointStore, name: str
) -> None:
    """Nothing is decided and no stream of a run grows; what is written is that the request was refused."""
    otto, stranger = sign_in("otto"), sign_in("ana")
    run = RunFactory(page_store).blocked(environment="dev")
    before = done(page_store)
    routes = list(writing_routes(app, public=False))
    assert len(routes) > 8
    for method, address in routes:
        answer = otto.open(address, method=method, **attacks(otto, stranger)[name])
        assert answer.status_code == 403, (name, method, address)
    decide = f"/runs/{run.run_id}/decisions/human_approval"
    assert otto.post(decide, **attacks(otto, stranger)[name]).status_code == 403
    assert page_store.list_decisions(run.run_id) == []
    assert done(page_store) == before
    told = events(page_store, EventType.ACCESS_FOREIGN)
    assert {event.run_id for event in told} == {None}  # the control stream
    assert {event.actor for event in told} == {"otto@example.org"}
    assert otto.get("/account").status_code == 200


@pytest.mark.parametrize("name", ATTACKS)
def test_no_public_route_believes_it(app: Flask, page_store: SqlCheckpointStore, name: str) -> None:
    """Signing in too: or somebody could sign a victim in as somebody else."""
    visitor, stranger = new_client(app), new_client(app)
    visitor.get("/login")
    before = done(page_store)
    routes = list(writing_routes(app, public=True))
    assert ("POST", "/login") in routes
    for method, address in routes:
        answer = visitor.open(address, method=method, **attacks(visitor, stranger)[name])
        assert answer.status_code == 403, (name, method, address)
        assert "session=" not in " ".join(answer.headers.getlist("Set-Cookie")), (name, address)
    assert done(page_store) == before


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


class TestTheTrail:
    """Each refusal leaves one event in the chained control stream, and a flood of them leaves few."""

    def test_it_says_in_whose_name_and_from_where(
        self, app: Flask, sign_in: SignIn, page_store: SqlCheckpointStore
    ) -> None:
        ana = sign_in("ana")
        ana.post("/logout", headers={"Origin": "https://evil.example"})
        ana.post("/account/sessions/end-all", token=False)
        foreign, tokenless = events(page_store, EventType.ACCESS_FOREIGN)
        assert (foreign.actor, foreign.role, foreign.channel) == ("ana@example.org", "operator", "dashboard")
        assert foreign.payload == {
            "method": "POST",
            "path": "/logout",
            "address": "127.0.0.1",
            "reason": "it comes from another site",
            "sent_by": "https://evil.example",
            "left_out_before": 0,
        }
        assert "token" in tokenless.payload["reason"]
        assert "was refused: not from our pages" in ana.get("/audit").text
        signer = services(app).audit_signer
        seal(page_store, signer)
        assert ChainVerifier(page_store, key=signer).verify_all().verdict is Verdict.INTACT

    def test_a_stranger_is_told_of_once_a_minute(
        self, client: PageClient, page_store: SqlCheckpointStore, seldom_clock: SeldomClock
    ) -> None:
        for n in range(50):
            answer = client.post("/login", data={"email": f"x{n}"}, token=False)
            assert answer.status_code == 403
        (event,) = events(page_store, EventType.ACCESS_FOREIGN)
        assert (event.actor, event.role) == ("unknown", "none")
        seldom_clock.now += 61
        client.post("/login", token=False)
        assert events(page_store, EventType.ACCESS_FOREIGN)[-1].payload["left_out_before"] == 49

    def test_many_addresses_fill_nothing_and_silence_nobody(
        self, client: PageClient, sign_in: SignIn, page_store: SqlCheckpointStore, seldom_clock: SeldomClock
    ) -> None:
        for n in range(2 * EVENTS.times):
            address = {"REMOTE_ADDR": f"10.0.{n // 250}.{n % 250}"}
            client.post("/login", token=False, environ_base=address)
        assert len(events(page_store, EventType.ACCESS_FOREIGN)) == EVENTS.times
        sign_in("ana").post("/logout", token=False)
        assert events(page_store, EventType.ACCESS_FOREIGN)[-1].actor == "ana@example.org"

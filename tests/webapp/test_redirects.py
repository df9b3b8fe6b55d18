"""After signing in a person lands on one of our pages, whatever `next` says."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

import pytest
from flask import Flask

from tests.provision.app_fixtures import PageClient, new_client
from tests.webapp.helpers import give_password, sign_in_by_form
from webapp.accounts.records import Person
from webapp.redirects import own_path

SignIn = Callable[[str], PageClient]
HOSTILE = [
    "//evil.example",
    "///evil.example",
    "////evil.example/account",
    "\t//evil.example",
    "\n//evil.example",
    " //evil.example",
    "/\t/evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "\\/evil.example",
    "/\\/evil.example",
    "https://evil.example/account",
    "http://evil.example",
    "HTTPS://evil.example",
    "https:evil.example",
    "https:/evil.example",
    "https:///evil.example",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\nscript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:msgbox(1)",
    "//localhost@evil.example",
    "http://localhost@evil.example/account",
    "http://localhost.evil.example/account",
    "//evil.example/%2e%2e/account",
    "/account@evil.example",
    "/.evil.example",
    "/%09/evil.example",
    "/%2f%2fevil.example",
    "/%5cevil.example",
    "//[::1]/account",
    "//[",
    "http://[evil",
    "?next=//evil.example",
    "#//evil.example",
    "evil.example",
    "./account",
    "account",
    "/account\r\nSet-Cookie: session=x",
    "/\u202eelpmaxe.live",
    "ftp://evil.example/account",
    "/login",
    "/logout",
    "/health",
    "/static/x/app.css",
    "/login/link/x",
    "/no/such/page",
    "",
]


@pytest.mark.parametrize("address", HOSTILE)
def test_hostile_addresses_lead_home(app: Flask, people: dict[str, Person], address: str) -> None:
    give_password(app, people["ana"])
    answer = sign_in_by_form(new_client(app), "ana@example.org", data={"next": address})
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/"


@pytest.mark.parametrize("address", HOSTILE)
def test_what_a_browser_makes_of_it_stays_here(app: Flask, sign_in: SignIn, address: str) -> None:
    """For everybody who follows `next`: the page for signed-in people, the choice of colours."""
    ana = sign_in("ana")
    for answer in (
        ana.get("/login", query_string={"next": address}),
        ana.post("/theme", data={"theme": "dark", "next": address}),
    ):
        assert answer.status_code == 303
        reached = urlsplit(urljoin("http://localhost/login", answer.headers["Location"]))
        assert (reached.scheme, reached.netloc) == ("http", "localhost")


@pytest.mark.parametrize(
    "address", ["/account", "/admin/users", "/account?x=1", "/account?q=%2F%2Fevil&x=%E2%82%AC"]
)
def test_our_own_pages_are_reached(app: Flask, people: dict[str, Person], address: str) -> None:
    give_password(app, people["ana"])
    answer = sign_in_by_form(new_client(app), "ana@example.org", data={"next": address})
    assert answer.headers["Location"] == address


def test_the_way_back_survives_the_form(app: Flask, people: dict[str, Person], client: PageClient) -> None:
    came_for = client.get("/account?x=1").headers["Location"]
    page = client.get(came_for).text
    assert 'name="next" value="/account?x=1"' in page


def test_a_fragment_of_an_address_is_dropped(app: Flask) -> None:
    with app.test_request_context("/login"):
        assert own_path("/account#//evil.example") == "/account"

"""The headers of every answer, whatever kind of answer it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask

from resume_engine.core.permissions import Permission
from tests.provision.app_fixtures import PageClient
from tests.webapp.helpers import address_of
from webapp.permissions import requires

SignIn = Callable[[str], PageClient]
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "connect-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "object-src": "'none'",
    "frame-ancestors": "'none'",
}


def check(headers: dict[str, str], what: object) -> None:
    """Fail unless the headers are complete."""
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy == POLICY, what
    assert headers["X-Content-Type-Options"] == "nosniff", what
    assert headers["X-Frame-Options"] == "DENY", what
    assert headers["Referrer-Policy"] == "no-referrer", what
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin", what
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin", what
    assert "Strict-Transport-Security" not in headers, what
    assert "Access-Control-Allow-Origin" not in headers, what
    assert "Server" not in headers, what
    assert len(headers["X-Request-Id"]) == 12, what


@pytest.mark.parametrize("name", ["", "otto"])
def test_every_route_has_them(app: Flask, sign_in: SignIn, client: PageClient, name: str) -> None:
    """Whatever it answers: a page, a refusal, a redirect, 405."""
    for rule in app.url_map.iter_rules():
        for method in ("GET", "POST", "PUT"):
            someone = sign_in(name) if name else client
            answer = someone.open(address_of(rule), method=method)
            check(dict(answer.headers), (method, rule.rule, answer.status_code))
            if not rule.rule.startswith("/static/"):
                assert answer.headers["Cache-Control"] == "no-store", (method, rule.rule)


def test_errors_have_them(app: Flask, sign_in: SignIn) -> None:
    @requires(Permission.RUNS_READ)
    def broken() -> str:
        raise RuntimeError("boom")

    app.add_url_rule("/broken", "broken", broken)
    ana = sign_in("ana")
    big = {"data": {"email": "x" * 2_000_000}}
    answers = {
        404: ana.get("/no/such/page"),
        405: ana.put("/account"),
        413: ana.post("/account/password", **big),
        500: ana.get("/broken"),
        400: ana.get("/account", headers={"Host": "evil.example"}),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        check(dict(answer.headers), status)
        assert answer.headers["Cache-Control"] == "no-store"


def test_transport_security_behind_tls(client: PageClient) -> None:
    answer = client.get("/login", base_url="https://localhost")
    seconds = int(answer.headers["Strict-Transport-Security"].partition(";")[0].partition("=")[2])
    assert seconds >= 31_536_000


def test_files_are_kept_for_good(client: PageClient) -> None:
    import re

    page = client.get("/login").text
    for address in re.findall(r'(?:href|src)="(/static/[^"]+)"', page):
        answer = client.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]
        assert "Set-Cookie" not in answer.headers


def test_pages_and_parts_are_not_mixed_up(sign_in: SignIn) -> None:
    assert "HX-Request" in sign_in("ana").get("/account").headers["Vary"]

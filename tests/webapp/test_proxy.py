"""Headers of proxies count as far as they were asked for, and names as far as they are ours."""

from __future__ import annotations

from dataclasses import replace

import pytest
from flask import Flask, jsonify, request

from resume_engine.storage.sql_store import SqlCheckpointStore
from webapp import Settings, create_app
from webapp.permissions import public

FORGED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "1",
    "X-Forwarded-Prefix": "/evil",
    "Forwarded": "for=203.0.113.9;proto=https;host=evil.example",
    "X-Real-IP": "203.0.113.9",
}


def seen(settings: Settings, store: SqlCheckpointStore, headers: dict[str, str]) -> dict[str, object]:
    """Return what an application sees of a request from 127.0.0.1."""
    app: Flask = create_app(settings, store=store)

    @public
    def look() -> object:
        return jsonify(
            address=request.remote_addr, secure=request.is_secure, host=request.host, url=request.base_url
        )

    app.add_url_rule("/look", "look", look)
    answer = app.test_client().get("/look", headers=headers)
    assert answer.status_code == 200
    assert answer.json is not None
    found: dict[str, object] = answer.json
    return found


def test_by_default_nobody_is_believed(settings: Settings, page_store: SqlCheckpointStore) -> None:
    assert seen(settings, page_store, FORGED) == {
        "address": "127.0.0.1",
        "secure": False,
        "host": "localhost",
        "url": "http://localhost/look",
    }


@pytest.mark.parametrize(
    ("hops", "forwarded", "address"),
    [
        (1, "203.0.113.9", "203.0.113.9"),
        (1, "6.6.6.6, 203.0.113.9", "203.0.113.9"),  # what the visitor claimed stands before
        (2, "6.6.6.6, 203.0.113.9, 10.0.0.1", "203.0.113.9"),
        (2, "203.0.113.9", "127.0.0.1"),  # fewer than there are proxies: somebody went around one
    ],
)
def test_as_many_proxies_are_believed_as_there_are(
    settings: Settings, page_store: SqlCheckpointStore, hops: int, forwarded: str, address: str
) -> None:
    headers = {**FORGED, "X-Forwarded-For": forwarded, "X-Forwarded-Proto": ", ".join(["https"] * hops)}
    found = seen(replace(settings, proxy_hops=hops), page_store, headers)
    assert found["address"] == address
    assert found["secure"] is True
    assert found["host"] == "localhost"  # names are never taken from a header but Host


@pytest.mark.parametrize("path", ["/login", "/api/runs", "/metrics", "/health/x"])
@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "localhost@evil.example", "[::1", ""]
)
def test_other_names_are_refused(
    settings: Settings, page_store: SqlCheckpointStore, host: str, path: str
) -> None:
    answer = create_app(settings, store=page_store).test_client().get(path, headers={"Host": host})
    assert answer.status_code == 400
    assert "evil" not in answer.text


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_come_by_the_address_of_a_container(
    settings: Settings, page_store: SqlCheckpointStore, path: str
) -> None:
    app = create_app(replace(settings, trusted_hosts=("runs.example.org",)), store=page_store)
    assert app.test_client().get(path, headers={"Host": "10.0.0.7:8000"}).status_code == 200

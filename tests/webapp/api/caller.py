"""A client of the API with a key of its own."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from resume_engine.core.permissions import Role
from resume_engine.core.run import Environment
from tests.provision.app_fixtures import SYSTEM
from webapp.extensions import services


class ApiClient(FlaskClient):
    """A test client that sends its key, under the prefix of the API; it has no cookies."""

    key: str | None = None
    name: str = ""  # as the audit log knows it
    base: str = "/api"

    def open(self, path: str, **kwargs: Any) -> TestResponse:  # type: ignore[override]
        """Send a request to a path under the prefix; `headers` go beside the key."""
        headers = dict(kwargs.pop("headers", None) or {})
        if self.key is not None:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        return super().open(f"{self.base}{path}", headers=headers, **kwargs)


def without_key(app: Flask) -> ApiClient:
    """Return a caller without a key."""
    client = ApiClient(app, app.response_class, use_cookies=False)
    client.base = services(app).settings.api_base
    return client


def caller(app: Flask, role: Role, *, environments: Sequence[str] | None = None) -> ApiClient:
    """Return a caller with a fresh key of this role."""
    made = services(app).keys.create(
        f"{role}-tests-{secrets.token_hex(4)}",  # keys that work have names of their own
        role,
        actor=SYSTEM,
        environments=[Environment(word) for word in environments] if environments else None,
    )
    client = without_key(app)
    client.key, client.name = made.text, made.key.actor.name
    return client

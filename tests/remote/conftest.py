"""An application with a key of every role, and callers that hold them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from resume_engine.core.permissions import Role
from resume_engine.core.run import Environment
from tests.provision.app_fixtures import SYSTEM
from webapp.extensions import services


@dataclass(frozen=True)
class Caller:
    """Somebody with a key."""

    client: FlaskClient
    key: str
    name: str

    def call(self, method: str, path: str, json: Any = None, **options: Any) -> TestResponse:
        """Send a request to the API."""
        headers = {"Authorization": f"Bearer {self.key}"} | options.pop("headers", {})
        return self.client.open(f"/api{path}", method=method, json=json, headers=headers, **options)


@pytest.fixture
def caller(app: Flask) -> Callable[..., Caller]:
    """Return a caller by role: `caller(Role.RUNNER)`; each call makes another key."""

    def make(role: Role, environments: list[Environment] | None = None) -> Caller:
        name = f"a {role} for {environments[0]}" if environments else f"a {role}"
        made = services(app).keys.create(name, role, actor=SYSTEM, environments=environments)
        return Caller(app.test_client(), made.text, made.key.actor.name)

    return make


@pytest.fixture
def runner(caller: Callable[..., Caller]) -> Caller:
    """Somebody with a runner key."""
    return caller(Role.RUNNER)


@pytest.fixture
def operator(caller: Callable[..., Caller]) -> Caller:
    """Somebody with an operator key."""
    return caller(Role.OPERATOR)

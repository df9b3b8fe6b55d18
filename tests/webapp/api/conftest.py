"""Callers of the API by role."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask

from resume_engine.core.permissions import Role
from tests.webapp.api.caller import ApiClient, caller

Call = Callable[..., ApiClient]


@pytest.fixture
def call(app: Flask) -> Call:
    """Return a caller with a fresh key: `call("operator")`, `call("runner", environments=["staging"])`."""
    return lambda role, **options: caller(app, Role(role), **options)

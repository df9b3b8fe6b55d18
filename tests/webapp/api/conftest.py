"""Callers of the API by role, and runs for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask

from resume_engine.core.permissions import Role
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.webapp.api.caller import ApiClient, caller

Call = Callable[..., ApiClient]


@pytest.fixture
def call(app: Flask) -> Call:
    """Return a caller with a fresh key: `call("operator")`, `call("runner", environments=["staging"])`."""
    return lambda role, **options: caller(app, Role(role), **options)


@pytest.fixture
def runs(page_store: SqlCheckpointStore) -> RunFactory:
    """Make runs in the store behind `app`."""
    return RunFactory(page_store)

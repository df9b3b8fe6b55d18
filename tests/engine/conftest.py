"""A store and an engine for the tests of the engine; how stores differ is tested in tests/stores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resume_engine.core.engine import ResumeEngine
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.stores.conftest import wipe


@pytest.fixture(scope="session")
def engine_test_store() -> Iterator[SqlCheckpointStore]:
    """One store in memory for all tests; take `store` instead."""
    with open_store("sqlite:///:memory:") as opened:
        yield opened


@pytest.fixture
def store(engine_test_store: SqlCheckpointStore) -> SqlCheckpointStore:
    """An empty store."""
    wipe(engine_test_store)
    return engine_test_store


@pytest.fixture
def engine(store: SqlCheckpointStore) -> ResumeEngine:
    """An engine on an empty store."""
    return ResumeEngine(store, owner="worker-1")


@pytest.fixture
def runs(store: SqlCheckpointStore) -> RunFactory:
    """Runs in any state."""
    return RunFactory(store)

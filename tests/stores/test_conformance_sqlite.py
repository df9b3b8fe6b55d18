"""The published conformance cases on SQLite."""

from __future__ import annotations

import pytest

from resume_engine.conformance import StoreConformance
from resume_engine.core.store import CheckpointStore
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.stores.conftest import emptied


class TestSQLiteFile(StoreConformance):
    """In a file."""

    @pytest.fixture
    def store(self, sqlite_file_store: SqlCheckpointStore) -> CheckpointStore:
        return emptied(sqlite_file_store)


class TestSQLiteInMemory(StoreConformance):
    """In memory, with one connection for all."""

    @pytest.fixture
    def store(self, sqlite_memory_store: SqlCheckpointStore) -> CheckpointStore:
        return emptied(sqlite_memory_store)

"""The published conformance cases on PostgreSQL."""

from __future__ import annotations

import pytest

from resume_engine.conformance import StoreConformance
from resume_engine.core.store import CheckpointStore
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.stores.conftest import emptied


class TestPostgres(StoreConformance):
    """On a real one."""

    @pytest.fixture
    def store(self, postgres_store: SqlCheckpointStore) -> CheckpointStore:
        return emptied(postgres_store)

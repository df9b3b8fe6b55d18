"""The published conformance cases over HTTP, to a control plane on each database."""

from __future__ import annotations

import pytest

from resume_engine.conformance import Ability, StoreConformance
from resume_engine.core.store import CheckpointStore
from tests.stores.conftest import emptied
from tests.stores.over_http import StoreOverHttp

LACKS = {
    Ability.WRITES_AS_GIVEN: "over HTTP the control plane computes what follows, in the name of the key",
    Ability.ANY_TEXT: "the JSON API takes no NUL and no half characters outside of the payloads of steps",
}


class TestHttpToSQLite(StoreConformance):
    """To a control plane on a SQLite file."""

    lacks = LACKS

    @pytest.fixture
    def store(self, http_sqlite_store: StoreOverHttp) -> CheckpointStore:
        return emptied(http_sqlite_store)


class TestHttpToPostgres(StoreConformance):
    """To a control plane on PostgreSQL."""

    lacks = LACKS

    @pytest.fixture
    def store(self, http_postgres_store: StoreOverHttp) -> CheckpointStore:
        return emptied(http_postgres_store)

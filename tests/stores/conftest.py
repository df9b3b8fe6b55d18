"""Every test of this folder that takes `store` runs on each kind of store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete

from resume_engine.storage.open_store import open_store
from resume_engine.storage.schema import metadata
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.guards import unguarded
from tests.provision.postgres import Databases

KINDS = ("sqlite_file", "sqlite_memory", "postgres")


@pytest.fixture(scope="session")
def sqlite_file_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlCheckpointStore]:
    """A SQLite file; it outlives the test, so take `store` instead."""
    path: Path = tmp_path_factory.mktemp("stores") / "shared.db"
    with open_store(f"sqlite:///{path}") as store:
        yield store


@pytest.fixture(scope="session")
def sqlite_memory_store() -> Iterator[SqlCheckpointStore]:
    """A SQLite database in memory; it outlives the test, so take `store` instead."""
    with open_store("sqlite:///:memory:") as store:
        yield store


@pytest.fixture(scope="session")
def postgres_store(postgres_databases: Databases) -> Iterator[SqlCheckpointStore]:
    """A PostgreSQL database; it outlives the test, so take `store` instead."""
    address = postgres_databases.create_migrated()
    with open_store(address) as store:
        yield store
    postgres_databases.drop(address)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> SqlCheckpointStore:
    """An empty store of each kind in turn."""
    found: SqlCheckpointStore = request.getfixturevalue(f"{request.param}_store")
    wipe(found)
    return found


def wipe(store: SqlCheckpointStore) -> None:
    """Empty every table; quicker than a new database."""
    with unguarded(store) as conn:
        for table in metadata.sorted_tables:
            conn.execute(delete(table))

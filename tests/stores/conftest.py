"""Every test of this folder that takes `store` runs on each kind of database."""

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
from tests.stores.over_http import StoreOverHttp

KINDS = ("sqlite_file", "sqlite_memory", "postgres")
OVER_HTTP = ("http_sqlite", "http_postgres")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test that takes `store` on each kind of database; a module may ask for more by `KINDS`."""
    if "store" in metafunc.fixturenames and metafunc.cls is None:
        metafunc.parametrize("store", getattr(metafunc.module, "KINDS", KINDS), indirect=True)


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


@pytest.fixture(scope="session")
def http_sqlite_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreOverHttp]:
    """A control plane on a SQLite file, over HTTP; it outlives the test, so take `store` instead."""
    path = tmp_path_factory.mktemp("stores") / "behind.db"
    with open_store(f"sqlite:///{path}") as behind, StoreOverHttp(behind) as store:
        yield store


@pytest.fixture(scope="session")
def http_postgres_store(postgres_databases: Databases) -> Iterator[StoreOverHttp]:
    """A control plane on PostgreSQL, over HTTP; it outlives the test, so take `store` instead."""
    address = postgres_databases.create_migrated()
    with open_store(address) as behind, StoreOverHttp(behind) as store:
        yield store
    postgres_databases.drop(address)


@pytest.fixture
def store(request: pytest.FixtureRequest) -> SqlCheckpointStore | StoreOverHttp:
    """An empty store of each kind in turn."""
    return emptied(request.getfixturevalue(f"{request.param}_store"))


def emptied(store: SqlCheckpointStore | StoreOverHttp) -> SqlCheckpointStore | StoreOverHttp:
    """Return a store without any run in it."""
    wipe(store.behind if isinstance(store, StoreOverHttp) else store)
    return store


def wipe(store: SqlCheckpointStore) -> None:
    """Empty every table; quicker than a new database."""
    with unguarded(store) as conn:
        for table in metadata.sorted_tables:
            conn.execute(delete(table))

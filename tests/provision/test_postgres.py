"""The PostgreSQL the other tests stand on: real, durable, one database per test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, inspect, make_url, text

from tests.provision import postgres
from tests.provision.postgres import Databases, PostgresUnavailable


def ask(address: str, statement: str) -> object:
    engine = create_engine(address)
    try:
        with engine.begin() as connection:
            return connection.execute(text(statement)).scalar()
    finally:
        engine.dispose()


@pytest.fixture
def two_databases(postgres_databases: Databases) -> Iterator[tuple[str, str]]:
    addresses = postgres_databases.create_empty(), postgres_databases.create_empty()
    yield addresses
    for address in addresses:
        postgres_databases.drop(address)


def test_durability_is_left_on(empty_postgres_url: str) -> None:
    assert ask(empty_postgres_url, "show fsync") == "on"
    assert ask(empty_postgres_url, "show synchronous_commit") == "on"


def test_databases_share_nothing(two_databases: tuple[str, str]) -> None:
    first, second = two_databases
    engine = create_engine(first)
    with engine.begin() as connection:
        connection.execute(text("create table kept (id int)"))
    engine.dispose()
    assert ask(first, "select count(*) from pg_tables where tablename = 'kept'") == 1
    assert ask(second, "select count(*) from pg_tables where tablename = 'kept'") == 0


def test_a_migrated_database_has_the_tables(postgres_url: str) -> None:
    engine = create_engine(postgres_url)
    tables = set(inspect(engine).get_table_names())
    engine.dispose()
    assert {"runs", "step_records", "decisions", "audit_events"} <= tables


def test_dropping_cuts_an_open_connection(postgres_databases: Databases) -> None:
    address = postgres_databases.create_empty()
    engine = create_engine(address)
    with engine.connect() as held:
        held.execute(text("select 1"))
        postgres_databases.drop(address)
        held.invalidate()
    engine.dispose()
    name = make_url(address).database
    other = postgres_databases.create_empty()
    assert ask(other, f"select count(*) from pg_database where datname = '{name}'") == 0
    postgres_databases.drop(other)


def test_missing_programs_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PostgresUnavailable, match="make install"):
        postgres.find_installation()


def test_another_database_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_DATABASE_URL", "sqlite:///x.db")
    with pytest.raises(PostgresUnavailable, match="TEST_DATABASE_URL must be a postgresql URL"):
        postgres.server_url_from_environment()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_usual_scheme_means_our_driver(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("TEST_DATABASE_URL", f"{scheme}://tester@localhost/postgres")
    url = postgres.server_url_from_environment()
    assert url is not None
    assert url.drivername == "postgresql+psycopg2"

"""Fixtures for PostgreSQL: one server per test run, however many processes share the run.

Under xdist the controlling process starts the server and tells the workers its address; otherwise the first
test that asks for a database starts it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import make_url

from tests.provision.postgres import Databases, OwnServer, PostgresUnavailable, server_url_from_environment

SERVER_KEY = pytest.StashKey["RunServer"]()


class RunServer:
    """The server of this run: started on first use, stopped by the process that started it."""

    def __init__(self) -> None:
        self._own: OwnServer | None = None
        self._databases: Databases | None = None

    def databases(self) -> Databases:
        """Start the server unless it runs already; raise PostgresUnavailable when there is none to be had."""
        if self._databases is None:
            url = server_url_from_environment()
            if url is None:
                self._own = OwnServer()
                url = self._own.url
            self._url = url.render_as_string(hide_password=False)
            self._prefix = f"re_test_{os.getpid()}"
            self._databases = Databases(url, self._prefix)
        return self._databases

    def for_worker(self) -> dict[str, str]:
        """Return what a worker has to know, which may be that there is no server and why."""
        try:
            self.databases()
        except PostgresUnavailable as reason:
            return {"postgres_unavailable": str(reason)}
        return {"postgres_url": self._url, "postgres_prefix": self._prefix}

    def stop(self) -> None:
        """Leave nothing behind: our own server goes, a given one only loses this run's databases."""
        if self._own is not None:
            self._own.stop()
        elif self._databases is not None:
            self._databases.drop_all()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the run's server with the run; workers use the one of the controlling process."""
    if not hasattr(config, "workerinput"):
        config.stash[SERVER_KEY] = RunServer()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker, before it starts, where the server is."""
    node.workerinput.update(node.config.stash[SERVER_KEY].for_worker())


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the server at the very end of the run."""
    server = config.stash.get(SERVER_KEY, None)
    if server is not None:
        server.stop()


@pytest.fixture(scope="session")
def postgres_databases(pytestconfig: pytest.Config) -> Databases:
    """Give access to the run's PostgreSQL; fail with a sentence that helps when there is none."""
    told: dict[str, str] | None = getattr(pytestconfig, "workerinput", None)
    if told is None:
        try:
            return pytestconfig.stash[SERVER_KEY].databases()
        except PostgresUnavailable as reason:
            pytest.fail(str(reason), pytrace=False)
    if "postgres_unavailable" in told:
        pytest.fail(told["postgres_unavailable"], pytrace=False)
    return Databases(make_url(told["postgres_url"]), told["postgres_prefix"])


@pytest.fixture
def postgres_url(postgres_databases: Databases) -> Iterator[str]:
    """Address of a fresh database at the newest schema, for this test alone."""
    address = postgres_databases.create_migrated()
    yield address
    postgres_databases.drop(address)


@pytest.fixture
def empty_postgres_url(postgres_databases: Databases) -> Iterator[str]:
    """Address of a fresh database without tables, for this test alone."""
    address = postgres_databases.create_empty()
    yield address
    postgres_databases.drop(address)

"""Fixtures of the page tests; applications, people and clients come from `tests/provision/app_fixtures`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from flask import Flask

from resume_engine.core import clock
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.provision.app_fixtures import PageClient, signed_in_client
from tests.webapp.helpers import give_password
from webapp.accounts.records import Person
from webapp.extensions import services
from webapp.keys.guard import Guard


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now

    def forward(self, **by: float) -> None:
        """Move on, for example `forward(minutes=31)`."""
        self.now += timedelta(**by)


@pytest.fixture
def database(tmp_path: Path, migrated_file: Path) -> str:
    """The address of a database with nothing in it, for commands."""
    path = tmp_path / "runs.db"
    path.write_bytes(migrated_file.read_bytes())
    return f"sqlite:///{path}"


@pytest.fixture
def runs(page_store: SqlCheckpointStore) -> RunFactory:
    """Make runs in the store behind `app`."""
    return RunFactory(page_store, worker="worker-2")


@pytest.fixture
def ana(sign_in: Callable[[str], PageClient]) -> PageClient:
    """An operator who is signed in."""
    return sign_in("ana")


@pytest.fixture
def fake_clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Stop the clock of sessions, links and attempts."""
    fake = FakeClock(clock.utc_now())
    monkeypatch.setattr(clock, "utc_now", fake)
    return fake


class SeldomClock:
    """The clock by which refusals are told seldom, in seconds; it stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def seldom_clock(app: Flask) -> SeldomClock:
    """Stop the clock by which `app` tells of refusals."""
    stopped = SeldomClock()
    found = services(app)
    app.extensions["resume_engine"] = replace(found, guard=Guard(found.settings.api_rate_limit, now=stopped))
    return stopped


@pytest.fixture
def left_open(
    app: Flask, people: dict[str, Person], page_store: SqlCheckpointStore, fake_clock: FakeClock
) -> Callable[[str], PageClient]:
    """Return the browser of somebody with a password who signed in six minutes ago: `left_open("ana")`."""

    def leave_open(name: str) -> PageClient:
        give_password(app, people[name])
        person = services(app).accounts.get(people[name].user_id)
        assert person is not None
        browser = signed_in_client(app, page_store, person)
        fake_clock.forward(minutes=6)
        return browser

    return leave_open

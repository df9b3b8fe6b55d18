"""What stories on one database share: the database, an application on it, a clock, and keys of people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
from flask import Flask

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.clock import ManualClock, replaced_by
from resume_engine.core.permissions import Role
from resume_engine.storage.remote_backend import RemoteCheckpointStore
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.provision.app_fixtures import CHEAP
from tests.webapp.api.caller import ApiClient, without_key
from webapp import Settings, create_app
from webapp.extensions import services

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
OWNERS_OF_KEYS = {
    "ana": Role.OPERATOR,
    "bob": Role.OPERATOR,
    "otto": Role.ADMIN,
    "ron": Role.RUNNER,
    "alice": Role.AUDITOR,
}


@dataclass(frozen=True)
class Ground:
    """A database, an application on it, and keys with those who made them."""

    store: SqlCheckpointStore
    app: Flask
    keys: Mapping[str, ApiClient]
    owners: Mapping[str, str]  # the name of a key -> who made it
    remote: RemoteCheckpointStore
    clock: ManualClock


@contextmanager
def ground(store: SqlCheckpointStore) -> Iterator[Ground]:
    """Lend everything that stories on one database share."""
    clock = ManualClock(NOON)
    with replaced_by(clock):
        app = create_app(Settings(password_cost=CHEAP, api_rate_limit=None), store=store)
        keys = {name: _key(app, name, role) for name, role in OWNERS_OF_KEYS.items()}
        owners = {client.name: name for name, client in keys.items()}
        remote = RemoteCheckpointStore(
            "http://localhost/api",
            api_key=keys["ron"].key,
            retry_seconds=5,
            transport=httpx.WSGITransport(app, raise_app_exceptions=False),
        )
        yield Ground(store, app, keys, owners, remote, clock)


def _key(app: Flask, name: str, role: Role) -> ApiClient:
    maker = Actor(name=name, role=Role.ADMIN, channel=Channel.DASHBOARD)
    made = services(app).keys.create(f"key of {name}", role, actor=maker)
    client = without_key(app)
    client.key, client.name = made.text, made.key.actor.name
    return client

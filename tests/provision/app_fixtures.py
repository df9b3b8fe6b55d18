"""Fixtures for the dashboard: an application on a fresh database, one person per role, signed-in clients.

def test_something(sign_in):
    ana = sign_in("ana")                       # operator; a test client that is signed in
    assert ana.get("/runs").status_code == 200
    ana.post("/gates/x", data={"note": "ok"})  # sends the form token by itself
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from itsdangerous import URLSafeTimedSerializer
from jinja2.bccache import Bucket, BytecodeCache
from sqlalchemy import Engine, event
from werkzeug.test import TestResponse

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.checkpoint_store import ResumeEngine
from resume_engine.core.permissions import Role
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from webapp import Settings, create_app
from webapp.accounts.records import Person, token_hash
from webapp.accounts.session_store import NewSession, SessionStore
from webapp.accounts.store import AccountStore
from webapp.settings import PasswordCost

CHEAP = PasswordCost(time_cost=1, memory_kib=8, parallelism=1)
PEOPLE = {"alice": Role.AUDITOR, "ana": Role.OPERATOR, "oscar": Role.OPERATOR, "otto": Role.ADMIN}
SYSTEM = Actor(name="tests", role=Role.ADMIN, channel=Channel.SYSTEM)


class PageClient(FlaskClient):
    """A test client that sends the form token of its session, as our pages do.

    `token=False` sends none, a string sends that one.
    """

    csrf_secret: str | None = None  # of the session that `sign_in` made
    person: Person | None = None

    @property
    def csrf(self) -> str:
        """Return the form token."""
        if self.csrf_secret is None:
            with self.session_transaction() as session:
                self.csrf_secret = session.setdefault("csrf_token", secrets.token_hex(32))
        key = self.application.secret_key
        assert key is not None
        return str(URLSafeTimedSerializer(key, salt="wtf-csrf-token").dumps(self.csrf_secret))

    def open(self, *args: Any, token: bool | str = True, htmx: bool = False, **kwargs: Any) -> TestResponse:
        """Send a request; `htmx=True` asks for a part of a page."""
        headers = dict(kwargs.pop("headers", None) or {})
        if htmx:
            headers["HX-Request"] = "true"
        if kwargs.get("method", "GET") not in ("GET", "HEAD", "OPTIONS") and token:
            headers["X-CSRFToken"] = token if isinstance(token, str) else self.csrf
        return super().open(*args, headers=headers, **kwargs)


class KeptTemplates(BytecodeCache):
    """Templates as they were compiled for the applications before: compiling takes longer than a test."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Any] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        """Give the code that was made of this very text."""
        bucket.code = self._kept.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep the code of a template."""
        self._kept[bucket.key, bucket.checksum] = bucket.code


@pytest.fixture(scope="session", autouse=True)
def kept_templates() -> Iterator[None]:
    """Compile each template once, however many applications show it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Flask, "jinja_options", {**Flask.jinja_options, "bytecode_cache": KeptTemplates()})
        yield


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables and nothing in them, to be copied: migrating takes longer than a test."""
    path = tmp_path_factory.mktemp("migrated") / "empty.db"
    open_store(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def settings(tmp_path: Path, migrated_file: Path) -> Settings:
    """Settings of a dashboard on a fresh SQLite file, with passwords that cost nothing to check."""
    shutil.copyfile(migrated_file, tmp_path / "runs.db")
    return Settings(database_url=f"sqlite:///{tmp_path / 'runs.db'}", password_cost=CHEAP)


@pytest.fixture
def page_store(settings: Settings) -> Iterator[SqlCheckpointStore]:
    """The store behind `app`."""
    store = open_store(settings.database_url)
    yield store
    store.close()


@pytest.fixture
def page_engine(page_store: SqlCheckpointStore) -> ResumeEngine:
    """An engine on the store behind `app`, to make runs with."""
    return ResumeEngine(page_store)


@pytest.fixture
def app(settings: Settings, page_store: SqlCheckpointStore) -> Flask:
    """The dashboard."""
    application = create_app(settings, store=page_store)
    application.test_client_class = PageClient
    return application


@pytest.fixture
def client(app: Flask) -> PageClient:
    """Somebody who is not signed in."""
    return new_client(app)


@pytest.fixture
def people(page_store: SqlCheckpointStore) -> dict[str, Person]:
    """One account per name: alice (auditor), ana and oscar (operators), otto (admin); none has a password."""
    return {name: add_person(page_store, name, role) for name, role in PEOPLE.items()}


@pytest.fixture
def sign_in(
    app: Flask, page_store: SqlCheckpointStore, people: dict[str, Person]
) -> Callable[[str], PageClient]:
    """Return a signed-in client by name: `sign_in("ana")`. Each call is another browser."""
    return lambda name: signed_in_client(app, page_store, people[name])


def with_policy(settings: Settings, folder: Path, text: str) -> Settings:
    """Return settings under which a policy decides, written to a file in `folder`."""
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return replace(settings, policy_file=str(path))


def new_client(app: Flask) -> PageClient:
    """Return a browser of its own."""
    client = app.test_client()
    assert isinstance(client, PageClient)
    return client


def add_person(store: SqlCheckpointStore, name: str, role: Role) -> Person:
    """Add `name@example.org`."""
    return AccountStore(store).add(
        f"{name}@example.org", role=role, display_name=name.capitalize(), actor=SYSTEM
    )


def signed_in_client(app: Flask, store: SqlCheckpointStore, person: Person) -> PageClient:
    """Return a browser with a session of `person`, without going through the sign-in page."""
    client = new_client(app)
    session_id, client.csrf_secret, client.person = secrets.token_urlsafe(32), secrets.token_hex(32), person
    SessionStore(store).start(
        NewSession(
            session_hash=token_hash(session_id),
            person=person,
            how="tests",
            data={"csrf_token": client.csrf_secret},
        )
    )
    client.set_cookie(app.session_interface.session_cookie, session_id)  # type: ignore[attr-defined]
    return client


def session_cookie(app: Flask, person: Person) -> dict[str, str]:
    """Return name and value of a fresh session's cookie, for browsers that Playwright drives."""
    from webapp.extensions import services

    session_id = secrets.token_urlsafe(32)
    services(app).sessions.start(
        NewSession(session_hash=token_hash(session_id), person=person, how="tests", data={})
    )
    return {"name": app.session_interface.session_cookie, "value": session_id}  # type: ignore[attr-defined]


class Statements(list[str]):
    """The SQL statements that an engine sent, transaction control aside."""


@pytest.fixture
def statements(page_store: SqlCheckpointStore) -> Iterator[Statements]:
    """Collect what `app` asks its store: `statements.clear(); ana.get(...); len(statements)`."""
    yield from record_statements(page_store.engine)


def record_statements(engine: Engine) -> Iterator[Statements]:
    """Yield the list to which every statement of `engine` is added meanwhile."""
    sent = Statements()

    def note(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.partition(" ")[0].upper() not in ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE"):
            sent.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)

"""Words that the tests of the pages share."""

from __future__ import annotations

import re
from typing import Any

from flask import Flask
from sqlalchemy import select
from werkzeug.routing import AnyConverter, BaseConverter, IntegerConverter, Rule
from werkzeug.test import TestResponse

from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.storage import audit_rows
from resume_engine.storage.schema import audit_events
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.provision.app_fixtures import SYSTEM, PageClient, new_client
from webapp.accounts.records import Person
from webapp.extensions import services

SOME_ID = "f0000000-0000-4000-8000-000000000000"  # of nothing
PASSWORD = "quiet harbour lantern"


def address_of(rule: Rule) -> str:
    """Return an address that a route matches; its ids belong to nothing."""
    values = {name: _sample(converter) for name, converter in rule._converters.items()}
    built = rule.build(values)
    assert built is not None, rule
    return built[1]


def _sample(converter: BaseConverter) -> object:
    if isinstance(converter, AnyConverter):
        return sorted(converter.items)[0]
    return 999_999 if isinstance(converter, IntegerConverter) else SOME_ID


def events(store: SqlCheckpointStore, *kinds: EventType) -> list[AuditEvent]:
    """Return the stored audit events of these kinds (of all kinds without any), oldest first."""
    query = select(audit_events).order_by(audit_events.c.event_id)
    if kinds:
        query = query.where(audit_events.c.event_type.in_([kind.value for kind in kinds]))
    with store.reading() as conn:
        return [audit_rows.event_from_row(row) for row in conn.execute(query)]


def give_password(app: Flask, person: Person, password: str = PASSWORD) -> None:
    """Let a person sign in by password."""
    found = services(app)
    found.accounts.set_password(person.user_id, found.passwords.hash(password), actor=SYSTEM)


def sign_in_by_form(client: PageClient, email: str, password: str = PASSWORD, **kwargs: Any) -> TestResponse:
    """Fill the sign-in form in."""
    data = {"email": email, "password": password, **kwargs.pop("data", {})}
    client.csrf_secret = None
    if "base_url" in kwargs:  # a browser keeps Secure cookies apart
        token = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/login", **kwargs).text)
        return client.post("/login", data=data, token=token.group(1) if token else False, **kwargs)
    answer = client.post("/login", data=data, **kwargs)
    client.csrf_secret = None  # a new session has a new one
    return answer


def session_id_of(client: PageClient) -> str:
    """Return the id in a client's cookie."""
    cookie = client.get_cookie("session")
    assert cookie is not None
    return cookie.value


def with_session(app: Flask, session_id: str) -> PageClient:
    """Return another browser that holds a copy of a session's cookie."""
    client = new_client(app)
    client.set_cookie("session", session_id)
    return client


def page_rules(app: Flask) -> list[Rule]:
    """Return the routes that take a session; those of the API take keys and have tests of their own."""
    return [rule for rule in app.url_map.iter_rules() if not rule.endpoint.startswith("api_")]

"""PostgreSQL cuts connections, as by a restart: whoever reads afterwards notices nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import create_engine, event, literal, select
from sqlalchemy.exc import DBAPIError

from resume_engine.core.permissions import Role
from resume_engine.storage.driver import AskingConnection, connection_was_lost
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.provision.app_fixtures import add_person, signed_in_client
from tests.webapp.api.caller import caller
from webapp import Settings

CUT = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"


@pytest.fixture
def settings(settings: Settings, postgres_url: str) -> Settings:
    return replace(settings, database_url=postgres_url)


@contextmanager
def cuts(store: SqlCheckpointStore) -> Iterator[list[int]]:
    """Cut every connection of those that read at its second use; yield which were."""
    made: list[int] = []

    def check_out(connection: Any, record: Any, _: object) -> None:
        if record.info.pop("was_used", False):
            with socket.socket(fileno=os.dup(connection.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)
            made.append(connection.fileno())
        else:
            record.info["was_used"] = True

    [*_, reading] = store.engines
    event.listen(reading, "checkout", check_out)
    try:
        yield made
    finally:
        event.remove(reading, "checkout", check_out)


def assert_answered(client: FlaskClient, addresses: Sequence[str], store: SqlCheckpointStore) -> None:
    with cuts(store) as made:
        for address in addresses:
            before = len(made)
            answer = client.get(address)
            assert answer.status_code == 200, (address, answer.status_code)
            assert len(made) > before, address


def test_every_page_is_shown(app: Flask, page_store: SqlCheckpointStore) -> None:
    RunFactory(page_store).every_state()
    page = f"/runs/{RunFactory(page_store).blocked('permanent').run_id}"
    pages = (
        *("/", "/runs", "/gates", "/gates/approvals", "/gates/decided", "/audit", "/audit/export.jsonl"),
        *(f"{page}?tab={tab}" for tab in ("steps", "decisions", "events", "trace", "metadata")),
        *(page, f"{page}/steps/0/output", f"{page}/case", f"{page}/compliance.json", f"{page}/header"),
        *("/ready", "/admin/users", "/admin/keys", "/account", f"/gates?run={page[6:]}"),
    )
    person = add_person(page_store, "otto", Role.ADMIN)
    assert_answered(signed_in_client(app, page_store, person), pages, page_store)


def test_every_call_is_answered(app: Flask, page_store: SqlCheckpointStore) -> None:
    call = f"/runs/{RunFactory(page_store).blocked('permanent').run_id}"
    calls = (
        *("/runs", call, f"{call}/status", f"{call}/resume_blockers", f"{call}/audit_log", f"{call}/replay"),
        *(
            f"{call}/audit_events",
            f"{call}/steps",
            f"{call}/lease",
            f"{call}/decisions",
            f"{call}/open_failures",
        ),
        "/resumable?workflow=w&failed_before=2026-01-01T00:00:00%2B00:00&max_attempts=3&limit=5",
    )
    assert_answered(caller(app, Role.RUNNER), calls, page_store)


def test_a_single_statement_is_asked_again_on_another_connection(
    page_store: SqlCheckpointStore, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")  # else it saw the same sessions again
    with engine.connect() as other:

        def cut() -> None:
            assert other.exec_driver_sql(f"{CUT} AND datname = current_database()").all()

        with page_store.asking() as conn:
            for number in range(3):
                cut()
                assert conn.execute(select(literal(number))).scalar() == number
        monkeypatch.delattr(AskingConnection, "execute")
        cut()
        with pytest.raises(DBAPIError) as lost, page_store.asking() as conn:
            conn.execute(select(literal(1)))
        assert connection_was_lost(lost.value)
    engine.dispose()

"""What probes are told."""

from __future__ import annotations

from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import literal, text
from sqlalchemy.exc import OperationalError

from resume_engine.core import clock
from resume_engine.core.actor import ENGINE_ACTOR
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.storage.schema import HEAD_REVISION, UtcDateTime
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.provision.app_fixtures import PageClient


def test_up_and_ready(client: PageClient) -> None:
    assert client.get("/health").json == {"status": "ok"}
    ready = client.get("/ready").json
    assert ready is not None
    assert (ready["status"], ready["schema"]) == ("ok", HEAD_REVISION)
    assert abs(ready["clock_difference_seconds"]) < 1
    assert ready["audit"]["sealing"] == "ok"


def test_that_nobody_seals_is_told_and_stops_nothing(
    client: PageClient, page_store: SqlCheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    long_ago = clock.utc_now() - timedelta(minutes=11)
    page_store.append_event(AuditEvent.by(ENGINE_ACTOR, EventType.AUDIT_EXPORTED, long_ago))
    answer = client.get("/ready")
    assert answer.status_code == 200 and answer.json is not None
    told = answer.json["audit"]
    assert (told["sealing"], told["last_checkpoint_at"]) == ("late", None) and told["unsealed_events"] >= 1
    assert "wait for their seal" in caplog.text


def test_up_but_not_ready_without_a_database(
    app: Flask, client: PageClient, page_store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise OperationalError("select 1", {}, Exception("10.0.0.7 refused"))

    monkeypatch.setattr(page_store, "reading", away)
    assert client.get("/health").status_code == 200
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert "10.0.0.7" not in answer.text


def test_not_ready_with_another_release_s_schema(client: PageClient, page_store: SqlCheckpointStore) -> None:
    with page_store.writing() as conn:
        conn.execute(text("update alembic_version set version_num = '9999_future'"))
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert "another release" in answer.text


def test_clocks_that_disagree_are_told(
    client: PageClient,
    page_store: SqlCheckpointStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    theirs = literal(clock.utc_now() + timedelta(minutes=10), UtcDateTime)
    monkeypatch.setattr(page_store, "database_now", lambda plus_seconds=0.0: theirs)
    answer = client.get("/ready")
    assert answer.status_code == 200
    assert answer.json is not None
    assert -601 < answer.json["clock_difference_seconds"] < -590
    assert "clock of this server" in caplog.text


@pytest.mark.parametrize("method", ["post", "put", "delete"])
@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_only_for_reading(client: PageClient, path: str, method: str) -> None:
    assert getattr(client, method)(path).status_code == 405

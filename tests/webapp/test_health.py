"""What probes are told."""

from __future__ import annotations

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.provision.app_fixtures import PageClient


def test_up_and_ready(client: PageClient) -> None:
    assert client.get("/health").json == {"status": "ok"}
    assert client.get("/ready").json == {"status": "ok"}


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


@pytest.mark.parametrize("method", ["post", "put", "delete"])
@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_only_for_reading(client: PageClient, path: str, method: str) -> None:
    assert getattr(client, method)(path).status_code == 405

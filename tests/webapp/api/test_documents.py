"""The description of the API and its page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from pydantic.json_schema import GenerateJsonSchema

from resume_engine.core.permissions import Role
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.provision.app_fixtures import PageClient
from tests.webapp.api.caller import ApiClient, caller
from webapp import Settings, create_app

# The table of release 0.2.0's description: method and path at the root of an API-only server.
OLD_TABLE = {
    ("GET", "/health"),
    ("POST", "/start_run"),
    ("GET", "/runs/{run_id}/status"),
    ("GET", "/runs/{run_id}/resume_blockers"),
    ("POST", "/runs/{run_id}/compensate"),
    ("POST", "/runs/{run_id}/approve"),
    ("GET", "/runs/{run_id}/audit_log"),
}


def test_the_description_is_open_and_complete(app: Flask, client: PageClient) -> None:
    answer = client.get("/openapi.json")
    assert answer.status_code == 200
    document = answer.json
    assert document["openapi"].startswith("3.1")
    assert document["servers"] == [{"url": "/api"}]
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    described = {(m.upper(), path) for path, item in document["paths"].items() for m in item}
    served = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule.removeprefix("/api")))
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("api_") and rule.rule != "/metrics"
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert described == served
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert set(operation["responses"]) >= {"400", "401", "403", "404", "413", "422", "429", "503"}, (
                method,
                path,
            )


def test_the_schema_of_a_shape_is_made_once_for_all_calls(
    settings: Settings, page_store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = GenerateJsonSchema.generate, []

    def noted(self: GenerateJsonSchema, schema: Any, mode: Any = "validation") -> Any:
        made.append((schema.get("ref") or schema.get("schema_ref") or str(schema.get("cls")), mode))
        return make(self, schema, mode)

    monkeypatch.setattr(GenerateJsonSchema, "generate", noted)
    for _ in range(2):
        create_app(settings, store=page_store)
    assert len(made) == len(set(made))


@pytest.mark.parametrize("name", ["swagger-ui.css", "swagger-ui-bundle.js", "docs.css", "docs.js"])
def test_the_page_loads_its_files_from_here(client: PageClient, name: str) -> None:
    assert f'"/docs/{name}"' in client.get("/docs").text
    answer = client.get(f"/docs/{name}")
    assert answer.status_code == 200
    assert "max-age" in answer.headers["Cache-Control"]
    answer.close()


@pytest.mark.parametrize("name", ["app.py", "..%2fplugins.py", "%2e%2e/plugins.py", "images"])
def test_nothing_else_is_sent_from_there(client: PageClient, name: str) -> None:
    assert client.get(f"/docs/{name}").status_code == 404


class TestApiOnly:
    @pytest.fixture
    def bare(self, settings: Settings, page_store: SqlCheckpointStore) -> Iterator[ApiClient]:
        """A runner's key on a server without pages."""
        yield caller(create_app(replace(settings, api_only=True), store=page_store), Role.OPERATOR)

    def test_the_table_of_0_2_0_is_served_at_the_root(
        self, bare: ApiClient, page_store: SqlCheckpointStore
    ) -> None:
        document = bare.get("/openapi.json").json
        assert document["servers"] == [{"url": "/"}]
        started = bare.post("/start_run", json={"workflow_name": "w", "metadata": {}})
        assert started.json["status"] == "running"
        run = RunFactory(page_store).blocked("permanent")
        bodies = {
            "start_run": {"workflow_name": "w"},
            "compensate": {"result": {}, "note": None},
            "approve": {"approved_by": "ana", "note": None},
        }
        for method, path in sorted(OLD_TABLE):
            body = bodies.get(path.rpartition("/")[2])
            answer = bare.open(path.format(run_id=run.run_id), method=method, json=body)
            expected = 400 if path.endswith("compensate") else 200  # there is nothing to compensate
            assert answer.status_code == expected, (method, path, answer.text)

    def test_there_are_no_pages(self, bare: ApiClient) -> None:
        for path in ("/login", "/gates", "/audit", "/admin/keys", "/account"):
            answer = bare.get(path)
            assert (answer.status_code, answer.mimetype) == (404, "application/json"), path
        assert bare.get("/").json["docs"] == "/docs"
        assert bare.get("/docs").status_code == 200

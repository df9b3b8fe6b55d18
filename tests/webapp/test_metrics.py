"""Numbers for Prometheus."""

from __future__ import annotations

from dataclasses import replace

import pytest
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.exc import OperationalError
from werkzeug.test import TestResponse

from resume_engine.core import clock
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.decisions import DecisionKind
from resume_engine.core.errors import LeaseLostError
from resume_engine.core.permissions import Role
from resume_engine.storage.sealing import seal
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.provision.app_fixtures import SYSTEM, Statements
from tests.webapp.api.caller import caller
from webapp import Settings, create_app
from webapp.errors import code_of
from webapp.extensions import services
from webapp.metrics import LEASE_LOST

Samples = dict[str, dict[tuple[str, ...], float]]


def ask(app: Flask, **headers: str) -> TestResponse:
    return app.test_client().get("/metrics", headers=headers)


def numbers(answer: TestResponse) -> Samples:
    """Return the samples by name and label values, those in the order of their names."""
    assert answer.status_code == 200
    found: Samples = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_what_the_database_holds(app: Flask, runs: RunFactory) -> None:
    runs.blocked("permanent")
    runs.blocked("permanent")
    runs.blocked("partial", environment="prod")
    decided = runs.blocked("permanent")
    services(app).engine.decide(decided.run_id, DecisionKind.HUMAN_APPROVAL, SYSTEM, note="seen")
    found = numbers(ask(app))
    assert found["resume_engine_database_up"] == {(): 1}
    assert found["resume_engine_runs"][("blocked",)] == 3
    assert found["resume_engine_runs"][("cleared",)] == 1
    assert found["resume_engine_runs"][("completed",)] == 0
    assert found["resume_engine_closed_gates"][("dev", "human_approval")] == 2
    assert found["resume_engine_closed_gates"][("prod", "compensation")] == 1
    assert found["resume_engine_oldest_closed_gate_seconds"][("dev", "human_approval")] >= 0
    waits = found["resume_engine_decision_wait_seconds"]
    assert set(waits) == {("human_approval", quantile) for quantile in ("0.5", "0.9", "0.99")}


def test_what_was_answered(app: Flask) -> None:
    client = app.test_client()
    for _ in range(3):
        client.get("/api/runs")
    client.get("/no/such/page")
    client.get("/health")
    found = numbers(ask(app))
    counts = found["resume_engine_http_request_seconds_count"]
    assert counts[("GET", "/api/runs", "401")] == 3
    assert counts[("GET", "/health", "200")] == 1
    assert counts[("any", "none", "404")] == 1
    assert found["resume_engine_api_refusals_total"] == {("key_missing",): 3}


def test_ids_make_no_series(app: Flask) -> None:
    """However many runs and strange methods are asked for, the number of series stays."""
    client = app.test_client()
    for number in range(30):
        client.get(f"/api/runs/{number}")
        client.open(f"/{number}", method="GET")
    counts = numbers(ask(app))["resume_engine_http_request_seconds_count"]
    assert len(counts) == 2


def test_the_database_is_asked_nine_times_at_most(app: Flask, statements: Statements) -> None:
    statements.clear()
    for _ in range(20):
        ask(app)
    assert len(statements) == 9


def test_lost_leases_are_counted_where_they_are_told(app: Flask, page_store: SqlCheckpointStore) -> None:
    """Over HTTP by the refusal; executors that vanished by what the audit says of their runs."""
    assert code_of(LeaseLostError("run-1", "me", "another")) == LEASE_LOST
    kinds = [
        ("run.resumed", {"interrupted": {"step_index": 1}}),
        ("run.resumed", {}),
        ("run.interrupted", {}),
    ]
    for kind, payload in [*kinds, kinds[0]]:
        event = AuditEvent.by(SYSTEM, EventType(kind), clock.utc_now(), run_id="run-1", payload=payload)
        page_store.append_event(event)
    found = numbers(ask(app))
    assert found["resume_engine_lost_leases"] == {("resumed",): 2, ("left to a person",): 1}
    assert found["resume_engine_lease_losses_total"] == {(): 0}


def test_a_lease_that_was_lost_is_counted(
    app: Flask, page_store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(run_id: str) -> None:
        raise LeaseLostError(run_id, "me", "another")

    monkeypatch.setattr(page_store, "load_summary", lost)
    answer = caller(app, Role.RUNNER).get("/runs/run-1/status")
    assert (answer.status_code, answer.json["code"]) == (409, LEASE_LOST)
    assert numbers(ask(app))["resume_engine_lease_losses_total"] == {(): 1}


def test_how_the_audit_stands(app: Flask, runs: RunFactory, page_store: SqlCheckpointStore) -> None:
    runs.completed()
    runs.blocked("partial")
    found = numbers(ask(app))
    assert found["resume_engine_audit_unsealed_events"][()] > 0
    assert "resume_engine_audit_checkpoint_timestamp_seconds" not in found
    assert found["resume_engine_failed_runs"] == {("transient",): 0, ("partial",): 1, ("permanent",): 0}
    seal(page_store, services(app).audit_signer)
    later = numbers(ask(create_app(services(app).settings, store=page_store)))
    assert later["resume_engine_audit_unsealed_events"][()] == 0
    assert later["resume_engine_audit_sealing_late"][()] == 0
    assert later["resume_engine_audit_checkpoint_timestamp_seconds"][()] > 1_700_000_000


def test_without_a_database_the_rest_is_told(
    app: Flask, page_store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise OperationalError("select 1", {}, Exception("10.0.0.7 refused"))

    monkeypatch.setattr(page_store, "asking", away)
    answer = ask(app)
    found = numbers(answer)
    assert found["resume_engine_database_up"] == {(): 0}
    assert "resume_engine_runs" not in found
    assert "10.0.0.7" not in answer.text


def test_from_outside_a_key_is_needed(settings: Settings, page_store: SqlCheckpointStore) -> None:
    shut = replace(settings, metrics_public=False, demo_operator_key="a-key-for-the-demo")
    app = create_app(shut, store=page_store)
    assert ask(app, Authorization="Bearer a-key-for-the-demo").status_code == 403
    refused = ask(app)
    assert refused.status_code == 401
    assert refused.json["code"] == "key_missing"  # type: ignore[index]
    key = services(app).keys.create("prometheus", Role.AUDITOR, actor=SYSTEM)
    assert ask(app, Authorization=f"Bearer {key.text}").status_code == 200


@pytest.mark.parametrize(
    ("environ", "public"),
    [
        ({}, True),
        ({"HOST": "0.0.0.0"}, False),
        ({"PROXY_HOPS": "1"}, False),
        ({"HOST": "0.0.0.0", "METRICS_PUBLIC": "true"}, True),
        ({"METRICS_PUBLIC": "false"}, False),
    ],
)
def test_they_are_public_on_one_machine_only(environ: dict[str, str], public: bool) -> None:
    assert Settings.from_environment(environ).metrics_public is public

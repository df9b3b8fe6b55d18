"""The runs of demo mode: who may reset them, what a reset does, and that the audit stays whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from resume_engine.core.audit import EventType
from resume_engine.core.chain_report import Verdict
from resume_engine.core.clock import utc_now
from resume_engine.core.permissions import Role
from resume_engine.core.run import RunStatus
from resume_engine.storage.chain_verification import ChainVerifier
from resume_engine.storage.garbage import collect
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sealing import seal
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.provision.app_fixtures import SYSTEM
from tests.webapp.api.caller import ApiClient, caller, without_key
from tests.webapp.helpers import events
from webapp import Settings, create_app
from webapp.demo.run_ids import DEMO_RUN_IDS
from webapp.extensions import services

TRANSIENT, PARTIAL, PERMANENT = DEMO_RUN_IDS
OPENS = {
    TRANSIENT: ("ack_prod_resume", {"acknowledged_by": "a visitor"}, "prod_resume_ack"),
    PARTIAL: ("compensate", {"result": {"courier": "cancelled"}}, "compensation"),
    PERMANENT: ("approve", {"approved_by": "a visitor"}, "human_approval"),
}


@pytest.fixture
def demo(settings: Settings, page_store: SqlCheckpointStore) -> Flask:
    """An application in demo mode."""
    return create_app(in_demo_mode(settings), store=page_store)


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, settings: Settings) -> Iterator[SqlCheckpointStore]:
    """A store on each database."""
    wanted = "postgres_url" if request.param == "postgres" else None
    url = request.getfixturevalue(wanted) if wanted else settings.database_url
    with open_store(url) as opened:
        yield opened


def in_demo_mode(settings: Settings) -> Settings:
    return replace(settings, demo_mode=True, demo_operator_key="a-key-for-the-demo")


def visitor(app: Flask) -> ApiClient:
    """Return a caller with the key of the demo."""
    client = without_key(app)
    client.key = "a-key-for-the-demo"
    return client


def blockers(client: ApiClient, run_id: str) -> list[str]:
    """Return the decisions that a run waits for."""
    answer: Any = client.get(f"/runs/{run_id}/resume_blockers").json
    return [blocker["required_action"] for blocker in answer["blockers"]]


def assert_stopped(client: ApiClient) -> None:
    for run_id, (_, _, action) in OPENS.items():
        assert blockers(client, run_id) == [action]


def test_the_server_starts_with_the_three_runs(demo: Flask) -> None:
    listed: Any = without_key(demo).get("/demo/runs").json
    assert [run["run_id"] for run in listed["runs"]] == list(DEMO_RUN_IDS)
    assert {run["status"] for run in listed["runs"]} == {"failed"}
    assert [run["environment"] for run in listed["runs"]] == ["prod", "staging", "staging"]
    assert_stopped(visitor(demo))


def test_another_start_finds_them_as_they_are(demo: Flask, settings: Settings) -> None:
    store = services(demo).store
    before = [store.load_summary(run_id) for run_id in DEMO_RUN_IDS]
    create_app(in_demo_mode(settings), store=store)
    assert [store.load_summary(run_id) for run_id in DEMO_RUN_IDS] == before


def test_without_demo_mode_there_is_none_of_it(app: Flask) -> None:
    operator = caller(app, Role.OPERATOR)
    assert operator.post("/demo/reset").status_code == 404
    assert services(app).store.load_summary(PERMANENT) is None


def test_visitors_decide_and_reset_again_and_again(store: SqlCheckpointStore, settings: Settings) -> None:
    app = create_app(in_demo_mode(settings), store=store)
    client, keys = visitor(app), set()
    for _ in range(3):
        for run_id, (call, body, _) in OPENS.items():
            (gate,) = client.get(f"/runs/{run_id}/resume_blockers").json["blockers"]  # type: ignore[index]
            keys.add((run_id, gate["failure_key"]))
            decided = client.post(f"/runs/{run_id}/{call}", json=body)
            assert (decided.status_code, decided.json["status"]) == (200, "paused")  # type: ignore[index]
            assert blockers(client, run_id) == []
        answer = client.post("/demo/reset")
        assert (answer.status_code, answer.json["left"]) == (200, [])  # type: ignore[index]
        assert_stopped(client)
        signer = services(app).audit_signer  # what one round sealed must hold after the resets of the next
        seal(store, signer)
        assert ChainVerifier(store, key=signer).verify_all().verdict is Verdict.INTACT
    assert len(keys) == 9
    assert {len(store.list_decisions(run_id)) for run_id in DEMO_RUN_IDS} == {3}


def test_a_reset_of_what_nobody_touched_writes_nothing(demo: Flask) -> None:
    store = services(demo).store
    before = [store.load_summary(run_id) for run_id in DEMO_RUN_IDS]
    assert visitor(demo).post("/demo/reset").status_code == 200
    assert [store.load_summary(run_id) for run_id in DEMO_RUN_IDS] == before
    assert events(store, EventType.RUN_UPDATED) == []


def test_the_audit_names_who_reset(demo: Flask) -> None:
    client = visitor(demo)
    client.post(f"/runs/{PERMANENT}/approve", json={"approved_by": "a visitor"})
    client.post("/demo/reset")
    (event,) = events(services(demo).store, EventType.RUN_UPDATED)
    assert (event.actor, event.run_id) == ("key demo operator", PERMANENT)


def end(app: Flask, run_id: str, how: str) -> None:
    """Finish a run of the demo, as its runner or an operator with a key of their own would."""
    engine, runner = services(app).engine, caller(app, Role.RUNNER)
    if how == "rejected":
        engine.reject_run(run_id, "ana@example.org", note="not wanted")
        return
    call, body, _ = OPENS[run_id]
    visitor(app).post(f"/runs/{run_id}/{call}", json=body)
    if how == "gone on with":
        failed = engine.store.load_run(run_id).open_failure()  # type: ignore[union-attr]
        engine.execute_step(
            run_id, failed.step_name, failed.step_index, failed.input_data, lambda _input, _key: {"ok": True}
        )
    assert runner.patch(f"/runs/{run_id}", json={"status": "completed"}).status_code == 200


@pytest.mark.parametrize("how", ["rejected", "gone on with", "closed"])
def test_finished_runs_come_back_again_and_again(
    store: SqlCheckpointStore, settings: Settings, how: str
) -> None:
    app = create_app(in_demo_mode(settings), store=store)
    keys = set()
    for _ in range(2):
        for run_id in DEMO_RUN_IDS:
            keys.add((run_id, services(app).store.load_summary(run_id).failure.key))  # type: ignore[union-attr]
            end(app, run_id, how)
        answer: Any = visitor(app).post("/demo/reset").json
        assert answer["left"] == []
        assert {run["status"] for run in answer["runs"]} == {"failed"}
        assert_stopped(visitor(app))
        assert {run["finished_at"] for run in answer["runs"]} == {None}
        signer = services(app).audit_signer
        seal(store, signer)
        assert ChainVerifier(store, key=signer).verify_all().verdict is Verdict.INTACT
    assert len(keys) == 6  # each time another failure, with gates of its own
    opened = [e for e in events(store, EventType.RUN_UPDATED) if "opened again" in str(e.payload)]
    assert {e.run_id for e in opened} == set(DEMO_RUN_IDS) and len(opened) == 6
    assert {e.actor for e in opened} == {"key demo operator"}


def test_runs_that_were_deleted_are_told_and_stop_nobody(
    store: SqlCheckpointStore, settings: Settings
) -> None:
    """Their events keep their ids: no other run may have them."""
    app = create_app(in_demo_mode(settings), store=store)
    end(app, PARTIAL, "rejected")
    list(collect(store, utc_now() + timedelta(seconds=1), actor=SYSTEM))
    again = create_app(in_demo_mode(settings), store=store)  # the next start of the server
    answer: Any = visitor(again).post("/demo/reset").json
    assert answer["left"] == [PARTIAL]
    assert [run["run_id"] for run in answer["runs"]] == [TRANSIENT, PERMANENT]
    started = caller(again, Role.RUNNER).post("/start_run", json={"workflow_name": "w", "run_id": PARTIAL})
    assert started.status_code == 409


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", f"/runs/{PERMANENT}", {"status": "completed"}),
        ("POST", "/start_run", {"workflow_name": "w"}),
        ("POST", "/resume", {"run_id": PERMANENT}),
        ("POST", f"/runs/{PERMANENT}/decisions", {"kind": "reject", "note": "no"}),
    ],
)
def test_the_demo_key_finishes_nothing(demo: Flask, method: str, path: str, body: dict[str, Any]) -> None:
    client = visitor(demo)
    client.post(f"/runs/{PERMANENT}/approve", json={"approved_by": "a visitor"})
    assert client.open(path, method=method, json=body).status_code == 403
    assert services(demo).store.load_summary(PERMANENT).status is RunStatus.PAUSED  # type: ignore[union-attr]


def test_the_demo_key_decides_on_no_other_run(demo: Flask) -> None:
    made = RunFactory(services(demo).store)
    for kind, environment, run_id in (
        ("transient", "prod", TRANSIENT),
        ("partial", "dev", PARTIAL),
        ("permanent", "dev", PERMANENT),
    ):
        call, body, _ = OPENS[run_id]
        other = made.blocked(kind, environment=environment)
        assert visitor(demo).post(f"/runs/{other.run_id}/{call}", json=body).status_code == 403
        assert services(demo).store.list_decisions(other.run_id) == []


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.RUNNER])
def test_only_operators_reset(demo: Flask, role: Role) -> None:
    assert caller(demo, role).post("/demo/reset").status_code == 403
    assert without_key(demo).post("/demo/reset").status_code == 401

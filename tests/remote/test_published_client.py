"""The published client 0.2.0, unchanged and in an environment of its own, against this server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resume_engine.core.permissions import Role
from resume_engine.storage.chain_verification import ChainVerifier
from resume_engine.storage.open_store import open_store
from resume_engine.storage.signing import NoKey
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.provision.app_fixtures import CHEAP, SYSTEM
from tests.provision.browser_fixtures import served
from tests.provision.published_release import run_outside
from webapp import Settings, create_app
from webapp.extensions import services

FLOW = Path(__file__).with_name("published_client.py")


@pytest.fixture(params=["sqlite under /api", "sqlite at the root", "postgres under /api"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[SqlCheckpointStore, bool]]:
    """An empty store of each kind, and whether the API is served at the root."""
    if request.param.startswith("postgres"):
        url = request.getfixturevalue("postgres_url")
    else:
        url = f"sqlite:///{tmp_path / 'runs.db'}"
    with open_store(url) as store:
        yield store, request.param.endswith("at the root")


def test_the_whole_flow(scene: tuple[SqlCheckpointStore, bool], old_python: Path) -> None:
    database, api_only = scene
    app = create_app(Settings(password_cost=CHEAP, api_only=api_only), store=database)
    keys = services(app).keys
    runner = keys.create("old runner", Role.RUNNER, actor=SYSTEM)
    operator = keys.create("old operator", Role.OPERATOR, actor=SYSTEM)
    with served(app) as server:
        done = run_outside(
            str(old_python),
            str(FLOW),
            API_URL=server.url if api_only else f"{server.url}/api",
            RUNNER_KEY=runner.text,
            OPERATOR_KEY=operator.text,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    _check(seen)
    _check_replay(database, seen["replayed"])
    _check_records(database, seen, operator.key.actor.name, runner.key.actor.name)


def _check(seen: dict[str, Any]) -> None:
    assert seen["version"] == "0.2.0"
    assert seen["completed"] == ["completed", 3, {"team": "a"}]
    assert seen["not called again"] == {"out_0": 0, "text": "naïve ✓", "none": None}
    assert (seen["same id"], seen["after the end"], seen["unknown run"]) == ("ValueError", "409", None)
    assert seen["transient"][0] == []
    waiting, locally, unchecked, step, approval, running, completed, pending, *opened = seen["permanent"][:-1]
    assert (waiting, locally) == (["human_approval"], "ResumeBlockedError")
    assert (unchecked, step, approval) == ("409", "409", "403")
    assert (running, completed, pending) == ("409", "409", "409")
    assert opened == [[], "accepted", []]
    assert seen["partial"][:-1] == [["compensation"], "403", "403", ["compensation"], []]
    assert seen["compensated"][0] == []
    assert seen["prod"][:-1] == ["409", "403"]
    assert seen["prod, failed again"] == ["TransientStepError", "409"]
    for story in ("transient", "permanent", "partial", "compensated", "prod"):
        assert seen[story][-1]["status"] == "completed", story


def _check_replay(store: SqlCheckpointStore, seen: dict[str, Any]) -> None:
    """A replay calls no step; what it leaves has keys of its own, and the original is as it was."""
    assert seen["called"] == [] and seen["status"] == "completed"
    outputs = [{f"out_{index}": index, "text": "naïve ✓", "none": None} for index in range(3)]
    assert seen["steps"] == [["skipped_replay", index, output] for index, output in enumerate(outputs)]
    assert (seen["copied without a source"], seen["forged"]) == ("400", "400")
    original, replay = store.get_run(seen["original"]["run_id"]), store.get_run(seen["run_id"])
    assert original is not None and original.audit_trace() == seen["original"]["trace"]
    assert replay is not None and replay.audit_trace() == seen["trace"]
    assert not {s.idempotency_key for s in original.steps} & {s.idempotency_key for s in replay.steps}
    assert ChainVerifier(store, key=NoKey()).verify_all().findings == []


def _check_records(store: SqlCheckpointStore, seen: dict[str, Any], operator: str, runner: str) -> None:
    """What the client saw is what is recorded, byte for byte, and every decision is the operator's."""
    for story in ("transient", "permanent", "partial", "compensated", "prod"):
        end = seen[story][-1]
        run = store.get_run(end["run_id"])
        assert run is not None and run.audit_trace() == end["trace"]
        assert {step.worker for step in run.steps} <= {runner, operator}
        assert {decision.actor for decision in store.list_decisions(run.run_id)} <= {operator}
        refused = [
            event.actor for event in store.list_events(run.run_id) if event.event_type == "gate.refused"
        ]
        assert set(refused) <= {runner}
    [approved] = store.list_decisions(seen["permanent"][-1]["run_id"])
    assert approved.note == "card replaced"

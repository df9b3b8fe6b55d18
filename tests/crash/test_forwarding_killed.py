"""kill -9 while runs are forwarded: on the control plane stands what stands here, once and in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from waitress import create_server

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.permissions import Role
from resume_engine.storage.forwarding_marks import ForwardingMarks
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.verification import verify
from tests.crash.broken import VARIABLE
from tests.crash.conftest import Scene
from tests.crash.oracle import unfinished_runs
from tests.crash.processes import KILLED
from tests.crash.scale import LONG, schedule, tell, times
from webapp import Settings, create_app

KEY = "key-of-the-forwarding-tests"
LONGEST_LIFE_SECONDS = 0.4
CALLS = 9  # a run of six steps is started, claimed, recorded and completed


@dataclass(frozen=True)
class Plane:
    """A control plane: its store and its address."""

    store: SqlCheckpointStore
    url: str

    @property
    def given(self) -> dict[str, str]:
        """Return what a job needs to reach it."""
        return {"plane": self.url, "key": KEY}


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with open_store(f"sqlite:///{tmp_path / 'plane.db'}") as store:
        app = create_app(Settings(api_keys={KEY: Role.OPERATOR}, api_rate_limit=None), store=store)
        connections: dict[int, Any] = {}
        server = create_server(app, host="127.0.0.1", port=0, threads=4, map=connections)
        running = threading.Thread(target=server.run, daemon=True)
        running.start()
        yield Plane(store, f"http://127.0.0.1:{server.effective_port}/api")
        server.task_dispatcher.shutdown(timeout=5)
        server.close()
        running.join(10)


def run_ids(store: SqlCheckpointStore) -> set[str]:
    with store.reading() as conn:
        return set(conn.exec_driver_sql("SELECT run_id FROM runs").scalars())


def assert_same(scene: Scene, plane: Plane) -> int:
    """Compare both databases, run by run; return the number of records."""
    assert ForwardingMarks(scene.store).conflicts() == {}
    assert run_ids(scene.store) == run_ids(plane.store)
    records = 0
    for run_id in run_ids(scene.store):
        here, there = scene.store.get_run(run_id), plane.store.get_run(run_id)
        assert here is not None and there is not None
        assert ResumeEngine(scene.store).get_audit_log(run_id) == ResumeEngine(plane.store).get_audit_log(
            run_id
        )
        assert [step.sequence for step in there.steps] == list(range(len(here.steps)))
        assert there.status is here.status
        records += len(here.steps)
    assert verify(plane.store) == []
    return records


def test_no_kill_loses_doubles_or_reorders_a_record(scene: Scene, plane: Plane) -> None:
    kills = times(short=8, long=200)
    chance = schedule(f"forward {scene.kind}")
    for number in range(kills):
        up = scene.path / f"up-{number}"
        job = {"runs": unfinished_runs(scene.store), "endless": True, "name": f"run-{number}", "up": str(up)}
        pid = scene.start("forward", **job, **plane.given)
        scene.processes.wait_for(up)
        time.sleep(chance.uniform(0, LONGEST_LIFE_SECONDS))
        assert scene.processes.kill(pid) == KILLED, scene.processes.said()
    behind = len(ForwardingMarks(scene.store).behind())
    assert scene.run("forward", runs=unfinished_runs(scene.store), **plane.given) == 0, scene.processes.said()
    records = assert_same(scene, plane)
    tell(f"forwarding: {kills} kills, {records} records, {behind} runs behind at the last kill")
    assert records > 0


SOME = [("before", 1), ("after", 1), ("after", 2), ("before", 4), ("after", 5), ("after", CALLS)]
ALL = [(moment, nth) for nth in range(1, CALLS + 1) for moment in ("before", "after")]


@pytest.mark.parametrize(("moment", "nth"), ALL if LONG else SOME)
@pytest.mark.parametrize("scene", ["sqlite"], indirect=True)
def test_a_kill_at_each_call_of_the_control_plane(scene: Scene, plane: Plane, moment: str, nth: int) -> None:
    ResumeEngine(scene.store).start_run("orders", run_id="run")
    assert scene.run("forward", runs=["run"], die=(moment, nth), **plane.given) == KILLED
    assert scene.run("forward", runs=["run"], **plane.given) == 0, scene.processes.said()
    assert assert_same(scene, plane) == 6


@pytest.mark.parametrize(("broken", "moment"), [("trusted_mark", "after"), ("early_mark", "before")])
@pytest.mark.parametrize("scene", ["sqlite"], indirect=True)
def test_the_comparison_sees_what_a_broken_forwarder_does(
    scene: Scene, plane: Plane, broken: str, moment: str
) -> None:
    env = {VARIABLE: broken}
    ResumeEngine(scene.store).start_run("orders", run_id="run")
    assert scene.run("forward", runs=["run"], die=(moment, 5), env=env, **plane.given) == KILLED
    with pytest.raises(AssertionError):
        assert scene.run("forward", runs=["run"], env=env, **plane.given) == 0
        assert_same(scene, plane)

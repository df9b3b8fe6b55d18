"""An owner that is stopped for longer than its lease, and wakes up when somebody else has taken over."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from sqlalchemy import text

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import RunBusyError
from resume_engine.storage import audit_guards
from tests.crash.broken import VARIABLE
from tests.crash.conftest import Scene
from tests.crash.oracle import Doubts, judge
from tests.crash.scale import tell, times
from tests.crash.workload import Client
from tests.crash.zygote import EXIT_LEASE_LOST

LEASE_SECONDS = 0.4
PLACES = ("before_effect:2", "after_effect:3", "before_commit:2", "after_commit:3")
TOGETHER = 5  # zombies that lie still at the same time


def zombies(scene: Scene, names: list[str], env: dict[str, str] | None = None) -> dict[str, int]:
    """Return processes by the run in which each has stopped itself, one at another place than the next."""
    pids = {}
    for number, run_id in enumerate(names):
        ResumeEngine(scene.store).start_run("orders", run_id=run_id)
        place = {"RESUME_ENGINE_FAILPOINT": f"{PLACES[number % len(PLACES)]}:stop"}
        pids[run_id] = scene.start(
            "lie_down", runs=[run_id], lease_seconds=LEASE_SECONDS, env={**place, **(env or {})}
        )
    for pid in pids.values():
        scene.processes.wait_until_stopped(pid)
    return pids


def everything(scene: Scene) -> dict[str, list[Any]]:
    with scene.store.reading() as conn:
        tables = ("runs", "step_records", "audit_events")
        return {table: list(conn.execute(text(f"SELECT * FROM {table} ORDER BY 1"))) for table in tables}


def test_a_zombie_writes_nothing(scene: Scene) -> None:
    rounds, doubts = times(short=4, long=100), Doubts()
    other = ResumeEngine(scene.store, owner="the other one")
    client = Client(scene.effects, pause_seconds=0)
    for first in range(0, rounds, TOGETHER):
        names = [f"run-{number}" for number in range(first, min(first + TOGETHER, rounds))]
        pids = zombies(scene, names)
        with pytest.raises(RunBusyError):
            # It is stopped, not gone: as long as its lease lasts nobody takes its run.
            scene.store.renew_lease(names[0], owner_of(scene, names[0]), 1, 30)
            other.resume(names[0], client.steps(names[0]))
        scene.store.renew_lease(names[0], owner_of(scene, names[0]), 1, LEASE_SECONDS)
        time.sleep(3 * LEASE_SECONDS)
        doubts.look(scene.store)
        for run_id in names:
            client.execute(other, run_id)
        before = everything(scene)
        for pid in pids.values():
            os.kill(pid, signal.SIGCONT)
            assert scene.processes.wait(pid) == EXIT_LEASE_LOST, scene.processes.said()
        assert everything(scene) == before
    verdict = judge(scene.store, scene.effects, doubts)
    tell(f"zombies {scene.kind}: {rounds}, {verdict}")
    # The outside world is not fenced: one that stopped right before its effect acts late, with the same key.
    late = [damage for damage in verdict.damage if "completed and run again: charge" not in damage]
    assert late == [] and verdict.doubts == rounds
    for run_id in (f"run-{number}" for number in range(rounds)):
        events = [event.event_type for event in scene.store.list_events(run_id)]
        assert events.count("run.resumed") == 1 and events[-1] == "run.completed"


def owner_of(scene: Scene, run_id: str) -> str:
    run = scene.store.load_summary(run_id)
    assert run is not None and run.lease_owner is not None
    return run.lease_owner


def test_without_the_check_of_the_version_a_zombie_does_write(scene: Scene) -> None:
    """The unique keys would still stop it from recording a step twice: they are taken away, too."""
    with scene.store.writing() as conn:
        conn.execute(text("DROP INDEX uq_step_records_completed_key"))
        audit_guards.drop(conn)  # on SQLite one of them looks at the keys, too
    [pid] = zombies(scene, ["run-0"], {VARIABLE: "no_version_check+no_lease"}).values()
    time.sleep(1.5 * LEASE_SECONDS)
    doubts = Doubts()
    doubts.look(scene.store)
    Client(scene.effects, pause_seconds=0).execute(ResumeEngine(scene.store), "run-0")
    os.kill(pid, signal.SIGCONT)
    scene.processes.wait(pid)
    damage = judge(scene.store, scene.effects, doubts).damage
    assert any("has the steps" in found or "counts" in found for found in damage), damage

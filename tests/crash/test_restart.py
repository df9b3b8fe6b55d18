"""PostgreSQL goes down in the middle of everything, and comes up again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from resume_engine.core.engine import ResumeEngine
from resume_engine.storage.open_store import open_store
from tests.crash.broken import VARIABLE
from tests.crash.conftest import Scene
from tests.crash.effects import Effects
from tests.crash.oracle import Doubts, Verdict, judge
from tests.crash.processes import Processes
from tests.crash.scale import schedule, tell, times
from tests.crash.servers import UnsteadyServer

EXECUTORS = 3


@pytest.fixture(scope="module")
def server() -> Iterator[UnsteadyServer]:
    """A server that only these tests use."""
    made = UnsteadyServer()
    yield made
    made.stop()


@pytest.fixture
def restarting(server: UnsteadyServer, tmp_path: Path, session_processes: Processes) -> Iterator[Scene]:
    """A database on that server, with a world outside."""
    url = server.databases.create_migrated()
    path = str(tmp_path / "effects.db")
    with open_store(url) as store:
        yield Scene("postgres", tmp_path, url, store, Effects(path), path, session_processes)


def under_load(
    scene: Scene, server: UnsteadyServer, *, restarts: int, runs: int, env: dict[str, str] | None = None
) -> Verdict:
    """Restart the server while executors work; let them finish without anybody's help."""
    chance = schedule("restart")
    engine = ResumeEngine(scene.store)
    names = [f"run-{number}" for number in range(runs)]
    for run_id in names:
        engine.start_run("orders", run_id=run_id)
    job = {"pause_seconds": 0.02, "lease_seconds": 3, "env": env}
    pids = [scene.start("insist", runs=names[n::EXECUTORS], **job) for n in range(EXECUTORS)]
    # One that opens its store while the server is away ends at once, as it should.
    wait_for(scene, "up", EXECUTORS)
    for number in range(restarts):
        done = len(scene.effects.journal("effect"))
        wait_for(scene, "effect", done + chance.randint(1, 12))
        server.stop_immediately()
        time.sleep(chance.uniform(0, 0.5))
        server.start_again()
        assert len(scene.effects.journal("finished")) < runs, f"all was done before restart {number}"
    for pid in pids:
        scene.processes.wait(pid, 900)
    # Nobody was killed: an effect may be repeated where an executor gave up and took its run over later.
    doubts = Doubts()
    for entry in scene.effects.journal("effect"):
        doubts.seen.setdefault((entry.run_id, entry.step), []).append(entry.key)
    verdict = judge(scene.store, scene.effects, doubts)
    errors = Counter(entry.nonce for entry in scene.effects.journal("error"))
    tell(
        f"restarts: {restarts}, errors seen by clients {dict(errors)}, {verdict.runs} runs, "
        f"{verdict.steps} steps recorded, {verdict.acknowledged} acknowledged, "
        f"{verdict.repeated} effects repeated, {len(verdict.damage)} damaged"
    )
    return verdict


def wait_for(scene: Scene, kind: str, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(scene.effects.journal(kind)) < count:
        assert time.monotonic() < deadline, scene.processes.said()
        time.sleep(0.01)


def test_all_runs_finish_through_restarts(restarting: Scene, server: UnsteadyServer) -> None:
    restarts = times(short=2, long=25)
    verdict = under_load(restarting, server, restarts=restarts, runs=times(short=12, long=1_000))
    assert verdict.damage == ()
    assert verdict.repeated <= restarts * EXECUTORS


def test_the_oracle_sees_an_engine_that_takes_errors_for_success(
    restarting: Scene, server: UnsteadyServer
) -> None:
    env = {VARIABLE: "write_errors_ignored"}
    verdict = under_load(restarting, server, restarts=2, runs=12, env=env)
    assert any("acknowledged and lost" in found or "has the steps" in found for found in verdict.damage)

"""Many processes that resume one run at the same moment."""

from __future__ import annotations

import fcntl
import os
import time
from collections import Counter
from contextlib import suppress

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.failure_classifier import TransientStepError
from tests.crash.broken import VARIABLE
from tests.crash.conftest import Scene
from tests.crash.oracle import Doubts, Verdict, judge
from tests.crash.scale import tell, times
from tests.crash.workload import Client


def prepare(scene: Scene, run_id: str) -> None:
    """Make a run that failed at its second step and may go on."""
    engine = ResumeEngine(scene.store)
    engine.start_run("orders", run_id=run_id)
    client = Client(scene.effects, pause_seconds=0)
    steps = client.steps(run_id)

    def fail(_input: object, _key: str) -> dict[str, object]:
        raise TransientStepError("not now")

    failing = [*steps[:1], (steps[1].name, fail), *steps[2:]]
    with suppress(TransientStepError):
        engine.execute_workflow(run_id, failing, initial_input={"order": run_id})


def race(
    scene: Scene,
    processes: int,
    rounds: int,
    pause: float = 0.02,
    env: dict[str, str] | None = None,
    prefix: str = "run",
) -> Verdict:
    """Let so many processes resume so many runs, all of them at one run at a time."""
    starts = scene.path / f"starts-{prefix}"
    starts.mkdir()
    names = [f"{prefix}-{number}" for number in range(rounds)]
    held = {}
    for run_id in names:
        prepare(scene, run_id)
        held[run_id] = os.open(starts / run_id, os.O_CREAT | os.O_RDWR)
        fcntl.flock(held[run_id], fcntl.LOCK_EX)
    pids = [
        scene.start("race", runs=names, starts=str(starts), pause_seconds=pause, env=env)
        for _ in range(processes)
    ]
    for run_id in names:
        wait_until(scene, "ready", run_id, processes)
        os.close(held[run_id])  # the start
    for pid in pids:
        assert scene.processes.wait(pid) == 0 or env, scene.processes.said()
    return judge(scene.store, scene.effects, Doubts())


def wait_until(scene: Scene, kind: str, run_id: str, count: int) -> None:
    deadline = time.monotonic() + 60
    while scene.effects.count(kind, run_id) < count:
        assert time.monotonic() < deadline, scene.processes.said()
        time.sleep(0.005)


def test_each_step_is_recorded_once(scene: Scene) -> None:
    processes, rounds = times(short=8, long=50), times(short=5, long=200)
    verdict = race(scene, processes, rounds)
    outcomes = [entry.nonce for entry in scene.effects.journal("outcome")]
    refused = len(outcomes) - outcomes.count("completed")
    tell(f"race {scene.kind}: {processes} processes x {rounds} rounds, {refused} refused, {verdict}")
    assert verdict.damage == () and verdict.repeated == 0
    assert len(outcomes) == processes * rounds
    assert set(outcomes) <= {"completed", "RunBusyError", "StaleRunError"}
    assert refused >= rounds / 2, "they did not meet"
    for number in range(rounds):
        run = scene.store.load_summary(f"run-{number}")
        assert run is not None and run.lease_token == 2, "one winner after the first execution"
        events = [event.event_type for event in scene.store.list_events(run.run_id)]
        assert events.count("run.resumed") == 1


def test_without_leases_steps_act_several_times(scene: Scene) -> None:
    for number in range(5):  # on a busy machine they may miss each other
        env = {VARIABLE: "no_lease+no_version_check"}
        verdict = race(scene, processes=6, rounds=3, pause=0.06, env=env, prefix=f"run-{number}")
        if verdict.repeated:
            break
    outcomes = Counter(entry.nonce for entry in scene.effects.journal("outcome"))
    assert verdict.repeated > 0 and any("after 0 interruptions" in found for found in verdict.damage), (
        outcomes
    )

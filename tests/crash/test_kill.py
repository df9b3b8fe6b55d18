"""kill -9 at any moment, and at every named place."""

from __future__ import annotations

import random
import time

import pytest

from resume_engine.core import failpoints
from tests.crash.broken import VARIABLE
from tests.crash.conftest import Scene
from tests.crash.oracle import Doubts, Verdict, judge, unfinished_runs
from tests.crash.processes import KILLED
from tests.crash.scale import schedule, tell, times

LONGEST_LIFE_SECONDS = 0.15


def kill_one(scene: Scene, chance: random.Random, number: int, env: dict[str, str] | None = None) -> None:
    """Kill a process somewhere between its start and the middle of its work, most often there."""
    up = scene.path / f"up-{number}"
    left = unfinished_runs(scene.store)
    pid = scene.start("work", runs=left, endless=True, name=f"run-{number}", up=str(up), env=env)
    if chance.random() < 0.9:
        scene.processes.wait_for(up)
    time.sleep(chance.uniform(0, LONGEST_LIFE_SECONDS))
    code = scene.processes.kill(pid)
    assert code == KILLED or env, scene.processes.said()  # a broken engine may have ended by itself


def kill_at_random(scene: Scene, kills: int, name: str, env: dict[str, str] | None = None) -> Verdict:
    """Kill so many processes in the middle of their work, let one finish it, and judge."""
    chance = schedule(name)
    doubts = Doubts()
    for number in range(kills):
        kill_one(scene, chance, number, env)
        doubts.look(scene.store)
    # The lease of the last one killed has not ended: its run is taken over at once, since it is gone.
    started = time.monotonic()
    assert scene.run("work", runs=unfinished_runs(scene.store), env=env) == 0, scene.processes.said()
    assert time.monotonic() - started < 25, "a lease was waited for"
    verdict = judge(scene.store, scene.effects, doubts)
    tell(f"{name}: {kills} kills, {verdict}")
    return verdict


def test_no_kill_loses_or_repeats_a_completed_step(scene: Scene) -> None:
    kills = times(short=40, long=500)
    verdict = kill_at_random(scene, kills, f"kill {scene.kind}")
    assert verdict.damage == ()
    assert verdict.repeated <= kills
    # The faults did fire: steps were cut off, and a receiver that does not know keys acted twice.
    assert verdict.doubts >= kills / 10 and verdict.repeated > 0 and verdict.runs > 1


@pytest.mark.parametrize(
    ("scene", "broken", "found"),
    [
        ("sqlite", "early_answer", "acknowledged and lost"),
        ("postgres", "early_answer", "acknowledged and lost"),
        # What these break lies above the database.
        ("sqlite", "random_key", "had 2 keys"),
        ("sqlite", "no_intent", "after 0 interruptions"),
        ("sqlite", "forgetful_plan", "completed and run again"),
    ],
    indirect=["scene"],
)
def test_the_oracle_sees_what_a_broken_engine_does(scene: Scene, broken: str, found: str) -> None:
    verdict = kill_until(scene, broken, found)
    assert any(found in damage for damage in verdict.damage), verdict.damage


def kill_until(scene: Scene, broken: str, found: str) -> Verdict:
    """Kill until the damage shows, for a while at most."""
    doubts, env = Doubts(), {VARIABLE: broken}
    chance = schedule(broken)
    deadline = time.monotonic() + 30
    number = 0
    while time.monotonic() < deadline:
        kill_one(scene, chance, number, env)
        doubts.look(scene.store)
        number += 1
        if number % 4 == 0:
            scene.run("work", runs=unfinished_runs(scene.store), env=env)
            doubts.look(scene.store)
            verdict = judge(scene.store, scene.effects, doubts)
            if any(found in damage for damage in verdict.damage):
                break
    return verdict


@pytest.mark.parametrize("nth", range(1, times(short=2, long=6) + 1))
@pytest.mark.parametrize("place", failpoints.NAMES)
def test_a_kill_at_a_named_place(scene: Scene, place: str, nth: int) -> None:
    doubts = Doubts()
    code = scene.run(
        "work", runs=[], endless=True, name="run", env={"RESUME_ENGINE_FAILPOINT": f"{place}:{nth}"}
    )
    assert code == KILLED, scene.processes.said()
    doubts.look(scene.store)
    assert scene.run("work", runs=unfinished_runs(scene.store)) == 0, scene.processes.said()
    verdict = judge(scene.store, scene.effects, doubts)
    assert verdict.damage == ()
    # At the last step nothing follows, so what is reached behind its commit leaves nothing in doubt.
    assert verdict.doubts == (place != "before_intent" and (place, nth) != ("after_commit", 6))
    assert verdict.repeated == (place in ("after_effect", "before_commit"))

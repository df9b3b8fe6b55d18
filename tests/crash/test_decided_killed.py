"""A decision is on record, whoever resumes is killed: it is resumed once, and the decision opens one gate."""

from __future__ import annotations

import fcntl
import os
import random
import re
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from resume_engine.core import failpoints
from resume_engine.core.actor import ENGINE_ACTOR
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import ResumeBlockedError
from resume_engine.core.failure_classifier import PartialStepError, PermanentStepError
from resume_engine.core.interruption import assert_may_continue
from resume_engine.core.lease import without_dead_owner
from resume_engine.core.run_summary import RunSummary
from tests.crash.broken import VARIABLE
from tests.crash.conftest import Scene
from tests.crash.oracle import Doubts
from tests.crash.scale import schedule, tell, times
from tests.crash.workload import declined

OLGA = "olga@example.com"
EVENT_OF_KIND = {"human_approval": "gate.approved", "compensation": "gate.compensated"}
LONGEST_LIFE_SECONDS = 0.12
LOSERS = {"RunBusyError", "StaleRunError", "ResumeBlockedError", "LeaseLostError"}


@dataclass
class Figures:
    """What was counted over all rounds, and what is wrong, one sentence each."""

    found: Counter[str] = field(default_factory=Counter)
    damage: list[str] = field(default_factory=list)

    def tells(self, pattern: str) -> bool:
        """Return whether a sentence about the damage says this."""
        return any(re.search(pattern, sentence) for sentence in self.damage)


def summary(scene: Scene, run_id: str) -> RunSummary:
    run = scene.store.load_summary(run_id)
    assert run is not None
    return without_dead_owner(run)


def count(scene: Scene, run_id: str, event: str, key: str | None = None) -> int:
    events = [e for e in scene.store.list_events(run_id) if e.event_type == event]
    return sum(key in (None, e.failure_key) for e in events)


def acts(scene: Scene, run_id: str, step: str) -> list[str]:
    return [e.key for e in scene.effects.journal("effect") if (e.run_id, e.step) == (run_id, step)]


def kill_behind_the_decision(
    scene: Scene, chance: random.Random, run_id: str, kind: str, env: dict[str, str]
) -> None:
    """Kill who decides and resumes: at a named place of either, or at any moment."""
    job = {"run": run_id, "kind": kind}
    if chance.random() < 0.5:
        place = f"{chance.choice(failpoints.NAMES)}:{chance.randint(1, 2)}"
        scene.run("decide_and_resume", env={**env, "RESUME_ENGINE_FAILPOINT": place}, **job)
        return
    up = scene.path / f"up-{run_id}"
    pid = scene.start("decide_and_resume", env=env, up=str(up), **job)
    scene.processes.wait_for(up)
    time.sleep(chance.uniform(0, LONGEST_LIFE_SECONDS))
    scene.processes.kill(pid)


def race(scene: Scene, run_id: str, kind: str, env: dict[str, str]) -> list[str]:
    """Let two processes resume a run at the same moment; return what each of them got."""
    start = scene.path / f"start-{run_id}"
    held = os.open(start, os.O_CREAT | os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    pids = [scene.start("race_decided", run=run_id, kind=kind, start=str(start), env=env) for _ in range(2)]
    deadline = time.monotonic() + 60
    while scene.effects.count("ready", run_id) < 2:
        assert time.monotonic() < deadline, scene.processes.said()
        time.sleep(0.005)
    os.close(held)
    for pid in pids:
        assert scene.processes.wait(pid) == 0, scene.processes.said()
    return [e.nonce for e in scene.effects.journal("outcome") if e.run_id == run_id]


def one_round(
    scene: Scene, chance: random.Random, number: int, figures: Figures, env: dict[str, str]
) -> None:
    run_id, kind = f"run-{number}", chance.choice(list(EVENT_OF_KIND))
    environment = chance.choice(["dev", "staging", "prod"])
    engine = ResumeEngine(scene.store)
    engine.start_run("orders", run_id=run_id, environment=environment)
    steps = declined(scene.effects, run_id, kind)
    with suppress(PermanentStepError, PartialStepError):
        engine.execute_workflow(run_id, steps, initial_input={"order": run_id})
    failure = summary(scene, run_id).failure
    assert failure is not None and acts(scene, run_id, "charge") == []
    if environment == "prod":
        engine.ack_prod_resume(run_id, OLGA)  # the other decision is the one that is killed behind

    kill_behind_the_decision(scene, chance, run_id, kind, env)
    doubts = Doubts()
    doubts.look(scene.store)
    decided = count(scene, run_id, EVENT_OF_KIND[kind], failure.key)
    if scene.effects.count("decided", run_id) and not decided:
        figures.damage.append(f"{run_id}: the decision is lost")
    if not decided and acts(scene, run_id, "charge"):
        figures.damage.append(f"{run_id}: it went on before the decision")
    left = summary(scene, run_id)
    figures.found[
        "killed before the decision"
        if not decided
        else "killed between decision and resume"
        if not left.lease_token > 1 and left.failure == failure
        else "killed in the resume"
        if left.is_interrupted
        else "killed behind the resume"
    ] += 1
    if not decided:
        with suppress(ResumeBlockedError):
            _decide(engine, run_id, kind)
    if left.is_interrupted and environment == "prod":
        with suppress(ResumeBlockedError):
            assert_may_continue(scene.store, left, None, ENGINE_ACTOR)
        engine.ack_prod_resume(run_id, OLGA)
    behind = left.failure
    # Where it was cut off in that step, its failure is yet to come.
    is_over = behind is not None and behind.step_name == "close" and not left.is_interrupted

    resumed, token = count(scene, run_id, "run.resumed"), summary(scene, run_id).lease_token
    outcomes = race(scene, run_id, kind, env)
    figures.found.update(outcomes)
    won = summary(scene, run_id).lease_token - token
    if (won, count(scene, run_id, "run.resumed") - resumed) != ((0, 0) if is_over else (1, 1)):
        figures.damage.append(f"{run_id}: resumed {won} times")
    if not set(outcomes) <= LOSERS | {"PermanentStepError"}:
        figures.damage.append(f"{run_id}: {outcomes}")
    _judge(scene, run_id, kind, failure.key, doubts, figures)

    last = summary(scene, run_id)
    if last.failure is None or last.failure.step_name != "close" or not last.blocked_by:
        figures.damage.append(f"{run_id}: an older decision opened the gate of the next failure")


def _decide(engine: ResumeEngine, run_id: str, kind: str) -> None:
    if kind == "compensation":
        engine.record_compensation(run_id)
    else:
        engine.grant_human_approval(run_id, OLGA)


def _judge(scene: Scene, run_id: str, kind: str, key: str, doubts: Doubts, figures: Figures) -> None:
    if count(scene, run_id, EVENT_OF_KIND[kind], key) != 1:
        figures.damage.append(f"{run_id}: it was not decided once")
    for step in ("reserve", "charge", "ship"):
        keys, cut = acts(scene, run_id, step), len(doubts.seen.get((run_id, step), []))
        if len(set(keys)) != 1:
            figures.damage.append(f"{run_id}: {step} acted under {len(set(keys))} keys")
        if len(keys) - 1 > cut:
            figures.damage.append(f"{run_id}: {step} acted {len(keys)} times after {cut} interruptions")
        figures.found["effects repeated with their key"] += len(keys) - 1
    completed = Counter(r.step_name for r in scene.store.iter_steps(run_id) if r.is_completed)
    if completed != {"reserve": 1, "charge": 1, "ship": 1}:
        figures.damage.append(f"{run_id}: completed are {dict(completed)}")


def rounds(
    scene: Scene, number: int, name: str, env: dict[str, str] | None = None, *, until: str | None = None
) -> Figures:
    """Let so many runs be decided and killed; damage that `until` describes ends it."""
    chance, figures = schedule(name), Figures()
    for each in range(number):
        one_round(scene, chance, each, figures, env or {})
        if until is not None and figures.tells(until):
            break
    return figures


def test_a_decided_run_is_resumed_once(scene: Scene) -> None:
    number = times(short=12, long=200)
    figures = rounds(scene, number, f"decided {scene.kind}")
    tell(f"decided {scene.kind}: {number} kills, {dict(figures.found)}, {len(figures.damage)} damaged")
    assert figures.damage == []
    assert sum(figures.found[f"killed {where}"] for where in WHERE) == number
    assert figures.found["PermanentStepError"] > 0, "nobody resumed"
    if number > 100:
        assert all(figures.found[f"killed {where}"] for where in WHERE)


WHERE = ("before the decision", "between decision and resume", "in the resume", "behind the resume")


@pytest.mark.parametrize("scene", ["sqlite"], indirect=True)
def test_the_oracle_sees_a_run_that_is_resumed_twice(scene: Scene) -> None:
    broken, found = "no_lease+no_version_check", "resumed [2-9] times|acted"
    figures = rounds(scene, 40, broken, {VARIABLE: broken}, until=found)
    assert figures.tells(found), (figures.found, figures.damage)

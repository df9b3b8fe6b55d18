"""kill -9 in the middle of rollbacks: each step undone in its order, once by key, or somebody is asked."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from resume_engine.core import failpoints
from resume_engine.core.audit import EventType
from resume_engine.core.run import RunStatus
from resume_engine.core.step_record import StepKind
from resume_engine.storage.verification import verify
from tests.crash.broken import VARIABLE
from tests.crash.conftest import Scene
from tests.crash.oracle import unfinished_runs
from tests.crash.processes import KILLED
from tests.crash.scale import schedule, tell, times

LONGEST_LIFE_SECONDS = 0.2


def assert_undone(scene: Scene) -> int:
    """Check every run that was rolled back against its event and the world outside; count compensations."""
    undone = 0
    with scene.store.reading() as conn:
        run_ids = list(conn.exec_driver_sql("SELECT run_id FROM runs").scalars())
    keyed = Counter(run_id for run_id, _, _ in scene.effects.keyed())
    for run_id in run_ids:
        run = scene.store.get_run(run_id)
        assert run is not None and run.status is RunStatus.CANCELLED
        rolled_back = [
            e for e in scene.store.list_events(run_id) if e.event_type == EventType.RUN_ROLLED_BACK
        ]
        assert len(rolled_back) == 1
        planned = [one["step_index"] for one in rolled_back[0].payload["compensated"]]
        recorded = [s for s in run.steps if s.kind is StepKind.COMPENSATION and s.is_completed]
        assert [record.step_index for record in recorded] == planned == sorted(planned, reverse=True)
        assert run.completed_indexes() <= set(planned)
        acted = [e for e in scene.effects.journal("effect") if e.run_id == run_id]
        order = [int(entry.step) for entry in acted]
        assert order == sorted(order, reverse=True) and set(order) == set(planned)
        assert {entry.key for entry in acted} == {record.idempotency_key for record in recorded}
        assert keyed[run_id] == len(planned)
        undone += len(planned)
    assert verify(scene.store) == []
    return undone


def test_no_kill_leaves_a_rollback_half_done_or_undoes_a_step_twice(scene: Scene) -> None:
    kills = times(short=15, long=200)
    chance = schedule(f"roll back {scene.kind}")
    for number in range(kills):
        up = scene.path / f"up-{number}"
        runs = unfinished_runs(scene.store)
        pid = scene.start("roll_back", runs=runs, endless=True, name=f"run-{number}", up=str(up))
        scene.processes.wait_for(up)
        time.sleep(chance.uniform(0, LONGEST_LIFE_SECONDS))
        assert scene.processes.kill(pid) == KILLED, scene.processes.said()
    assert scene.run("roll_back", runs=unfinished_runs(scene.store)) == 0, scene.processes.said()
    undone = assert_undone(scene)
    repeated = len(scene.effects.journal("effect")) - undone
    tell(f"{kills} kills, {undone} compensations, {repeated} repeated with their key")
    assert undone > 0 and repeated <= kills


# A rollback takes its run once; the intents that follow come with the records.
POINTS = [(p, nth) for p in failpoints.NAMES for nth in range(1, 2 if p.endswith("_intent") else 6)]


@pytest.mark.parametrize(("place", "nth"), POINTS)
@pytest.mark.parametrize("scene", ["sqlite"], indirect=True)
def test_a_kill_at_each_point_of_a_rollback_of_five_steps(scene: Scene, place: str, nth: int) -> None:
    assert scene.run("fail", run="run") == 0
    code = scene.run("roll_back", runs=["run"], env={"RESUME_ENGINE_FAILPOINT": f"{place}:{nth}"})
    assert code == KILLED, scene.processes.said()
    assert scene.run("roll_back", runs=["run"]) == 0, scene.processes.said()
    assert assert_undone(scene) == 5
    repeated = len(scene.effects.journal("effect")) - 5
    assert repeated == (place in ("after_effect", "before_commit"))


@pytest.mark.parametrize("broken", ["random_key", "forgotten_rollback"])
@pytest.mark.parametrize("scene", ["sqlite"], indirect=True)
def test_the_oracle_sees_what_a_broken_rollback_does(scene: Scene, broken: str) -> None:
    assert scene.run("fail", run="run") == 0
    env = {VARIABLE: broken, "RESUME_ENGINE_FAILPOINT": "after_effect:3"}
    assert scene.run("roll_back", runs=["run"], env=env) == KILLED, scene.processes.said()
    with pytest.raises(AssertionError):
        assert scene.run("roll_back", runs=["run"], env={VARIABLE: broken}) == 0
        assert_undone(scene)

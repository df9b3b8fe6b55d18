"""A disk without room, and a SQLite file that another process writes to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.run import RunStatus
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.verification import verify
from tests.crash.broken import taken_out
from tests.crash.conftest import Scene
from tests.crash.effects import Effects
from tests.crash.oracle import Doubts, judge
from tests.crash.scale import tell, times
from tests.crash.workload import Client

STEPS = 8
PAGES_PER_STEP = 25


class Disk:
    """Room for so many more pages of a SQLite database."""

    def __init__(self, store: SqlCheckpointStore) -> None:
        self._store = store
        self._pages = 0
        event.listen(store.engine, "connect", self._limit)

    def leave_room_for(self, pages: int | None) -> None:
        """Let the database grow by so many pages and no further; None: as far as it likes."""
        self._pages = self.used() + pages if pages is not None else 2**30
        self._store.close()  # the limit is of a connection

    def used(self) -> int:
        """Return how many pages the database has."""
        with self._store.reading() as conn:
            return int(conn.exec_driver_sql("PRAGMA page_count").scalar_one())

    def _limit(self, connection: Any, _: Any) -> None:
        if self._pages:
            connection.execute(f"PRAGMA max_page_count={self._pages}").close()


class Filler:
    """Steps whose outputs fill the disk."""

    def __init__(self) -> None:
        self.keys: dict[str, list[str]] = {}
        self.told: set[str] = set()

    def steps(self) -> list[tuple[str, Any]]:
        return [(f"step_{index}", self._step(index)) for index in range(STEPS)]

    def _step(self, index: int) -> Any:
        name = f"step_{index}"

        def act(state: dict[str, Any], key: str) -> dict[str, Any]:
            self.told |= {earlier for earlier in state if earlier != name}
            self.keys.setdefault(name, []).append(key)
            return {name: "x" * (PAGES_PER_STEP * 4096 // (index + 1))}

        return act


def run_out_of_room(tmp_path: Path, pages: int) -> tuple[int, Filler, list[str]]:
    """Execute a run with little room, then with enough; return where it stopped, and what is damaged."""
    with open_store(f"sqlite:///{tmp_path / f'{pages}.db'}") as store:
        disk, filler = Disk(store), Filler()
        engine = ResumeEngine(store, lease_seconds=30)
        run_id = engine.start_run("orders").run_id
        disk.leave_room_for(pages)
        with pytest.raises(OperationalError, match="database or disk is full"):
            engine.execute_workflow(run_id, filler.steps())
        records = {record.step_name for record in store.iter_steps(run_id)}
        damage = [f"{name} is lost" for name in filler.told - records]
        disk.leave_room_for(None)
        run = store.load_summary(run_id)
        assert run is not None and run.is_interrupted, "the lease was given up at once"
        done = ResumeEngine(store).resume(run_id, filler.steps())
        assert done.status is RunStatus.COMPLETED
        damage += [f"{name} had other keys" for name, keys in filler.keys.items() if len(set(keys)) > 1]
        damage += [f"{name} ran again" for name in records if len(filler.keys[name]) > 1]
        return len(records), filler, damage + verify(store)


def pages_needed(tmp_path: Path) -> int:
    """Return by how many pages a run grows the database when there is room."""
    with open_store(f"sqlite:///{tmp_path / 'roomy.db'}") as store:
        disk, engine = Disk(store), ResumeEngine(store)
        run_id = engine.start_run("orders").run_id
        before = disk.used()
        engine.execute_workflow(run_id, Filler().steps())
        return disk.used() - before


def test_a_full_disk_is_a_clean_stop(tmp_path: Path) -> None:
    stopped_at, needed = set(), pages_needed(tmp_path)
    room = [number * (needed - 1) // times(short=6, long=60) for number in range(times(short=6, long=60))]
    for pages in room:
        completed, filler, damage = run_out_of_room(tmp_path, pages)
        assert damage == []
        assert sum(len(keys) - 1 for keys in filler.keys.values()) <= 1, "one step was under way"
        stopped_at.add(completed)
    tell(f"disk full: {len(room)} times, after {sorted(stopped_at)} of {STEPS} steps")
    assert len(stopped_at) > 2


def test_an_engine_that_ignores_a_full_disk_is_found_out(tmp_path: Path) -> None:
    with taken_out("write_errors_ignored"), open_store(f"sqlite:///{tmp_path / 'x.db'}") as store:
        disk, filler = Disk(store), Filler()
        engine = ResumeEngine(store)
        run_id = engine.start_run("orders").run_id
        disk.leave_room_for(PAGES_PER_STEP + 10)
        engine.execute_workflow(run_id, filler.steps())
        assert filler.told - {record.step_name for record in store.iter_steps(run_id)}, "nothing is missing"


@pytest.mark.parametrize("scene", ["sqlite"], indirect=True)
def test_a_locked_file_is_waited_for(scene: Scene) -> None:
    engine = ResumeEngine(scene.store)
    for number in range(4):
        engine.start_run("orders", run_id=f"run-{number}")
    holder = hold(scene, seconds=3)
    started = time.monotonic()
    pids = [scene.start("work", runs=[f"run-{number}"]) for number in range(3)]
    Client(scene.effects, pause_seconds=0).execute(engine, "run-3")
    waited = time.monotonic() - started
    for pid in [holder, *pids]:
        assert scene.processes.wait(pid) == 0, scene.processes.said()
    verdict = judge(scene.store, scene.effects, Doubts())
    assert verdict.damage == () and verdict.repeated == 0
    assert waited > 2, "the file was not locked"


@pytest.mark.parametrize("scene", ["sqlite"], indirect=True)
def test_without_a_timeout_the_lock_is_an_error(scene: Scene) -> None:
    holder = hold(scene, seconds=1)
    with (
        taken_out("no_waiting_for_the_lock"),
        open_store(scene.url) as store,
        pytest.raises(OperationalError, match="database is locked"),
    ):
        ResumeEngine(store).start_run("orders")
    assert scene.processes.wait(holder) == 0


def hold(scene: Scene, seconds: float) -> int:
    """Let another process lock the file; return its id once it does."""
    path = scene.url.removeprefix("sqlite:///")
    holder = scene.start("hold_write_lock", path=path, seconds=seconds)
    deadline = time.monotonic() + 30
    while not Effects(scene.effects_path).journal("locked"):
        assert time.monotonic() < deadline, scene.processes.said()
        time.sleep(0.01)
    return holder

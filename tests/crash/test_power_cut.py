"""A power cut at any moment: what a client was told is on the disk, and every run goes on from there."""

from __future__ import annotations

import _ctypes
import _sqlite3
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from resume_engine.core.audit import EventType
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.run import RunStatus
from resume_engine.core.step_record import StepStatus
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.crash.broken import VARIABLE
from tests.crash.effects import Effects
from tests.crash.jobs import finish
from tests.crash.oracle import Doubts, Verdict, judge, unfinished_runs
from tests.crash.power_cut import Cut, Disk, boundaries, syncs_of_steps
from tests.crash.processes import Processes
from tests.crash.recorded_disk import Move, Noted, RecordedDisk, load
from tests.crash.scale import schedule, tell, times
from tests.crash.workload import STEPS, Client

DATABASE = "engine.db"
TOLD = ("started", "acknowledged", "failed", "approved", "finished")


@dataclass(frozen=True)
class Story:
    """What a process of its own told its disk, and its clients; its files are still there."""

    folder: Path
    moves: Sequence[Move]


def record(processes: Processes, folder: Path, rounds: int, broken: str = "") -> Story:
    """Return so many rounds of a story."""
    names = {"path": DATABASE, "effects": "effects.db", "moves": "moves"}
    job = {key: str(folder / name) for key, name in names.items()}
    pid = processes.start("record", rounds=rounds, env={VARIABLE: broken}, **job)
    assert processes.wait(pid, 300) == 0, processes.said()
    return Story(folder, load(folder / "moves"))


def places(moves: Sequence[Move], chance: random.Random, count: int) -> Iterator[tuple[str, int]]:
    """Yield so many places to cut at, no place twice, all kinds of them in turn."""
    left = {kind: chance.sample(found, len(found)) for kind, found in boundaries(moves, DATABASE).items()}
    while count and any(left.values()):
        for kind, found in left.items():
            if found and count:
                count -= 1
                yield kind, found.pop()


@dataclass(frozen=True)
class Outcome:
    """Where a cut was, what it did, and what came of it."""

    kind: str
    disk: Disk
    told: int
    verdict: Verdict
    damage: Sequence[str]


def cut_off(kind: str, moves: Sequence[Move], chance: random.Random, path: Path) -> Outcome:
    """Cut the power behind the last of the moves, start again, and finish every run."""
    disk = Cut(moves, chance).disk()
    disk.put(path)
    effects, doubts = Effects(path / "effects.db"), Doubts()
    noted = [move for move in moves if isinstance(move, Noted)]
    effects.relive(noted)
    with open_store(f"sqlite:///{path / DATABASE}") as store:
        damage = [*store.settings_at_risk(), *forgotten(store, effects)]
        doubts.look(store)
        for run_id in unfinished_runs(store):
            finish(ResumeEngine(store), Client(effects, pause_seconds=0), effects, run_id)
        verdict = judge(store, effects, doubts)
    told = sum(move.kind in TOLD for move in noted)
    return Outcome(kind, disk, told, verdict, [*damage, *verdict.damage])


def forgotten(store: SqlCheckpointStore, effects: Effects) -> list[str]:
    """Return what clients were told of failures, decisions and ends, and is not on record."""
    known = {
        "failed": lambda run_id: any(s.status is StepStatus.FAILED for s in store.iter_steps(run_id)),
        "approved": lambda run_id: any(
            e.event_type == EventType.GATE_APPROVED for e in store.list_events(run_id)
        ),
        "finished": lambda run_id: (run := store.load_summary(run_id)) and run.status is RunStatus.COMPLETED,
    }
    return [
        f"forgotten: {entry.run_id} has {entry.kind}"
        for entry in effects.journal()
        if entry.kind in known and not known[entry.kind](entry.run_id)
    ]


def cut_often(moves: Sequence[Move], path: Path, chance: random.Random, cuts: int) -> Iterator[Outcome]:
    """Cut the power at so many places of one story; yield what came of each."""
    for number, (kind, place) in enumerate(places(moves, chance, cuts)):
        print(f"cut {number}: behind {place} of {len(moves)} moves ({kind})")
        yield cut_off(kind, moves[:place], chance, path / f"cut-{number}")


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return the figures of many cuts in a line."""
    disks, verdicts = [one.disk for one in outcomes], [one.verdict for one in outcomes]
    return (
        f"{len(outcomes)} power cuts {dict(Counter(one.kind for one in outcomes))}: un-synced moves: "
        f"{sum(d.dropped for d in disks)} dropped, {sum(d.torn for d in disks)} torn, "
        f"{sum(d.kept for d in disks)} kept; {sum(one.told for one in outcomes)} facts told, "
        f"{sum(v.doubts for v in verdicts)} steps in doubt, "
        f"{sum(v.repeated for v in verdicts)} effects repeated, "
        f"{sum(bool(one.damage) for one in outcomes)} databases damaged"
    )


@pytest.fixture(scope="module")
def story(session_processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The story of an engine with all its protections."""
    return record(session_processes, tmp_path_factory.mktemp("story"), times(short=2, long=6))


def test_what_was_noted_is_what_is_on_the_disk(story: Story) -> None:
    noted = Cut(story.moves, random.Random(0), keeping=1).disk().files
    assert noted == {DATABASE: (story.folder / DATABASE).read_bytes()}
    assert not list(story.folder.glob(f"{DATABASE}-*"))


def test_a_sqlite_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite3, "__file__", _ctypes.__file__)
    with pytest.raises(RuntimeError, match="without the names sqlite3_vfs_find"):
        RecordedDisk(DATABASE)


def test_no_power_cut_loses_what_a_client_was_told(story: Story, tmp_path: Path) -> None:
    cuts = times(short=25, long=200)
    outcomes = list(cut_often(story.moves, tmp_path, schedule("power cuts"), cuts))
    tell(summary(outcomes))
    assert [one.damage for one in outcomes if one.damage] == []
    # The faults did fire, at every kind of place: writes were dropped and torn, and steps left in doubt.
    assert len(outcomes) == cuts
    assert {one.kind for one in outcomes} == set(boundaries(story.moves, DATABASE))
    assert sum(one.disk.dropped for one in outcomes) > 0
    assert sum(one.disk.torn for one in outcomes) > 0
    assert sum(one.verdict.doubts for one in outcomes) > 0


def test_without_a_sync_at_each_commit_a_power_cut_loses_steps(
    session_processes: Processes, tmp_path: Path
) -> None:
    moves = record(session_processes, tmp_path, rounds=2, broken="no_sync_at_commit").moves
    damage: list[str] = []
    for outcome in cut_often(moves, tmp_path, schedule("no sync at a commit"), cuts=60):
        damage += outcome.damage
        if any("acknowledged and lost" in line for line in damage):
            return
    pytest.fail(f"no power cut lost anything but {damage}")


def test_a_step_is_brought_to_the_disk_by_one_sync(story: Story) -> None:
    syncs = syncs_of_steps(story.moves, DATABASE)
    # The last step is followed by the end of the run, which is a commit of its own.
    assert syncs == {**{name: {1} for name in STEPS[:-1]}, STEPS[-1]: {2}}

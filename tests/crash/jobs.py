"""What the processes do that are killed, stopped and raced against each other."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import event

from resume_engine.core import failpoints
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import ResumeBlockedError, ResumeEngineError
from resume_engine.core.failure_classifier import PermanentStepError, TransientStepError
from resume_engine.storage.open_store import open_store
from resume_engine.storage.remote_backend import RemoteCheckpointStore
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.synced_store import SyncedCheckpointStore
from tests.crash.broken import VARIABLE
from tests.crash.effects import Effects
from tests.crash.oracle import unfinished_runs
from tests.crash.recorded_disk import NotedEffects, RecordedDisk
from tests.crash.upgrade_job import upgrade
from tests.crash.workload import Client, declined, retried_after, undoable

Job = Mapping[str, Any]


def work(job: Job) -> None:
    """Finish the runs that are given, then, if asked, start new ones without end."""
    effects = Effects(job["effects"])
    client = Client(effects, pause_seconds=job.get("pause_seconds", 0.002))
    if "retry_seconds" in job:
        client = Client(effects, fails_first=TransientStepError, options=retried_after(job["retry_seconds"]))
    with open_store(job["url"]) as store:
        engine = ResumeEngine(store, lease_seconds=job.get("lease_seconds", 30))
        _work(engine, client, effects, job)


def _work(engine: ResumeEngine, client: Client, effects: Effects, job: Job) -> None:
    if job.get("up"):
        Path(job["up"]).touch()
    for run_id in job["runs"]:
        finish(engine, client, effects, run_id)
    number = 0
    while job.get("endless"):
        run_id = f"{job['name']}-{number}"
        engine.start_run("orders", run_id=run_id)
        effects.note("started", run_id)
        client.execute(engine, run_id)
        number += 1


def forward(job: Job) -> None:
    """Do the same in a database that is forwarded; without end or until all of it is on the control plane."""
    effects = Effects(job["effects"])
    remote = RemoteCheckpointStore(job["plane"], api_key=job["key"], retry_seconds=5)
    if job.get("die"):
        _die_at(remote, *job["die"])
    local = open_store(job["url"])
    with SyncedCheckpointStore(local, remote, poll_seconds=0.02, flush_seconds=0) as store:
        _work(ResumeEngine(store), Client(effects, pause_seconds=0.001), effects, job)
        assert store.wait_until_synced(60), store.pending()


def _die_at(remote: RemoteCheckpointStore, moment: str, nth: int) -> None:
    """Be killed before the control plane is told something for the nth time, or once it has answered."""
    call, told = remote._http.call, count(1)

    def dying(method: str, *arguments: Any, **options: Any) -> Any:
        is_it = method == "POST" and next(told) == nth
        if is_it and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = call(method, *arguments, **options)
        if is_it:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    remote._http.call = dying  # type: ignore[method-assign]


def lie_down(job: Job) -> None:
    """Do the same, but never stop in the middle of a heartbeat.

    A process that is stopped while it writes holds the lock of a SQLite file, and everybody waits for it:
    that is another matter than what it does when it wakes up.
    """
    quiet = threading.Lock()
    renew, reach = SqlCheckpointStore.renew_lease, failpoints.reach

    def renew_quietly(*args: Any) -> bool:
        with quiet:
            return renew(*args)

    def reach_quietly(name: str) -> None:
        with quiet:
            reach(name)

    SqlCheckpointStore.renew_lease = renew_quietly  # type: ignore[method-assign]
    failpoints.reach = reach_quietly
    work(job)


def finish(engine: ResumeEngine, client: Client, effects: Effects, run_id: str) -> None:
    """Execute or resume a run to its end; approve it where it waits for that."""
    try:
        client.execute(engine, run_id)
    except ResumeBlockedError:
        # It failed for good, or so many processes were killed in a step that a person must look; here is one.
        effects.note("parked", run_id)
        engine.grant_human_approval(run_id, "olga@example.com")
        effects.note("approved", run_id)
        client.execute(engine, run_id)


def insist(job: Job) -> None:
    """Finish the runs that are given, whatever happens meanwhile, as a worker does."""
    effects = Effects(job["effects"])
    client = Client(effects, pause_seconds=job["pause_seconds"])
    left = list(job["runs"])
    with open_store(job["url"]) as store:
        engine = ResumeEngine(store, lease_seconds=job["lease_seconds"])
        effects.note("up", left[0])
        while left:
            run_id = left.pop(0)
            try:
                client.execute(engine, run_id)
            except Exception as error:
                effects.note("error", run_id, nonce=type(error).__name__)
                left.append(run_id)
                time.sleep(0.1)


def race(job: Job) -> None:
    """Resume one run after the other at the same moment as the other processes do."""
    effects = Effects(job["effects"])
    client = Client(effects, pause_seconds=job["pause_seconds"])
    ending = Exception if os.environ.get(VARIABLE) else ResumeEngineError  # a broken engine ends as it likes
    with open_store(job["url"]) as store:
        engine = ResumeEngine(store, lease_seconds=30)
        for run_id in job["runs"]:
            effects.note("ready", run_id)
            with Path(job["starts"], run_id).open() as start:
                fcntl.flock(start, fcntl.LOCK_SH)
            try:
                outcome = client.execute(engine, run_id).status.value
            except ending as refused:
                outcome = type(refused).__name__
            effects.note("outcome", run_id, nonce=outcome)


def decide_and_resume(job: Job) -> None:
    """Approve the failure of a run, then resume it, as one who is killed somewhere on the way."""
    effects = Effects(job["effects"])
    with open_store(job["url"]) as store:
        engine = ResumeEngine(store)
        if job.get("up"):
            Path(job["up"]).touch()
        if job["kind"] == "compensation":
            engine.record_compensation(job["run"])
        else:
            engine.grant_human_approval(job["run"], "olga@example.com")
        effects.note("decided", job["run"])
        with suppress(PermanentStepError, ResumeBlockedError):
            engine.resume(job["run"], declined(effects, job["run"], job["kind"]))


def race_decided(job: Job) -> None:
    """Resume one run at the same moment as the other process does."""
    effects = Effects(job["effects"])
    steps = declined(effects, job["run"], job["kind"])
    with open_store(job["url"]) as store:
        engine = ResumeEngine(store)
        effects.note("ready", job["run"])
        with Path(job["start"]).open() as start:
            fcntl.flock(start, fcntl.LOCK_SH)
        try:
            outcome = engine.resume(job["run"], steps).status.value
        except Exception as error:
            outcome = type(error).__name__
        effects.note("outcome", job["run"], nonce=outcome)


def fork_in_a_step(job: Job) -> None:
    """Fork in the middle of a step, and let the child go on as if it were the parent."""
    effects = Effects(job["effects"])
    client = Client(effects, pause_seconds=0)
    children: list[int] = []

    def charge(state: dict[str, Any], key: str) -> dict[str, Any]:
        children.append(os.fork())
        time.sleep(0.2 if children == [0] else 0.4)  # the child is first
        return {"charge": effects.act(job["run"], "charge", key)}

    steps = client.steps(job["run"])
    steps[1] = replace(steps[1], fn=charge)
    with open_store(job["url"]) as store:
        try:
            ResumeEngine(store, lease_seconds=0.3).execute_workflow(job["run"], steps)
        finally:
            outcome = type(sys.exc_info()[1]).__name__
            effects.note("outcome", job["run"], "child" if children == [0] else "parent", outcome)
            if children == [0]:
                os._exit(0)
            os.waitpid(children[0], 0)


def fail(job: Job) -> None:
    """Execute a run of five steps that fails for good behind them."""
    with open_store(job["url"]) as store:
        _fail(ResumeEngine(store), Effects(job["effects"]), job["run"])


def roll_back(job: Job) -> None:
    """Roll the runs back that are given, then, if asked, let new ones fail and roll them back without end."""
    effects = Effects(job["effects"])
    with open_store(job["url"]) as store:
        engine = ResumeEngine(store)
        if job.get("up"):
            Path(job["up"]).touch()
        for run_id in job["runs"]:
            _roll_back(engine, effects, run_id)
        number = 0
        while job.get("endless"):
            run_id = f"{job['name']}-{number}"
            _fail(engine, effects, run_id)
            _roll_back(engine, effects, run_id)
            number += 1


def _fail(engine: ResumeEngine, effects: Effects, run_id: str) -> None:
    engine.start_run("orders", run_id=run_id)
    with suppress(PermanentStepError):
        engine.execute_workflow(run_id, undoable(effects, run_id))


def _roll_back(engine: ResumeEngine, effects: Effects, run_id: str) -> None:
    for _ in range(2):
        with suppress(ResumeBlockedError):
            engine.roll_back(run_id, undoable(effects, run_id), requested_by="olga@example.com", note="test")
            return
        # So many processes were killed in one compensation that a person must look; here is one.
        engine.grant_human_approval(run_id, "olga@example.com")


def record(job: Job) -> None:
    """Record what the disk is told while runs complete, fail, are approved and go on."""
    disk = RecordedDisk(job["path"])
    effects = NotedEffects(job["effects"], disk.moves)
    with open_store(f"sqlite:///{job['path']}") as store:
        event.listen(store.engine, "connect", _copy_the_log_often)
        store.close()  # the setting is of a connection
        for number in range(job["rounds"]):
            _fail_and_go_on(ResumeEngine(store), effects, str(number))
    disk.save(job["moves"])


def _copy_the_log_often(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA wal_autocheckpoint=50").close()


def _fail_and_go_on(engine: ResumeEngine, effects: Effects, name: str) -> None:
    """Execute three runs, of which one fails for now and one for good, then resume those."""
    for fails_first in (TransientStepError, PermanentStepError, None):
        run_id = f"{name}-{fails_first.__name__ if fails_first else 'plain'}"
        engine.start_run("orders", run_id=run_id)
        effects.note("started", run_id)
        try:
            Client(effects, pause_seconds=0, fails_first=fails_first).execute(engine, run_id)
        except (TransientStepError, PermanentStepError):
            effects.note("failed", run_id, "charge")
    for run_id in unfinished_runs(engine.store):
        finish(engine, Client(effects, pause_seconds=0), effects, run_id)


def hold_write_lock(job: Job) -> None:
    """Keep everybody else from writing to a SQLite file for some seconds."""
    with closing(sqlite3.connect(job["path"], isolation_level=None, timeout=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        Effects(job["effects"]).note("locked", "")
        time.sleep(job["seconds"])
        connection.execute("COMMIT")


JOBS: Mapping[str, Callable[[Job], None]] = {
    "work": work,
    "forward": forward,
    "lie_down": lie_down,
    "insist": insist,
    "race": race,
    "fail": fail,
    "roll_back": roll_back,
    "record": record,
    "hold_write_lock": hold_write_lock,
    "fork_in_a_step": fork_in_a_step,
    "upgrade": upgrade,
    "decide_and_resume": decide_and_resume,
    "race_decided": race_decided,
}

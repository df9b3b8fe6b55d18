"""A process that upgrades a database and kills itself at one of its statements."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import event

from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore


def upgrade(job: Mapping[str, Any]) -> None:
    """Upgrade; write what was found and made, and how many statements it took, to `result`.

    `die_at` is the statement before which the process is killed, counted from one; the moment before COMMIT
    is one more, and the moment after it another. With `dies_once` only the first of several processes that
    come so far is killed: it leaves that file behind.
    """
    moments = count(1)
    if job.get("wait_for"):
        _wait_for(Path(job["wait_for"]))
    with open_store(job["url"], check_schema=False) as store:
        passed = _watch(store, moments, _killer(job))
        found = store.upgrade_schema()
        passed()
    line = json.dumps({"found": found, "statements": next(moments) - 3}) + "\n"
    with open(job["result"], "a", encoding="utf-8") as result:
        result.write(line)


def _wait_for(start: Path) -> None:
    """Say that this process is ready, then wait until nobody holds the file any more."""
    start.with_suffix(f".{os.getpid()}").touch()
    with start.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)


def _killer(job: Mapping[str, Any]) -> Callable[[int], None]:
    def kill(moment: int) -> None:
        if moment != job.get("die_at") or not _is_the_one(job.get("dies_once")):
            return
        os.kill(os.getpid(), signal.SIGKILL)

    return kill


def _is_the_one(left_behind: str | None) -> bool:
    if left_behind is None:
        return True
    try:
        os.close(os.open(left_behind, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _watch(store: SqlCheckpointStore, moments: count[int], kill: Callable[[int], None]) -> Callable[[], None]:
    def moment(*_: Any) -> None:
        kill(next(moments))

    event.listen(store.engine, "before_cursor_execute", moment)
    event.listen(store.engine, "commit", moment)
    return moment

"""A worker in a process of its own, for test_worker.py: `python worker_process.py URL EFFECTS NAME`.

Every step appends one line to the file EFFECTS: that is its effect on the world outside the database.
The process ends when nothing has been left to resume for a while.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from resume_engine import ResumeEngine
from resume_engine.storage.open_store import open_store
from resume_engine.worker import Backoff, Worker

STEPS = ("reserve", "charge", "confirm")
QUIET_PASSES = 5


def effect(path: str, step: str) -> Callable[[dict[str, Any], str], dict[str, Any]]:
    """Return a step function that leaves a line `order:step:key` in `path`."""

    def act(state: dict[str, Any], key: str) -> dict[str, Any]:
        line = f"{state['order']}:{step}:{key}\n".encode()
        # One write to a file opened for appending is not torn apart by other processes.
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)
        return {step: True}

    return act


def steps(path: str) -> list[tuple[str, Callable[[dict[str, Any], str], dict[str, Any]]]]:
    """Return the workflow whose effects go to `path`."""
    return [(name, effect(path, name)) for name in STEPS]


def work(url: str, path: str, name: str) -> int:
    """Resume until there is nothing left; return how many runs this worker took."""
    with open_store(url) as store:
        worker = Worker(
            ResumeEngine(store, owner=name),
            {"orders": steps(path)},
            name=name,
            poll_seconds=0.02,
            backoff=Backoff(base_seconds=0, cap_seconds=0),
        )
        taken, quiet = 0, 0
        while quiet < QUIET_PASSES:
            found = worker.run_once()
            taken += found
            quiet = 0 if found else quiet + 1
            if not found:
                time.sleep(0.02)
        return taken


if __name__ == "__main__":
    print(work(*sys.argv[1:4]))

"""What a resume costs until the next step is called, beside reading and decoding what was recorded.

And what a program pays for importing the library, beside bare Python.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from statistics import median
from typing import Any

from bench.databases import Shelf
from bench.measure import Timings, table
from bench.steps import NAMES, bare_commit
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.step import Step
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore

STEPS = 1_000
_READ = "SELECT * FROM step_records WHERE run_id = ? AND status = 'completed' ORDER BY sequence"
# What the process holds in memory, in kB; the peak that the system counts may be that of who started it.
_RESIDENT = "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmRSS')))"


def report(shelf: Shelf, rounds: int) -> str:
    """Measure both databases and the import, and return the tables."""
    header = [
        f"resume at {STEPS:,} steps",
        "read rows ms",
        "resume ms",
        "to reading",
        "bare commit ms",
        "less it",
    ]
    lines = []
    for backend in shelf.backends:
        with open_store(shelf.scratch_url(backend, "resume")) as store:
            lines.append(_line(NAMES[backend], store, rounds))
    return f"{table(header, lines)}\n\n{_import_table(rounds)}"


def _line(name: str, store: SqlCheckpointStore, rounds: int) -> list[str]:
    read, resumed, bare = Timings(), Timings(), Timings()
    workflow = _Stopped(store)
    write_bare, end = bare_commit(store)
    try:
        for number in range(rounds + 1):
            taken = (_timed(workflow.read), workflow.resume(), _timed(write_bare))
            if number:  # the first one opens connections
                for timings, milliseconds in zip((read, resumed, bare), taken, strict=True):
                    timings.milliseconds.append(milliseconds)
    finally:
        workflow.close()
        end()
    rest = median(r - b for r, b in zip(resumed.milliseconds, bare.milliseconds, strict=True))
    figures = [f"{read.p50:.2f}", f"{resumed.p50:.2f}", f"{resumed.p50 / read.p50:.2f}"]
    return [name, *figures, f"{bare.p50:.2f}", f"{rest / read.p50:.2f}"]


class _Stopped:
    """A run whose last step fails however often it is resumed."""

    def __init__(self, store: SqlCheckpointStore) -> None:
        """Record the steps before the failing one."""
        self._engine = ResumeEngine(store)
        self._steps = [Step(f"step_{number}", _work) for number in range(STEPS)]
        self._steps.append(Step("failing", self._fail))
        self._called = 0.0
        self._run_id = self._engine.start_run("bench.resume").run_id
        self._raw = store.engine.raw_connection()
        self._read = _READ if store.engine.dialect.name == "sqlite" else _READ.replace("?", "%s")
        self._resumed(self._engine.execute_workflow, initial_input={"case": 1})

    def _fail(self, _state: dict[str, Any], _key: str) -> dict[str, Any]:
        self._called = time.perf_counter()
        raise ConnectionError("still away")

    def _resumed(self, execute: Any, **given: Any) -> float:
        started = time.perf_counter()
        try:
            execute(self._run_id, self._steps, **given)
        except ConnectionError:
            return (self._called - started) * 1000
        raise AssertionError("the last step was to fail")

    def resume(self) -> float:
        """Resume; return the milliseconds until the failing step was called."""
        return self._resumed(self._engine.resume)

    def read(self) -> None:
        """Read and decode the completed steps by the driver alone."""
        cursor = self._raw.cursor()
        cursor.execute(self._read, (self._run_id,))
        names = [column[0] for column in cursor.description]
        output = names.index("output_json")
        found = [json.loads(row[output]) for row in cursor.fetchall()]
        self._raw.rollback()
        assert len(found) == STEPS

    def close(self) -> None:
        """Give the driver's connection back."""
        self._raw.close()


def _work(_state: dict[str, Any], key: str) -> dict[str, Any]:
    return {"cursor": key[:8], "checked": True, "text": "x" * 200}


def _timed(act: Any) -> float:
    started = time.perf_counter()
    act()
    return (time.perf_counter() - started) * 1000


def _import_table(rounds: int) -> str:
    bare, ours = [], []
    for _ in range(max(3, rounds // 2)):
        bare.append(_started(""))
        ours.append(_started("import resume_engine; "))
    took = median(b[0] - a[0] for a, b in zip(bare, ours, strict=True))
    more = median(b[1] - a[1] for a, b in zip(bare, ours, strict=True))
    return table(["over bare Python", "ms", "MB"], [["import resume_engine", f"{took:.0f}", f"{more:.1f}"]])


def _started(before: str) -> tuple[float, float]:
    """Return the milliseconds of a Python process that runs `before`, and the megabytes it holds then."""
    started = time.perf_counter()
    asked = subprocess.run(
        [sys.executable, "-c", before + _RESIDENT], check=True, capture_output=True, text=True
    )
    return (time.perf_counter() - started) * 1000, float(asked.stdout) / 1024

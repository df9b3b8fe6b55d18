"""A process that is killed while it rolls a run back; the other cases are those of every store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from resume_engine.core.run import RunStatus
from resume_engine.core.step_record import StepKind
from resume_engine.storage.open_store import open_store

_SCRIPT = """
import os, sys
from resume_engine import ResumeEngine, Step
from resume_engine.core.failure_classifier import PermanentStepError
from resume_engine.storage.open_store import open_store

url, sink, command = sys.argv[1:]

def undo(index):
    def call(state, key):
        handle = os.open(sink, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{index} {key}\\n".encode())
        os.close(handle)
        return {}
    return call

def last(state, key):
    raise PermanentStepError("declined")

steps = [Step(f"s{i}", lambda state, key: {}, compensate=undo(i)) for i in range(5)] + [Step("last", last)]
with open_store(url) as store:
    engine = ResumeEngine(store)
    if command == "fail":
        engine.start_run("billing", run_id="run-1")
        try:
            engine.execute_workflow("run-1", steps)
        except PermanentStepError:
            pass
    else:
        engine.roll_back("run-1", steps, requested_by="olga", note="why")
"""


def test_a_process_that_is_killed_again_and_again_undoes_everything_once_by_key(tmp_path: Path) -> None:
    url, sink = f"sqlite:///{tmp_path / 'x.db'}", tmp_path / "sink"
    # Each go gets one compensation further, or none at all.
    points = [
        "before_intent:1",
        "after_intent:1",
        "before_effect:1",
        "after_effect:1",
        "before_commit:1",
        "after_commit:1",
        "after_effect:2",
        "before_effect:2",
        "after_commit:1",
    ]
    kills = 0
    for point in ["", *points, ""]:
        command = "fail" if point == "" and kills == 0 else "roll_back"
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, url, str(sink), command],
            env={**os.environ, "RESUME_ENGINE_FAILPOINT": point, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == (-signal.SIGKILL if point else 0), done.stderr
        kills += bool(point)
        with open_store(url) as store:
            status = store.load_summary("run-1").status  # type: ignore[union-attr]
        assert (status is RunStatus.CANCELLED) == (command == "roll_back" and point == "")
    lines = [line.split() for line in sink.read_text().splitlines()]
    order = [int(index) for index, _ in lines]
    assert order == sorted(order, reverse=True) and set(order) == {0, 1, 2, 3, 4}
    assert len({key for _, key in lines}) == 5 and len(lines) <= 5 + kills
    with open_store(url) as store:
        undone = [r for r in store.iter_steps("run-1") if r.kind is StepKind.COMPENSATION]
    assert [record.step_index for record in undone] == [4, 3, 2, 1, 0]

"""What releases recorded once replays to the same bytes wherever it is replayed, and to nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from resume_engine.core.codec import from_json
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import ReplayDivergenceError
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests import golden_traces
from tests.golden_traces import never

CASES = {case["run"]["run_id"]: case for case in golden_traces.cases()}
WANTED = {run_id: case["sha256"] for run_id, case in CASES.items()}
SURROUNDINGS = [
    {"PYTHONHASHSEED": "1", "TZ": "Pacific/Kiritimati", "LC_ALL": "C"},
    {"PYTHONHASHSEED": "4242", "TZ": "America/St_Johns", "PYTHONUTF8": "0", "LC_ALL": "POSIX"},
    {"PYTHONHASHSEED": "random", "TZ": "Europe/Berlin", "LC_ALL": "tr_TR.UTF-8", "PYTHONOPTIMIZE": "1"},
]


def test_the_files_are_what_they_were_when_they_were_written() -> None:
    assert {path.stem for path in golden_traces.FOLDER.glob("*.json")} >= {"0.2.0", "0.3.0"}
    for run_id, case in CASES.items():
        assert hashlib.sha256(case["trace"].encode()).hexdigest() == WANTED[run_id]
        assert case["trace"].startswith(f"{run_id}\n")


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind with every golden run."""
    if request.param == "sqlite":
        address = f"sqlite:///{tmp_path / 'x.db'}"
    else:
        address = request.getfixturevalue("postgres_url")
    with open_store(address) as store:
        golden_traces.load(store)
    return address


def test_replays_give_the_same_bytes_in_every_surrounding(url: str) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, golden_traces.__file__, url],
            env={**os.environ, **around, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for around in SURROUNDINGS
    ]
    for process in running:
        assert json.loads(process.communicate(timeout=120)[0]) == WANTED


@pytest.fixture(scope="module")
def golden_store() -> Any:
    """A store in memory with every golden run."""
    with open_store("sqlite:///:memory:") as store:
        golden_traces.load(store)
        yield store


def changed_input(case: dict[str, Any]) -> dict[str, Any]:
    recorded = case["initial_input"] or case["run"]["steps"][0]["input_data"]
    found: dict[str, Any] = from_json(recorded)
    return found


def drifted(case: dict[str, Any], mutant: str) -> tuple[list[str], dict[str, Any] | None]:
    """Return the step names and the initial input of a workflow that drifted."""
    names = list(case["workflow"])
    if mutant == "reordered":
        return [names[1], names[0], *names[2:]], None
    if mutant == "renamed":
        return ["other", *names[1:]], None
    if mutant == "removed":
        return names[1:], None
    if mutant == "added":
        return ["other", *names], None
    if mutant == "changed input":
        return names, changed_input(case) | {"order": "A-18"}
    return names, changed_input(case) | {"amount": "12.50"}  # of another type


MUTANTS = ("reordered", "renamed", "removed", "added", "changed input", "changed type")


@pytest.mark.parametrize("mutant", MUTANTS)
def test_drift_is_refused_before_anything_happens(golden_store: SqlCheckpointStore, mutant: str) -> None:
    engine = ResumeEngine(golden_store)
    refused = 0
    for run_id, case in CASES.items():
        if not any(step["status"] == "completed" for step in case["run"]["steps"]):
            continue
        names, initial_input = drifted(case, mutant)
        before = golden_store.load_summary(run_id)
        with pytest.raises(ReplayDivergenceError, match=r"diverges at step 0 "):
            engine.replay_run(run_id, [(name, never) for name in names], initial_input=initial_input)
        assert golden_store.load_summary(run_id) == before
        refused += 1
    assert refused >= 12

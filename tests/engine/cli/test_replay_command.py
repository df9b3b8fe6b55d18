"""`resume-engine replay`: its answers, and its exit codes for scripts."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from resume_engine.cli import main
from resume_engine.core.engine import ResumeEngine
from resume_engine.storage.open_store import open_store
from tests.factories import passing

MODULE = """
from resume_engine import Step

def never(state, key):
    raise AssertionError("a replay called a step")

async def later(state, key):
    raise AssertionError("a replay called a step")

class Flows:
    billing = [("fetch", never), ("charge", later)]

STEPS = Flows.billing
RENAMED = [("fetch", never), ("pay", never)]
NOT_STEPS = [never]
NUMBER = 7

def made():
    return STEPS
"""


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with one run, and a module with workflows in the current folder."""
    name = f"flows_{os.urandom(4).hex()}"  # a module is imported once for each process
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    address = f"sqlite:///{tmp_path / 'x.db'}"
    with open_store(address) as store:
        engine = ResumeEngine(store)
        engine.start_run("billing", run_id="run-1")
        steps = [("fetch", passing({"rows": 3})), ("charge", passing({"paid": True}))]
        engine.execute_workflow("run-1", steps, initial_input={"order": 7})
        (tmp_path / "wanted").write_text(hashlib.sha256(engine.get_audit_log("run-1").encode()).hexdigest())
    (tmp_path / "module").write_text(name)
    return address


def replay(url: str, workflow: str, *, run_id: str = "run-1") -> Result:
    source = workflow.replace("MODULE", Path("module").read_text())
    arguments = ["replay", run_id, "--workflow", source, "--database", url]
    result: Result = CliRunner().invoke(main, arguments, prog_name="resume-engine")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.mark.parametrize("attribute", ["STEPS", "Flows.billing", "made"])
def test_a_workflow_that_fits_gives_the_recorded_trace(url: str, attribute: str) -> None:
    result = replay(url, f"MODULE:{attribute}")
    assert result.exit_code == 0, result.output
    assert "Identical: run run-1 (billing), 2 completed steps." in result.stdout
    assert Path("wanted").read_text() in result.stdout


def test_a_workflow_that_does_not_fit_shows_where_it_parts(url: str) -> None:
    result = replay(url, "MODULE:RENAMED")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "Replay of run run-1 diverges at step 1 'charge': the record has 'charge', the workflow has 'pay'",
        "  fetch",
        "- charge",
        "+ pay",
    ]


@pytest.mark.parametrize(
    ("workflow", "message"),
    [
        ("MODULE", "write it as module:steps"),
        (":STEPS", "write it as module:steps"),
        ("no_such_module:STEPS", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("broken:STEPS", "ZeroDivisionError"),
        ("MODULE:NOTHING", "has no attribute 'NOTHING'"),
        ("MODULE:NOT_STEPS", "steps: item 0 must be"),
        ("MODULE:NUMBER", "cannot be loaded"),
    ],
)
def test_a_workflow_that_cannot_be_read_is_a_matter_of_usage(url: str, workflow: str, message: str) -> None:
    result = replay(url, workflow)
    assert result.exit_code == 2 and message in result.stderr and result.stdout == ""


def test_a_run_or_database_that_is_not_there_is_a_matter_of_usage(url: str) -> None:
    result = replay(url, "MODULE:STEPS", run_id="none")
    assert result.exit_code == 2 and "Run not found: none" in result.stderr
    result = replay("sqlite:///nowhere.db", "MODULE:STEPS")
    assert result.exit_code == 2 and "There is no database" in result.stderr
    result = replay("postgresql+psycopg2://nobody@127.0.0.1:9/none", "MODULE:STEPS")
    assert result.exit_code == 2 and "The database cannot be used" in result.stderr


def test_the_current_folder_is_where_modules_are_looked_for(url: str, tmp_path: Path) -> None:
    """As an installed command, whose own folder is elsewhere."""
    source = f"{Path('module').read_text()}:STEPS"
    environment: dict[str, Any] = {**os.environ, "DATABASE_URL": url}
    script = "from resume_engine.cli import main; main(prog_name='resume-engine')"
    paths = [path for path in sys.path if path not in ("", str(tmp_path))]
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, "replay", "run-1", "--workflow", source],
        env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Identical" in done.stdout

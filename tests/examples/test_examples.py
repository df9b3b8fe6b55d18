"""Every example runs as its docstring says, and prints what it promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from flask import Flask

from resume_engine.core.permissions import Role
from tests.provision.app_fixtures import SYSTEM
from tests.provision.browser_fixtures import LiveServer
from webapp.extensions import services

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

PROMISED = {
    "durable_steps": [
        "failed: Email sent but ledger write failed",
        "blocked: compensation",
        "compensated: {'recalled': 'Dear Ms Okafor'}",
        "{'booked': True} ['Dear Ms Okafor']",
        "completed",
    ],
    "langgraph_graph": [
        "failed: 503: no healthy upstream",
        "three sources about tides, two charts",
        "completed",
    ],
    "quickstart": [
        "stopped at step 1: Invalid API key",
        "a person is needed: human_approval",
        "completed: {'mailed': 'r-",
        '"step_name":"send_receipt"',
    ],
    "remote_pipeline": [
        "step 7 of 10 failed: 503: no healthy upstream",
        "resumed at step 7: completed, 11 attempts on record",
        "see it: http://127.0.0.1:",
    ],
    "restart_versus_resume": ["50 steps, failure at step 47", "97", "51", "saved: 46 steps"],
}


def run(example: Path, folder: Path, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", str(example)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT / "engine")} | environ,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def control_plane(app: Flask, live_server: LiveServer) -> dict[str, str]:
    """What an example has to know of a control plane."""
    made = services(app).keys.create("examples", Role.RUNNER, actor=SYSTEM)
    return {"ORCHESTRATEOS_API_URL": f"{live_server.url}/api", "ORCHESTRATEOS_API_KEY": made.text}


def test_every_example_is_tested() -> None:
    assert {example.stem for example in EXAMPLES} == set(PROMISED)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_an_example_runs_and_prints_what_it_promises(
    example: Path, tmp_path: Path, control_plane: dict[str, str]
) -> None:
    printed = run(example, tmp_path, **control_plane)
    for words in PROMISED[example.stem]:
        assert words in printed
    assert f"python examples/{example.name}" in example.read_text(encoding="utf-8")


def test_the_langgraph_example_runs_each_completed_node_once(tmp_path: Path) -> None:
    printed = run(ROOT / "examples" / "langgraph_graph.py", tmp_path)
    assert [printed.count(f"{node} runs") for node in ("research", "compute", "write")] == [1, 2, 1]


def test_restart_repeats_46_steps_and_resume_none(tmp_path: Path) -> None:
    """47 calls until the failure, then 50 again, against 47 and then 4."""
    table = [
        line.split() for line in run(ROOT / "examples" / "restart_versus_resume.py", tmp_path).splitlines()
    ]
    assert ["steps", "executed", "97", "51"] in table
    assert [row[-2:] for row in table if row[:1] == ["of"]] == [["46", "0"]]

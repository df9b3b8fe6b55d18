"""`audit`: events shown, filtered and exported."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from resume_engine.core.actor import Actor
from resume_engine.core.decisions import DecisionKind
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.permissions import Role
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.engine.cli.terminal import Terminal
from tests.factories import RunFactory


def test_events_are_shown_and_filtered(
    terminal: Terminal, runs: RunFactory, store: SqlCheckpointStore
) -> None:
    assert terminal.run("audit", "show").output == "There are no events yet.\n"
    run, other = runs.cleared(note="key rotated"), runs.completed()
    shown = terminal.run("audit", "show").output
    assert "gate.approved" in shown and "key rotated" in shown and other.run_id in shown
    assert other.run_id not in terminal.run("audit", "show", run.run_id).output
    assert "run.started" not in terminal.run("audit", "show", "--kind", "gate.").output
    assert "gate.approved" in terminal.run("audit", "show", "--actor", "olga@example.com").output
    assert terminal.run("audit", "show", "--actor", "nobody").output == "No event matches.\n"
    assert "There are older events" in terminal.run("audit", "show", "--limit", "1").output


def test_the_exported_trace_is_the_engines_byte_for_byte(
    terminal: Terminal, runs: RunFactory, store: SqlCheckpointStore, tmp_path: Path
) -> None:
    run = runs.completed(initial_input={"name": "Zoë"})
    trace = ResumeEngine(store).get_audit_log(run.run_id)
    assert terminal.run("audit", "export", run.run_id).output == trace
    path = tmp_path / "trace.txt"
    result = terminal.run("audit", "export", run.run_id, "--output", str(path))
    assert path.read_bytes() == trace.encode()
    assert (result.stdout, result.stderr) == ("", f"Wrote 5 lines to {path}.\n")


def test_exported_events_hold_the_steps_and_no_formula(
    terminal: Terminal, runs: RunFactory, store: SqlCheckpointStore
) -> None:
    run = runs.blocked()
    runs.engine.decide(
        run.run_id, DecisionKind.HUMAN_APPROVAL, Actor(name="=1+1", role=Role.OPERATOR), note="@SUM(A1)"
    )
    lines = terminal.run("audit", "export", run.run_id, "--format", "jsonl").output.splitlines()
    kinds = [json.loads(line)["event_type"] for line in lines]
    assert kinds == ["run.started", "step.recorded", "step.recorded", "gate.approved", "audit.exported"]
    table = terminal.run("audit", "export", run.run_id, "--format", "csv").output
    rows = list(csv.DictReader(io.StringIO(table)))
    assert {(row["actor"], row["note"]) for row in rows if row["event_type"] == "gate.approved"} == {
        ("'=1+1", "'@SUM(A1)")
    }
    everything = terminal.run("audit", "export", "--as", "rita").output.splitlines()
    last = json.loads(everything[-1])
    assert (last["event_type"], last["actor"], last["channel"]) == ("audit.exported", "rita", "cli")

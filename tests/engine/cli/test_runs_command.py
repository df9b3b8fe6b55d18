"""`runs`: lists, filters, and one run with what to do next."""

from __future__ import annotations

import json

import pytest

from resume_engine.core.run_summary import RunState
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.engine.cli.terminal import Terminal
from tests.factories import RunFactory


def test_runs_in_every_state_are_listed(terminal: Terminal, runs: RunFactory) -> None:
    made = runs.every_state()
    lines = terminal.run("runs", "list").output.splitlines()
    for state, run in made.items():
        [line] = [found for found in lines if run.run_id in found]
        assert f" {state} " in line
    assert lines[-1] == "Next: resume-engine gates list"
    for state in RunState:
        shown = terminal.run("runs", "list", "--state", state.value).output
        assert [run_id for run_id in (run.run_id for run in made.values()) if run_id in shown] == [
            made[state.value].run_id
        ]


def test_filters_and_pages(terminal: Terminal, runs: RunFactory) -> None:
    made = [runs.completed(workflow=f"flow {number}", environment="staging") for number in range(5)]
    failed = runs.blocked("partial", workflow="other")

    def listed(*options: str) -> list[str]:
        lines = terminal.run("runs", "list", "--json", *options).output.splitlines()
        return [json.loads(line)["run_id"] for line in lines]

    newest_first = [failed.run_id, *(run.run_id for run in reversed(made))]
    assert listed() == newest_first
    assert listed("--workflow", "flow 3") == [made[3].run_id]
    assert listed("--environment", "staging") == newest_first[1:]
    assert listed("--failure", "partial") == listed("--blocked-by", "compensation") == [failed.run_id]
    assert listed("--search", "flow") == newest_first[1:]
    assert listed("--search", made[2].run_id[:13]) == [made[2].run_id]
    assert listed("--since", "1h") == newest_first and listed("--since", "0m") == []
    shown = terminal.run("runs", "list", "--limit", "4").output
    cursor = shown.split("--cursor ")[1].split()[0]
    assert listed("--limit", "4", "--cursor", cursor) == newest_first[4:]
    assert terminal.run("runs", "list", "--workflow", "none").output == "No run matches.\n"
    assert "cursor: is not one of ours" in terminal.fails("runs", "list", "--cursor", "nonsense")


def test_a_run_is_shown_with_what_to_do_next(terminal: Terminal, runs: RunFactory) -> None:
    run = runs.blocked("permanent", environment="prod")
    shown = terminal.run("runs", "show", run.run_id).output
    for words in (
        f"Run {run.run_id}: claims_intake (prod)",
        "State     blocked",
        "Progress  1/3 steps completed, goes on at step 1",
        "Failure   1:1 step 1 step_1: permanent, PermanentStepError: Invalid API key",
        "Waits for human_approval + prod_resume_ack since",
        f"Next: resume-engine gates approve {run.run_id}",
        f"      resume-engine gates ack {run.run_id}",
    ):
        assert words in shown
    assert "a running worker resumes it" in terminal.run("runs", "show", runs.cleared().run_id).output
    assert "Next" not in terminal.run("runs", "show", runs.completed().run_id).output


def test_a_long_run_shows_its_latest_steps(terminal: Terminal, runs: RunFactory) -> None:
    run = runs.with_many_steps(120)
    shown = terminal.run("runs", "show", run.run_id).output
    assert "(100 earlier records are not shown" in shown
    assert "step_119" in shown and "step_99" not in shown
    whole = json.loads(terminal.run("runs", "show", run.run_id, "--json").output)
    assert len(whole["steps"]) == 120


@pytest.mark.parametrize(
    "arguments",
    [
        ("runs", "show"),
        ("runs", "show", "--json"),
        ("audit", "show"),
        ("audit", "export"),
        ("gates", "approve"),
        ("gates", "reject", "--note", "x"),
    ],
    ids=" ".join,
)
def test_an_unknown_run_is_one_sentence(
    terminal: Terminal, store: SqlCheckpointStore, arguments: tuple[str, ...]
) -> None:
    assert "Run not found: none" in terminal.fails(*arguments, "none")

"""`gates`: the queue, and each decision."""

from __future__ import annotations

import pytest

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.run import RunStatus
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.engine.cli.terminal import Terminal
from tests.factories import RunFactory, steps
from tests.stores.changes import summary


def test_the_queue_names_the_next_command(terminal: Terminal, runs: RunFactory) -> None:
    assert terminal.run("gates", "list").output == "Nothing waits for a person.\n"
    run = runs.blocked("partial", environment="prod", message="mail sent")
    shown = terminal.run("gates", "list").output
    assert "compensation + prod_resume_ack" in shown and "1:1" in shown and "mail sent" in shown
    assert f"Next: resume-engine gates compensate {run.run_id}" in shown
    assert run.run_id in terminal.run("gates", "list", "--kind", "prod_resume_ack", "--json").output
    assert "Nothing that matches" in terminal.run("gates", "list", "--kind", "human_approval").output
    assert "Nothing that matches" in terminal.run("gates", "list", "--workflow", "none").output


@pytest.mark.parametrize(
    ("kind", "command", "options", "words"),
    [
        ("permanent", "approve", ("--note", "key rotated"), "Approved"),
        (
            "partial",
            "compensate",
            ("--result", '{"refund": "r-1"}', "--note", "by hand"),
            "Compensation recorded",
        ),
        ("permanent", "reject", ("--reason", "sent twice"), "Rejected"),
    ],
)
def test_a_decision_is_recorded_as_the_command_lines(
    terminal: Terminal,
    store: SqlCheckpointStore,
    runs: RunFactory,
    kind: str,
    command: str,
    options: tuple[str, ...],
    words: str,
) -> None:
    run_id = runs.blocked(kind).run_id
    shown = terminal.run(
        "gates", command, run_id, "--as", "olga@example.com", "--failure", "1:1", *options
    ).output
    assert shown.startswith(f"{words}: run {run_id}, failure 1:1, by olga@example.com at 2")
    [decided] = store.list_decisions(run_id)
    assert (decided.actor, decided.channel, decided.role) == ("olga@example.com", "cli", "operator")
    assert decided.note == options[-1]
    assert decided.result == ({"refund": "r-1"} if command == "compensate" else None)
    event = store.list_events(run_id)[-1]
    assert event.event_type.startswith("gate.") and event.channel == "cli"
    if command == "reject":
        assert "cancelled for good" in shown and summary(store, run_id).status is RunStatus.CANCELLED
    else:
        assert "No gate of the run is closed now" in shown
        assert ResumeEngine(store).resume(run_id, steps(3)).status is RunStatus.COMPLETED


def test_two_gates_are_worked_as_the_output_says(
    terminal: Terminal, store: SqlCheckpointStore, runs: RunFactory
) -> None:
    run_id = runs.blocked("permanent", environment="prod").run_id
    shown = terminal.run("gates", "approve", run_id).output
    assert "still waits for prod_resume_ack" in shown
    [command] = [line.removeprefix("Next: ") for line in shown.splitlines() if line.startswith("Next: ")]
    assert command == f"resume-engine gates ack {run_id}"
    assert "No gate of the run is closed now" in terminal.run(*command.split()[1:]).output
    assert summary(store, run_id).blocked_by == ()


def test_the_system_user_decides_when_nobody_is_named(
    terminal: Terminal, store: SqlCheckpointStore, runs: RunFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "deploy")
    run_id = runs.blocked().run_id
    terminal.run("gates", "approve", run_id)
    assert store.list_decisions(run_id)[0].actor == "deploy"

    def unknown() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", unknown)
    result = terminal.run("gates", "approve", run_id, code=2)
    assert "add --as NAME" in result.stderr


def test_refusals_are_one_sentence(terminal: Terminal, store: SqlCheckpointStore, runs: RunFactory) -> None:
    decided = runs.cleared().run_id
    assert "already decided (human_approval) by olga" in terminal.fails("gates", "approve", decided)
    blocked = runs.blocked("permanent").run_id
    assert "there is nothing to decide by compensation" in terminal.fails("gates", "compensate", blocked)
    assert "only prod resumes are acknowledged" in terminal.fails("gates", "ack", blocked)
    assert "was for failure 0:0" in terminal.fails("gates", "approve", blocked, "--failure", "0:0")
    assert "actor: say who decides" in terminal.fails("gates", "approve", blocked, "--as", " ")
    assert "note: a rejection" in terminal.fails("gates", "reject", blocked, "--note", " ")
    assert summary(store, blocked).blocked_by and store.list_decisions(blocked) == []

"""The command line: what each command does, prints and answers."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from resume_engine import __version__
from resume_engine.cli import main
from resume_engine.cli.command_group import ENTRY_POINT_GROUP
from resume_engine.cli.printing import one_line
from resume_engine.core.actor import Actor
from resume_engine.core.decisions import DecisionKind
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.permissions import Role
from resume_engine.core.run import RunStatus
from resume_engine.core.run_summary import RunState
from resume_engine.storage.open_store import open_store
from resume_engine.storage.schema import HEAD_REVISION
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory, steps
from tests.stores.changes import summary

DATA = Path(__file__).resolve().parents[2] / "data"
HOSTILE = "\x1b[2J\x1b]0;owned\x07 line\nline \u202e\u2028 \x00"


class Terminal:
    """Runs commands against one database."""

    def __init__(self, url: str) -> None:
        self.url = url

    def run(self, *arguments: str, code: int = 0, database: str | None = None, **options: Any) -> Result:
        """Run a command and check its exit code; a traceback is never an answer."""
        given = [*arguments, "--database", database or self.url]
        result = CliRunner().invoke(main, given, prog_name="resume-engine", **options)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    def fails(self, *arguments: str, **options: Any) -> str:
        """Run a command that must fail with one sentence on stderr, and return it."""
        result = self.run(*arguments, code=1, **options)
        assert result.stdout == "" and result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
        return result.stderr.strip()


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """A terminal and a database that is not there yet."""
    return Terminal(f"sqlite:///{tmp_path / 'x.db'}")


@pytest.fixture
def store(terminal: Terminal) -> Any:
    """The terminal's database, opened."""
    with open_store(terminal.url) as opened:
        yield opened


@pytest.fixture
def runs(store: SqlCheckpointStore) -> RunFactory:
    """Runs in any state in the terminal's database."""
    return RunFactory(store)


# As a whole


def test_version_and_help() -> None:
    assert CliRunner().invoke(main, ["--version"]).output.strip() == f"resume-engine, version {__version__}"
    shown = CliRunner().invoke(main, ["-h"]).output
    for name in ("audit", "db", "gates", "runs", "smoke-test"):
        assert f"\n  {name} " in shown


WITHOUT_DATABASE = {("audit", "keygen"), ("audit", "verifier"), ("db", "generate-key"), ("policy", "show")}


def commands(group: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(group, click.Group):
        return [path]
    return [leaf for name, command in group.commands.items() for leaf in commands(command, (*path, name))]


@pytest.mark.parametrize("path", commands(main), ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*path, "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 5
    if path not in WITHOUT_DATABASE:
        assert "--database" in result.output and "DATABASE_URL" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("runs",),
        ("runs", "list", "--state", "odd"),
        ("runs", "list", "--limit", "0"),
        ("runs", "list", "--since", "soon"),
        ("runs", "list", "--since", "７d"),
        ("runs", "show"),
        ("gates", "reject", "run-1"),
        ("gates", "compensate", "run-1", "--result", "not json"),
        ("gates", "compensate", "run-1", "--result", "[1]"),
        ("audit", "export", "--format", "trace"),
        ("audit", "export", "--format", "pdf"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_explained_with_exit_code_2(terminal: Terminal, arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, list(arguments), env={"DATABASE_URL": terminal.url})
    assert result.exit_code == 2 and result.stderr.startswith("Usage: ")


@pytest.mark.parametrize(
    "arguments",
    [("runs", "list"), ("runs", "show", "x"), ("gates", "list"), ("gates", "approve", "x"), ("db", "verify")],
    ids=" ".join,
)
def test_a_mistyped_file_is_not_created(
    terminal: Terminal, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    assert "There is no database at" in terminal.fails(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_address_comes_from_the_environment_too(store: SqlCheckpointStore, terminal: Terminal) -> None:
    result = CliRunner().invoke(main, ["runs", "list"], env={"DATABASE_URL": terminal.url})
    assert result.output == "There are no runs yet.\n"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://x/y", "mysql is not supported"),
        ("nonsense", "is not a database URL"),
        ("postgresql://nobody:secret@127.0.0.1:1/x", "Connection refused"),
    ],
)
def test_a_wrong_address_is_one_sentence(terminal: Terminal, url: str, words: str) -> None:
    sentence = terminal.fails("runs", "list", database=url)
    assert words in sentence and "secret" not in sentence


def test_a_damaged_file_is_one_sentence(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("this is no database at all" * 100)
    assert "file is not a database" in terminal.fails("runs", "list")


# Contributed commands


class Contributed:
    """Stands in for what packages declare in the entry-point group."""

    def __init__(self, *points: EntryPoint) -> None:
        self._points = points

    def __call__(self, *, group: str) -> tuple[EntryPoint, ...]:
        assert group == ENTRY_POINT_GROUP
        return self._points


@click.command()
def hello() -> None:
    """Say hello."""
    click.echo("hello")


def contribute(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    points = [EntryPoint(name, value, ENTRY_POINT_GROUP) for name, value in values.items()]
    monkeypatch.setattr("resume_engine.cli.command_group.entry_points", Contributed(*points))


def test_a_contributed_command_is_listed_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("contributed_module")
    module.hello = hello
    monkeypatch.setitem(sys.modules, "contributed_module", module)
    contribute(monkeypatch, hello="contributed_module:hello")
    assert CliRunner().invoke(main, ["hello"]).output == "hello\n"
    assert "Say hello." in CliRunner().invoke(main, ["--help"]).output


@pytest.mark.parametrize("arguments", [[], ["--port", "1"], ["--help"], ["more", "words"]])
def test_a_command_whose_packages_are_missing_says_which_extra_brings_them(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    contribute(monkeypatch, dashboard="package_that_is_not_there.cli:dashboard")
    result = CliRunner().invoke(main, ["dashboard", *arguments])
    assert result.exit_code == 1
    assert "resume_engine[dashboard]" in result.stderr and "package_that_is_not_there" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "dashboard" in CliRunner().invoke(main, ["--help"]).output


def test_our_own_names_are_not_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    contribute(monkeypatch, runs="package_that_is_not_there:runs")
    assert "List runs" in CliRunner().invoke(main, ["runs", "--help"]).output


def test_something_that_is_no_command_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    contribute(monkeypatch, odd="json:dumps")
    result = CliRunner().invoke(main, ["odd"])
    assert result.exit_code == 1 and "json:dumps is no command" in result.stderr


# db


def test_upgrade_creates_then_changes_nothing(terminal: Terminal) -> None:
    first = terminal.run("db", "upgrade").output
    assert f"from empty to {HEAD_REVISION}" in first and "Next: resume-engine db verify" in first
    assert "already; nothing was changed" in terminal.run("db", "upgrade").output
    assert "is sound" in terminal.run("db", "verify").output


def test_an_older_database_is_refused_upgraded_and_used(terminal: Terminal, tmp_path: Path) -> None:
    shutil.copy(DATA / "resume_engine_0_2_0.db", tmp_path / "x.db")
    for arguments in (("runs", "list"), ("gates", "list"), ("audit", "show")):
        assert "resume-engine db upgrade --database URL" in terminal.fails(*arguments)
    verified = terminal.run("db", "verify", code=1)
    assert "the schema is at 0.2.0" in verified.stdout and "1 finding(s)" in verified.stderr
    assert f"from 0.2.0 (without a version) to {HEAD_REVISION}" in terminal.run("db", "upgrade").output
    assert "is sound" in terminal.run("db", "verify").output
    assert "billing" in terminal.run("runs", "list").output


def test_verify_names_what_is_wrong(terminal: Terminal, store: SqlCheckpointStore, runs: RunFactory) -> None:
    run = runs.blocked()
    with store.writing() as conn:
        conn.exec_driver_sql("UPDATE runs SET next_sequence = 9, blocked_by = 'nonsense'")
        conn.exec_driver_sql("DROP INDEX ix_decisions_decided")
    result = terminal.run("db", "verify", code=1)
    assert "index on decisions is missing: ix_decisions_decided" in result.stdout
    with store.writing() as conn:
        conn.exec_driver_sql("CREATE INDEX ix_decisions_decided ON decisions (decided_at)")
    found = terminal.run("db", "verify", code=1).stdout
    assert f"count their records wrongly: {run.run_id}" in found
    assert f"closed gate that fits no failure: {run.run_id}" in found


# runs


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


# gates


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


# audit


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
    runs.engine.decide(run.run_id, DecisionKind.HUMAN_APPROVAL, runs_actor("=1+1"), note="@SUM(A1)")
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


def runs_actor(name: str) -> Actor:
    return Actor(name=name, role=Role.OPERATOR)


# smoke-test


def test_the_smoke_test_leaves_a_completed_run(terminal: Terminal, store: SqlCheckpointStore) -> None:
    shown = terminal.run("smoke-test").output
    assert shown.count("\nok  ") + shown.startswith("ok  ") == 7 and "All well" in shown
    assert "resume-engine smoke test" in terminal.run("runs", "list", "--state", "completed").output


def test_the_smoke_test_needs_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "All well" in CliRunner().invoke(main, ["smoke-test"]).output
    assert list(tmp_path.iterdir()) == []


# Text of others on our terminal


def test_recorded_text_cannot_move_the_cursor_or_forge_a_line(
    terminal: Terminal, store: SqlCheckpointStore, runs: RunFactory
) -> None:
    name = HOSTILE.replace("\x00", "")
    run = runs.blocked("permanent", workflow=name, message=HOSTILE, environment="prod")
    runs.engine.decide(run.run_id, DecisionKind.HUMAN_APPROVAL, runs_actor(name), note=name)
    outputs = [
        terminal.run("runs", "list").output,
        terminal.run("runs", "show", run.run_id).output,
        terminal.run("gates", "list").output,
        terminal.run("audit", "show").output,
        terminal.fails("gates", "approve", run.run_id),
        terminal.fails("runs", "show", HOSTILE.replace("\x00", "")),
    ]
    for output in outputs:
        unsafe = [character for character in output if character != "\n" and one_line(character) != character]
        assert unsafe == []
        assert "\\x1b[2J" in output


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü ✓ 🧾", "plain ü ✓ 🧾"),
        ("a\nb\tc\r", "a\\x0ab\\x09c\\x0d"),
        ("\x1b[31m\x7f\x85", "\\x1b[31m\\x7f\\x85"),
        ("\u202e\u2028\ufeff", "\\u202e\\u2028\\ufeff"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
    ],
)
def test_unsafe_characters_are_escaped(text: str, shown: str) -> None:
    assert one_line(text) == shown
    assert one_line("x" * 50, 10) == "x" * 9 + "…"

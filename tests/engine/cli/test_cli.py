"""The command line as a whole: help, wrong usage, wrong addresses, and a test of all of it."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from resume_engine import __version__
from resume_engine.cli import main
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.engine.cli.terminal import Terminal

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


# smoke-test


def test_the_smoke_test_leaves_a_completed_run(terminal: Terminal, store: SqlCheckpointStore) -> None:
    shown = terminal.run("smoke-test").output
    assert shown.count("\nok  ") + shown.startswith("ok  ") == 7 and "All well" in shown
    assert "resume-engine smoke test" in terminal.run("runs", "list", "--state", "completed").output


def test_the_smoke_test_needs_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "All well" in CliRunner().invoke(main, ["smoke-test"]).output
    assert list(tmp_path.iterdir()) == []

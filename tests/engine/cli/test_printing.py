"""Text of others on our terminal."""

from __future__ import annotations

import pytest

from resume_engine.cli.printing import one_line
from resume_engine.core.actor import Actor
from resume_engine.core.decisions import DecisionKind
from resume_engine.core.permissions import Role
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.engine.cli.terminal import Terminal
from tests.factories import RunFactory

HOSTILE = "\x1b[2J\x1b]0;owned\x07 line\nline \u202e\u2028 \x00"


def test_recorded_text_cannot_move_the_cursor_or_forge_a_line(
    terminal: Terminal, store: SqlCheckpointStore, runs: RunFactory
) -> None:
    name = HOSTILE.replace("\x00", "")
    run = runs.blocked("permanent", workflow=name, message=HOSTILE, environment="prod")
    runs.engine.decide(
        run.run_id, DecisionKind.HUMAN_APPROVAL, Actor(name=name, role=Role.OPERATOR), note=name
    )
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

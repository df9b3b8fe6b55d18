"""`db`: making, upgrading and verifying a database."""

from __future__ import annotations

import shutil
from pathlib import Path

from resume_engine.storage.schema import HEAD_REVISION
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.engine.cli.terminal import Terminal
from tests.factories import RunFactory

DATA = Path(__file__).resolve().parents[2] / "data"


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

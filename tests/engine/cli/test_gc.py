"""`resume-engine gc`: what it says and what it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from resume_engine.cli import main
from resume_engine.storage.forwarding_marks import ForwardingMarks
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory, ago, at


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A database with an old run of each end, and a new one."""
    url = f"sqlite:///{tmp_path / 'x.db'}"
    monkeypatch.setenv("DATABASE_URL", url)
    with open_store(url) as opened:
        factory = RunFactory(opened)
        with at(ago(days=100)):
            factory.completed()
            factory.cancelled()
            factory.blocked()
        factory.completed()
        yield opened


def gc(*arguments: str) -> Result:
    result: Result = CliRunner().invoke(main, ["gc", *arguments], prog_name="resume-engine")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def runs_in(store: SqlCheckpointStore) -> int:
    with store.reading() as conn:
        found: int = conn.exec_driver_sql("SELECT count(*) FROM runs").scalar_one()
    return found


def test_a_dry_run_says_what_would_go(store: SqlCheckpointStore) -> None:
    result = gc("--older-than", "90d", "--dry-run")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Would delete 2 runs finished before ")
    assert "with 5 step records and 1 decision." in result.stdout
    assert "without --dry-run deletes them" in result.stdout
    assert runs_in(store) == 4


def test_it_says_what_it_deleted_and_who_did_it_is_on_the_audit(store: SqlCheckpointStore) -> None:
    result = gc("--older-than", "90d", "--as", "cron")
    assert result.stdout.startswith("Deleted 2 runs finished before ") and "Next:" not in result.stdout
    assert runs_in(store) == 2
    shown = CliRunner().invoke(main, ["audit", "show", "--kind", "run.collected"])
    assert shown.stdout.count("cron") == 2  # one for completed, one for cancelled runs
    assert gc("--older-than", "90d").stdout.startswith("No run was finished before ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing option '--older-than'"),
        (("--older-than", "90"), "is not a duration; write 30m, 24h or 7d"),
        (("--older-than", "-1d"), "is not a duration"),
        (("--older-than", "forever"), "is not a duration"),
    ],
)
def test_a_length_of_time_is_needed(
    store: SqlCheckpointStore, arguments: tuple[str, ...], message: str
) -> None:
    result = gc(*arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert runs_in(store) == 4


def test_what_is_not_forwarded_yet_is_kept_unless_asked_for(store: SqlCheckpointStore) -> None:
    ForwardingMarks(store).begin("http://plane/api")
    result = gc("--older-than", "90d")
    assert result.stdout.startswith(
        "Kept 2 finished runs: not on the control plane yet.\nNo run was finished"
    )
    assert runs_in(store) == 4
    assert gc("--older-than", "90d", "--unforwarded").stdout.startswith("Deleted 2 runs")
    assert runs_in(store) == 2

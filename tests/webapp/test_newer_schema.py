"""A database of a newer release: nothing of this one opens it, and nothing is written to it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from resume_engine import PostgresCheckpointStore, SQLiteCheckpointStore
from resume_engine.cli import main
from resume_engine.core.errors import SchemaTooNewError
from resume_engine.storage.open_store import open_store
from resume_engine.storage.schema import metadata
from tests.factories import RunFactory
from tests.legacy_database import rows_of
from webapp import Settings, create_app

FUTURE = "0099_from_the_future"
SECRET = "0123456789abcdef0123456789abcdef"
COMMANDS = (
    "audit export RUN",
    "audit seal",
    "audit show",
    "audit verify",
    "dashboard --port FREE",
    "db rotate-keys",
    "db upgrade",
    "db verify",
    "gates approve RUN --as olga@example.com",
    "gates list",
    "gc --older-than 1d",
    "keys create runner --role runner",
    "keys list",
    "runs list",
    "runs show RUN",
    "serve --port FREE",
    "serve --port FREE --workers 2",
    "users add olga@example.com",
    "users list",
)


@pytest.fixture(params=["sqlite", "postgres"])
def newer(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a database with runs whose schema this release does not know."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'runs.db'}"
    else:
        url = request.getfixturevalue("postgres_url")
    with open_store(url) as store:
        RunFactory(store).every_state()
        with store.writing() as conn:
            conn.execute(text(f"UPDATE alembic_version SET version_num = '{FUTURE}'"))
    return url


def content(url: str) -> Any:
    """Return all there is: of a file each byte."""
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        return [(file.name, file.read_bytes()) for file in sorted(path.parent.glob(f"{path.name}*"))]
    return {table: rows_of(url, table) for table in (*metadata.tables, "alembic_version")}


def test_every_command_refuses_it_in_one_sentence(newer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", SECRET)
    monkeypatch.setenv("RESUME_ENGINE_ENCRYPTION_KEYS", "")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    before = content(newer)
    for command in COMMANDS:
        result = CliRunner().invoke(main, [*command.replace("FREE", port).split(), "--database", newer])
        assert result.exit_code in (1, 3), (command, result.output, result.exception)
        assert isinstance(result.exception, SystemExit), (command, result.exception)
        assert result.stdout == "", command
        assert result.stderr.count("\n") == 1 and FUTURE in result.stderr, (command, result.stderr)
        assert "Install the newer release of resume_engine." in result.stderr, command
        assert content(newer) == before, command


def test_the_library_and_the_application_refuse_it(newer: str) -> None:
    before = content(newer)
    store = SQLiteCheckpointStore if newer.startswith("sqlite") else PostgresCheckpointStore
    for opens in (store, open_store, lambda url: create_app(Settings(database_url=url))):
        with pytest.raises(SchemaTooNewError, match=f"{FUTURE}.*Install the newer release"):
            opens(newer)
    assert content(newer) == before

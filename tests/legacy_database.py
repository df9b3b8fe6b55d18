"""The database that release 0.2.0 left in `tests/data`, as a file and as a database of PostgreSQL."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text

from resume_engine.storage import schema
from resume_engine.storage.schema_version import KNOWN_REVISIONS

_DATA = Path(__file__).parent / "data"
LEGACY_DATABASE = _DATA / "resume_engine_0_2_0.db"
LEGACY_TRACES: dict[str, str] = json.loads(
    (_DATA / "resume_engine_0_2_0_traces.json").read_text(encoding="utf-8")
)
_MIGRATIONS = Path(schema.__file__).parent / "migrations"


def run_id(number: int) -> str:
    """Return the id of a run of that database; `tests/data/make_0_2_0_database.py` says which is which."""
    return f"0200{number:04d}-0000-4000-8000-000000000000"


def alembic_config() -> Config:
    """Return what Alembic needs to know."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config


def rows_of(url: str, table: str) -> list[dict[str, Any]]:
    """Return every row of a table, in the order of its first column."""
    engine = create_engine(url)
    with engine.connect() as conn:
        found = [dict(row._mapping) for row in conn.execute(text(f"SELECT * FROM {table} ORDER BY 1"))]
    engine.dispose()
    return found


def legacy_rows(table: str) -> list[dict[str, Any]]:
    """Return the rows that 0.2.0 wrote."""
    return rows_of(f"sqlite:///{LEGACY_DATABASE}", table)


def load_into_postgres(url: str) -> None:
    """Make the database look as if 0.2.0 had written it: its two tables, its rows, no version table."""
    engine = create_engine(url)
    with engine.begin() as conn:
        config = alembic_config()
        config.attributes["connection"] = conn
        command.upgrade(config, KNOWN_REVISIONS[0])
        conn.execute(text("DROP TABLE alembic_version"))
        conn.execute(text("SET TIME ZONE 'UTC'"))
        for table in ("runs", "step_records"):
            for row in legacy_rows(table):
                names = ", ".join(f'"{name}"' for name in row)
                marks = ", ".join(f":{name}" for name in row)
                conn.execute(text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), row)
        conn.execute(text("SELECT setval('step_records_id_seq', (SELECT max(id) FROM step_records))"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def legacy_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a database of 0.2.0, not upgraded."""
    if request.param == "sqlite":
        shutil.copy(LEGACY_DATABASE, tmp_path / "legacy.db")
        return f"sqlite:///{tmp_path / 'legacy.db'}"
    url: str = request.getfixturevalue("empty_postgres_url")
    load_into_postgres(url)
    return url

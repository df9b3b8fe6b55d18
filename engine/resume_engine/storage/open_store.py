"""Open the store that a database URL names."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from resume_engine.core.errors import InvalidValueError
from resume_engine.storage.payload_codec import PayloadCodec
from resume_engine.storage.sql_store import SqlCheckpointStore

DEFAULT_DATABASE_URL = "sqlite:///resume_engine.db"


DATABASE_ERRORS = (SQLAlchemyError,)
"""What a database that is away, damaged or refuses raises; `describe_database_error` puts it into words."""


def open_store(
    database_url: str, *, check_schema: bool = True, codec: PayloadCodec | None = None
) -> SqlCheckpointStore:
    """Return a SQLite or PostgreSQL store; raise `InvalidValueError` for any other URL.

    `codec` says how payloads are kept, else `RESUME_ENGINE_ENCRYPTION_KEYS` does. Without `check_schema`
    the schema is neither created nor checked: for upgrading and verifying only.
    """
    try:
        backend = make_url(database_url).get_backend_name()
    except ArgumentError as problem:
        raise InvalidValueError("DATABASE_URL", "is not a database URL; use sqlite:///file.db") from problem
    if backend == "sqlite":
        from resume_engine.storage.sqlite_backend import SQLiteCheckpointStore

        return SQLiteCheckpointStore(database_url, check_schema=check_schema, codec=codec)
    if backend in ("postgres", "postgresql"):
        from resume_engine.storage.postgres_backend import PostgresCheckpointStore

        return PostgresCheckpointStore(database_url, check_schema=check_schema, codec=codec)
    raise InvalidValueError(
        "DATABASE_URL",
        f"{backend} is not supported; use sqlite:///file.db or postgresql+psycopg2://user@host/db",
    )


def missing_file(database_url: str) -> str | None:
    """Return the path of the SQLite file that a URL names when there is none, else None."""
    try:
        url = make_url(database_url)
    except ArgumentError:
        return None
    path = url.database
    if url.get_backend_name() != "sqlite" or path in (None, "", ":memory:") or path.startswith("file:"):
        return None
    return None if Path(path).exists() else path


def describe_database_error(error: Exception) -> str:
    """Return the database's own words in one line, without statement and parameters."""
    cause = getattr(error, "orig", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__

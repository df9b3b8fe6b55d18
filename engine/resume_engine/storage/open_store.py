"""Open the store that a database URL names."""

from __future__ import annotations

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from resume_engine.core.errors import InvalidValueError
from resume_engine.storage.sql_store import SqlCheckpointStore

DEFAULT_DATABASE_URL = "sqlite:///resume_engine.db"


def open_store(database_url: str) -> SqlCheckpointStore:
    """Return a SQLite or PostgreSQL store; raise `InvalidValueError` for any other URL."""
    try:
        backend = make_url(database_url).get_backend_name()
    except ArgumentError as problem:
        raise InvalidValueError("DATABASE_URL", "is not a database URL; use sqlite:///file.db") from problem
    if backend == "sqlite":
        from resume_engine.storage.sqlite_backend import SQLiteCheckpointStore

        return SQLiteCheckpointStore(database_url)
    if backend in ("postgres", "postgresql"):
        from resume_engine.storage.postgres_backend import PostgresCheckpointStore

        return PostgresCheckpointStore(database_url)
    raise InvalidValueError(
        "DATABASE_URL",
        f"{backend} is not supported; use sqlite:///file.db or postgresql+psycopg2://user@host/db",
    )

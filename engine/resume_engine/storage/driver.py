"""Statements that go straight to the database driver, and errors that mean a lost connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError


@contextmanager
def driver_connection(engine: Engine) -> Iterator[Any]:
    """Lend a connection of the engine's pool as the driver made it.

    Driver errors come out as SQLAlchemy's, so that callers need to know one kind; a connection that was
    lost is not lent again.
    """
    lent = engine.raw_connection()
    try:
        yield lent.driver_connection
    except engine.dialect.loaded_dbapi.Error as error:
        lost = engine.dialect.is_disconnect(error, lent, None)
        if lost:
            lent.invalidate(error)
        raise DBAPIError.instance(
            "a direct write", None, error, engine.dialect.loaded_dbapi.Error, connection_invalidated=lost
        ) from error
    finally:
        lent.close()


def connection_was_lost(error: DBAPIError) -> bool:
    """Return whether the database went away, so that a write may or may not have happened."""
    return error.connection_invalidated

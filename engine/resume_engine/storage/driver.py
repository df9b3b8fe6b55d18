"""Statements that go straight to the database driver, and errors that mean a lost connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, OperationalError

# What PostgreSQL answers while it goes down, comes up or cuts a connection (classes 08 and 57P).
_AWAY = ("08", "57P")
_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


@contextmanager
def driver_connection(engine: Engine) -> Iterator[Any]:
    """Lend a connection of the engine's pool as the driver made it.

    Driver errors come out as SQLAlchemy's, so that callers need to know one kind; a connection that was
    lost is not lent again.
    """
    driver_error = engine.dialect.loaded_dbapi.Error
    try:
        lent = engine.raw_connection()
    except driver_error as error:
        raise _translated(error, driver_error, lost=True) from error
    try:
        yield lent.driver_connection
    except driver_error as error:
        lost = engine.dialect.is_disconnect(error, lent, None)
        if lost:
            lent.invalidate(error)
        raise _translated(error, driver_error, lost=lost) from error
    finally:
        lent.close()


def _translated(error: Exception, driver_error: type[Exception], *, lost: bool) -> BaseException:
    return DBAPIError.instance("a direct write", None, error, driver_error, connection_invalidated=lost)


def asked_again(read: Callable[_Given, _Found]) -> Callable[_Given, _Found]:
    """Let a read be made once more when its connection was lost, as by a restart of the server."""

    @wraps(read)
    def ask(*args: _Given.args, **kwargs: _Given.kwargs) -> _Found:
        try:
            return read(*args, **kwargs)
        except DBAPIError as error:
            if not connection_was_lost(error):
                raise
        return read(*args, **kwargs)

    return ask


def connection_was_lost(error: DBAPIError) -> bool:
    """Return whether the database went away, so that a write may or may not have happened.

    That it could not be reached in the first place counts too: it is worth while to try again.
    """
    if error.connection_invalidated:
        return True
    # Errors that PostgreSQL itself reports carry a code; None means that its library met one.
    code = getattr(error.orig, "pgcode", "")
    return isinstance(error, OperationalError) and (code is None or code.startswith(_AWAY))

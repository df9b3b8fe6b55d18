"""Statements that go straight to the database driver, and errors that mean a lost connection."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, PoolProxiedConnection
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError

from resume_engine.storage.fork_safety import leave_connections_in_children

TRUSTED_SECONDS = 1.0
"""A connection that was used so short a time ago is not asked whether it lives."""
_KEPT_CONNECTIONS = 10

# What PostgreSQL answers while it goes down, comes up or cuts a connection (classes 08 and 57P).
_AWAY = ("08", "57P")
_ASKED_AGAIN_AFTER_SECONDS = (0.0, 0.1, 0.3, 0.6)
_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


class DirectConnections:
    """Connections for direct statements, kept open and lent without the questions that a pool asks.

    Driver errors come out as SQLAlchemy's, so that callers need to know one kind; a connection that was
    lost is not lent again. One that lay idle for a while is asked whether it lives when `ping` says how.
    With `keep` off each is the pool's own, and goes back to it.
    """

    def __init__(self, engine: Engine, *, keep: bool, ping: Callable[[Any], object] | None = None) -> None:
        self._engine = engine
        self._keep = keep
        self._ping = ping
        self._error: Any = engine.dialect.loaded_dbapi.Error
        self._idle: deque[_Lent] = deque()
        leave_connections_in_children(self)

    def run(self, work: Callable[[Any, Any, set[str]], _Found]) -> _Found:
        """Return what `work` returns, given a connection, its cursor and what was prepared on it."""
        lent = self._borrow()
        try:
            found = work(lent.connection, lent.cursor, lent.prepared)
        except self._error as error:
            lost = self._engine.dialect.is_disconnect(error, lent.connection, None)
            self._give_back(lent, lost=lost)
            raise _translated(error, self._error, lost=lost) from error
        except BaseException:
            self._give_back(lent)
            raise
        self._give_back(lent)
        return found

    def close(self) -> None:
        """Close the connections that nobody uses."""
        while self._idle:
            self._idle.pop().close()

    def leave(self) -> object:
        """Forget the connections, all of them open still, and return them."""
        idle, self._idle = self._idle, deque()
        return idle

    def _borrow(self) -> _Lent:
        while self._idle:
            try:
                lent = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if self._lives(lent):
                return lent
            self.close()  # those that lay idle even longer will have been cut too
        try:
            return _Lent(self._engine.raw_connection(), detached=self._keep)
        except self._error as error:
            raise _translated(error, self._error, lost=True) from error

    def _lives(self, lent: _Lent) -> bool:
        if self._ping is None or time.monotonic() - lent.idle_since < TRUSTED_SECONDS:
            return True
        try:
            self._ping(lent.connection)
        except self._error:
            lent.close()
            return False
        return True

    def _give_back(self, lent: _Lent, *, lost: bool = False) -> None:
        if lost or not self._keep or len(self._idle) >= _KEPT_CONNECTIONS:
            lent.close(lost=lost)
            return
        if self._ping is not None:
            lent.idle_since = time.monotonic()
        self._idle.append(lent)


class _Lent:
    """A connection with its cursor, taken out of the pool's hands if it is `detached`."""

    def __init__(self, borrowed: PoolProxiedConnection, *, detached: bool) -> None:
        connection: Any = borrowed.driver_connection
        self.connection = connection
        self.cursor = connection.cursor()
        self.prepared: set[str] = set()
        self.idle_since = 0.0
        if detached:
            borrowed.detach()
        self._borrowed = borrowed

    def close(self, *, lost: bool = False) -> None:
        self.cursor.close()
        if lost:
            self._borrowed.invalidate()
        else:
            self._borrowed.close()


def _translated(error: Exception, driver_error: Any, *, lost: bool) -> BaseException:
    return DBAPIError.instance("a direct write", None, error, driver_error, connection_invalidated=lost)


def asked_again(read: Callable[_Given, _Found]) -> Callable[_Given, _Found]:
    """Let a read be made again, for about a second, while its connection is lost, as by a restart."""

    @wraps(read)
    def ask(*args: _Given.args, **kwargs: _Given.kwargs) -> _Found:
        for seconds in _ASKED_AGAIN_AFTER_SECONDS:
            try:
                return read(*args, **kwargs)
            except DBAPIError as error:
                if not connection_was_lost(error):
                    raise
            time.sleep(seconds)
        return read(*args, **kwargs)

    return ask


class AskingConnection(Connection):
    """A connection for single statements that read, which are asked again on another when it was lost.

    For an engine that commits by itself: no transaction hangs on the connection.
    """

    @asked_again
    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Return what a statement finds."""
        if self.invalidated:
            self.rollback()
        return super().execute(*args, **kwargs)


def connection_was_lost(error: DBAPIError) -> bool:
    """Return whether the database went away, so that a write may or may not have happened.

    That it could not be reached in the first place counts too: it is worth while to try again.
    """
    if error.connection_invalidated:
        return True
    # Errors that PostgreSQL itself reports carry a code; None means that its library met one. What loses its
    # connection in the middle of an answer has no class of its own, only the one above all others.
    code = getattr(error.orig, "pgcode", "")
    return type(error) in (OperationalError, DatabaseError) and (code is None or code.startswith(_AWAY))

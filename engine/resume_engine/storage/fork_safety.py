"""Connections must not be used on both sides of a fork: each process would read the other's answers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakSet

from sqlalchemy import Engine


class HasEngines(Protocol):
    """Whatever speaks to a database through engines."""

    @property
    def engines(self) -> Sequence[Engine]:
        """Return every engine that is spoken through."""
        ...


class HoldsConnections(Protocol):
    """Whatever keeps connections of its own beside an engine's pool."""

    def leave(self) -> object:
        """Forget the connections, all of them open still, and return them."""
        ...


_stores: WeakSet[HasEngines] = WeakSet()
_holders: WeakSet[HoldsConnections] = WeakSet()
_left_to_the_parent: list[Any] = []


def renew_connections_in_children(store: HasEngines) -> None:
    """Let every child that this process forks open connections of its own to the databases of `store`."""
    _stores.add(store)


def leave_connections_in_children(holder: HoldsConnections) -> None:
    """Let every child that this process forks do without the connections that `holder` keeps."""
    _holders.add(holder)


def _leave_connections() -> None:
    _left_to_the_parent.extend(holder.leave() for holder in list(_holders))
    for store in list(_stores):
        for engine in store.engines:
            # Kept for ever: closing one here would end the parent's session, or drop its locks on a file.
            _left_to_the_parent.append(engine.pool)
            engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_connections)

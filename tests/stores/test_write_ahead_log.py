"""A SQLite file is turned to WAL mode, also while others turn it."""

from __future__ import annotations

import sqlite3

import pytest

from resume_engine.storage import sqlite_backend


class BusyFile:
    """A cursor whose file is taken for so many calls, or that fails otherwise."""

    def __init__(self, *, taken: int, code: int = sqlite3.SQLITE_BUSY) -> None:
        self.left = taken
        self.code = code
        self.calls = 0

    def execute(self, _: str) -> None:
        self.calls += 1
        if self.left:
            self.left -= 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = self.code
            raise error


def test_it_is_tried_until_the_others_are_done() -> None:
    cursor = BusyFile(taken=3)
    sqlite_backend._use_write_ahead_log(cursor)  # type: ignore[arg-type]
    assert cursor.calls == 4


def test_it_is_given_up_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_backend, "BUSY_TIMEOUT_SECONDS", 0)
    cursor = BusyFile(taken=3)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite_backend._use_write_ahead_log(cursor)  # type: ignore[arg-type]
    assert cursor.calls == 1


def test_another_error_is_told_at_once() -> None:
    cursor = BusyFile(taken=3, code=sqlite3.SQLITE_READONLY)
    with pytest.raises(sqlite3.OperationalError):
        sqlite_backend._use_write_ahead_log(cursor)  # type: ignore[arg-type]
    assert cursor.calls == 1

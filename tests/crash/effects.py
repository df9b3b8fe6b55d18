"""The world outside the engine: what steps did to it, and what their clients were told, in that order.

One SQLite file of its own. `journal` takes everything (a receiver that does not know keys would act every
time); `keyed` is a receiver that acts once for a key.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

_TABLES = """
CREATE TABLE IF NOT EXISTS journal (
  id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT, run_id TEXT, step TEXT, key TEXT, nonce TEXT, pid INTEGER);
CREATE TABLE IF NOT EXISTS keyed (key TEXT PRIMARY KEY, run_id TEXT, step TEXT, nonce TEXT);
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the journal."""

    id: int
    kind: str
    run_id: str
    step: str
    key: str
    nonce: str
    pid: int


class Effects:
    """Write to the world outside, and read what happened to it."""

    def __init__(self, path: Path | str) -> None:
        self._path = str(path)
        with closing(sqlite3.connect(self._path, timeout=60)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(_TABLES)

    def act(self, run_id: str, step: str, key: str) -> str:
        """Do what a step does; return a word that nobody else gets."""
        nonce = os.urandom(6).hex()
        with self._writing() as connection:
            self._note(connection, "effect", run_id, step, key, nonce)
            self._act_once(connection, run_id, step, key, nonce)
        return nonce

    def note(self, kind: str, run_id: str, step: str = "", nonce: str = "") -> None:
        """Write down what a client saw."""
        with self._writing() as connection:
            self._note(connection, kind, run_id, step, "", nonce)

    def relive(self, noted: Iterable[tuple[str, str, str, str, str]]) -> None:
        """Let (kind, run, step, key, nonce) have happened, in that order."""
        with self._writing() as connection:
            for kind, run_id, step, key, nonce in noted:
                self._note(connection, kind, run_id, step, key, nonce)
                if kind == "effect":
                    self._act_once(connection, run_id, step, key, nonce)

    def journal(self, kind: str | None = None) -> Sequence[Entry]:
        """Return what happened, in order."""
        with closing(sqlite3.connect(self._path, timeout=60)) as connection:
            rows = connection.execute(
                "SELECT id, kind, run_id, step, key, nonce, pid FROM journal ORDER BY id"
            )
            names = [column[0] for column in rows.description]
            entries = [Entry(**dict(zip(names, row, strict=True))) for row in rows]
        return [entry for entry in entries if kind in (None, entry.kind)]

    def count(self, kind: str, run_id: str) -> int:
        """Return how many such lines there are of one run."""
        with closing(sqlite3.connect(self._path, timeout=60)) as connection:
            query = "SELECT count(*) FROM journal WHERE kind = ? AND run_id = ?"
            return int(connection.execute(query, (kind, run_id)).fetchone()[0])

    def keyed(self) -> Sequence[tuple[str, str, str]]:
        """Return (run, step, key) of everything a receiver that knows keys has done."""
        with closing(sqlite3.connect(self._path, timeout=60)) as connection:
            return list(connection.execute("SELECT run_id, step, key FROM keyed"))

    def _act_once(self, connection: sqlite3.Connection, run_id: str, step: str, key: str, nonce: str) -> None:
        connection.execute("INSERT OR IGNORE INTO keyed VALUES (?, ?, ?, ?)", (key, run_id, step, nonce))

    def _note(
        self, connection: sqlite3.Connection, kind: str, run_id: str, step: str, key: str, nonce: str
    ) -> None:
        connection.execute(
            "INSERT INTO journal (kind, run_id, step, key, nonce, pid) VALUES (?, ?, ?, ?, ?, ?)",
            (kind, run_id, step, key, nonce, os.getpid()),
        )

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        # A connection for each write: a forked child must not share one. Killed processes lose nothing
        # without fsync either, and this file need not outlive a power cut.
        with closing(sqlite3.connect(self._path, timeout=60, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

"""What is particular to SQLite."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from time import monotonic, sleep
from typing import Any

from sqlalchemy import URL, Connection, Engine, String, and_, bindparam, create_engine, event, func, make_url
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import QueuePool

from resume_engine.core.clock import utc_now
from resume_engine.core.errors import InvalidValueError
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.storage.driver import DirectConnections
from resume_engine.storage.fork_safety import renew_connections_in_children
from resume_engine.storage.payload_codec import PayloadCodec
from resume_engine.storage.run_update import moved_on
from resume_engine.storage.schema import UtcDateTime
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.step_append import TwoStatements, sqlite_moment, values

BUSY_TIMEOUT_SECONDS = 15.0
PAGE_CACHE_KIB = 16_384  # at most, for each connection; SQLite's own 2 MiB hold less than the index of a list
_SYNCHRONOUS_FULL = 2

_KEY_OF_COLUMNS = {
    "decisions.run_id, decisions.failure_key, decisions.kind, decisions.ordinal": (
        "uq_decisions_failure_kind"
    ),
    "step_records.idempotency_key, step_records.legacy_duplicate": "uq_step_records_completed_key",
    "step_records.run_id, step_records.sequence, step_records.legacy_duplicate": (
        "uq_step_records_run_sequence"
    ),
    "users.email": "uq_users_email",
    "runs.run_id": "pk_runs",
    "audit_events.stream, audit_events.chain_seq": "uq_audit_events_stream",
}


class SQLiteCheckpointStore(SqlCheckpointStore):
    """Keep runs in a SQLite file (`sqlite:///file.db`) or in memory (`sqlite:///:memory:`).

    Files run in WAL mode with `synchronous=FULL`: a call that returned survives a power cut. Writers
    take their turn at the start of a transaction and wait up to 15 s for it. A database in memory is
    shared by all threads, one at a time.
    """

    def __init__(
        self,
        database_url: str = "sqlite:///resume_engine.db",
        *,
        check_schema: bool = True,
        codec: PayloadCodec | None = None,
    ) -> None:
        url = make_url(database_url)
        if url.get_backend_name() != "sqlite":
            raise InvalidValueError("database_url", f"expected sqlite:///..., found {url.drivername}://")
        engine = _create_engine(url)
        self._plain = TwoStatements()
        # The one connection of a database in memory is everybody's.
        self._direct = DirectConnections(engine, keep=not _is_in_memory(url))
        self._outlives_close = not _is_in_memory(url)
        super().__init__(engine, check_schema=check_schema, codec=codec)
        if not _is_in_memory(url):  # which would be lost with its connection
            renew_connections_in_children(self)

    def _violated(self, error: IntegrityError) -> str:
        # SQLite names columns, not keys: the table above is the one place that reads its messages.
        columns = str(error.orig).partition(": ")[2]
        return _KEY_OF_COLUMNS.get(columns, columns)

    def settings_at_risk(self) -> list[str]:
        """Return the settings under which a power cut could lose acknowledged writes, and what is damaged."""
        with self.reading() as conn:
            synchronous = conn.exec_driver_sql("PRAGMA synchronous").scalar_one()
            damage = conn.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        found = [] if synchronous >= _SYNCHRONOUS_FULL else ["synchronous is below FULL"]
        return found + [f"integrity check: {line}" for line in damage if line != "ok"]

    def _append_plain(self, change: RunChange, after: RunSummary) -> None:
        statements = self._plain
        given = values(change, after, self.codec, sqlite_moment)
        length = timedelta(seconds=change.lease_seconds or 0)

        def append(connection: Any, cursor: Any, _: set[str]) -> None:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                given["lease_end"] = sqlite_moment(utc_now() + length)  # the wait for the turn is over
                cursor.execute(statements.update, statements.update_values(given))
                if cursor.rowcount != 1:
                    raise moved_on(change)
                cursor.execute(statements.insert, statements.insert_values(given))
                cursor.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    cursor.execute("ROLLBACK")
                raise

        self._direct.run(append)

    def close(self) -> None:
        """Release the connections."""
        self._direct.close()
        super().close()

    def database_now(self, plus_seconds: float = 0.0) -> Any:
        """Return the clock of this host: a SQLite database is used from one host only."""
        # Looked at when the statement is asked, not when it is put together.
        return bindparam(
            None, callable_=lambda: utc_now() + timedelta(seconds=plus_seconds), type_=UtcDateTime
        )

    def scrub(self) -> str | None:
        """Write the file anew and empty its log, so that neither holds what was overwritten."""
        with closing(self.engine.raw_connection()) as connection:
            connection.cursor().execute("VACUUM").close()
            connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
        return None

    def starts_with(self, column: Any, prefix: str) -> Any:
        """Return a range: SQLite's LIKE ignores case and therefore cannot use the index."""
        return and_(column >= prefix, column < prefix + "\U0010ffff")

    @staticmethod
    def hour_of(column: Any) -> Any:
        """Return the first 13 characters of the stored text, `2026-11-22 09`."""
        return func.substr(column, 1, 13, type_=String)

    def parse_hour(self, value: Any) -> datetime:
        """Return the hour (aware UTC) that such a text names."""
        return datetime.fromisoformat(f"{value}:00:00+00:00")


class _HintCompiler(SQLiteCompiler):
    """Write `INDEXED BY` behind a table: SQLAlchemy keeps hints but does not write them for SQLite."""

    def get_from_hint_text(self, table: Any, text: str | None) -> str | None:
        """Return the hint as it is."""
        return text


def _is_in_memory(url: URL) -> bool:
    return url.database in (None, "", ":memory:")


def _use_write_ahead_log(cursor: sqlite3.Cursor) -> None:
    """Turn a file to WAL mode; SQLite does not always wait for others who do the same at that moment."""
    deadline = monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or monotonic() >= deadline:
                raise
            sleep(random.uniform(0.005, 0.05))


def _create_engine(url: URL) -> Engine:
    in_memory = _is_in_memory(url)
    options: dict[str, Any] = {"pool_size": 1, "max_overflow": 0} if in_memory else {"pool_size": 10}
    engine = create_engine(
        url,
        poolclass=QueuePool,
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_SECONDS},
        **options,
    )

    engine.dialect.statement_compiler = _HintCompiler

    @event.listens_for(engine, "connect")
    def _configure(dbapi_connection: Any, _: Any) -> None:
        dbapi_connection.isolation_level = None  # transactions begin below, not where the driver guesses
        cursor = dbapi_connection.cursor()
        if not in_memory:
            _use_write_ahead_log(cursor)
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute(f"PRAGMA cache_size=-{PAGE_CACHE_KIB}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA recursive_triggers=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(conn: Connection) -> None:
        options = conn.get_execution_options()
        if options.get("asks"):
            return  # a single statement is a transaction of its own
        # A deferred transaction that turns into a writer fails at once instead of waiting.
        conn.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes") else "BEGIN")

    return engine

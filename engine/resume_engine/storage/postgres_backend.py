"""What is particular to PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import URL, Connection, Engine, Interval, create_engine, event, func, literal, make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidatePoolError

from resume_engine.core.clock import as_utc, utc_text
from resume_engine.core.errors import InvalidValueError
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.storage.driver import TRUSTED_SECONDS, AskingConnection, DirectConnections, asked_again
from resume_engine.storage.fork_safety import renew_connections_in_children
from resume_engine.storage.payload_codec import PayloadCodec
from resume_engine.storage.run_update import moved_on
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.step_append import PreparedStatement, Values, literals, values

_IDLE_SINCE = "idle_since"
_MIGRATION_LOCK_ID = 0x7265_7375_6D65  # "resume"

_connected_to_ask = asked_again(AskingConnection)
_NOT_OUR_SESSION = ("26000", "42P05")  # a prepared statement that is unknown, or known already
_DURABLE_SETTINGS = ("fsync", "full_page_writes", "synchronous_commit")


class PostgresCheckpointStore(SqlCheckpointStore):
    """Keep runs in PostgreSQL (`postgresql+psycopg2://user:password@host/database`).

    Needs the extra `postgres`. READ COMMITTED is enough for writers: every change is guarded by the run's
    version and by unique keys.
    """

    # READ COMMITTED would show every statement of a transaction another state of the database.
    _reading_options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

    def __init__(
        self, database_url: str, *, check_schema: bool = True, codec: PayloadCodec | None = None
    ) -> None:
        url = postgres_url(database_url)
        connect = {"connect_timeout": 10, "application_name": "resume_engine"}
        engine = create_engine(url, pool_pre_ping=True, connect_args=connect)
        # A step is one statement; without BEGIN, COMMIT and the pool's questions it is one round trip. Nearly
        # all that is read goes this way too.
        self._autocommitting = create_engine(
            url, isolation_level="AUTOCOMMIT", pool_reset_on_return=None, pool_size=10, connect_args=connect
        )
        self._plain = PreparedStatement(lease_end="clock_timestamp() + make_interval(secs => {} / 1000.0)")
        self._prepares = True
        self._direct = DirectConnections(
            self._autocommitting, keep=True, ping=self._autocommitting.dialect.do_ping
        )
        _ping_when_idle(self._autocommitting)
        super().__init__(engine, check_schema=check_schema, codec=codec)
        renew_connections_in_children(self)

    def asking(self) -> AbstractContextManager[Connection]:
        """Open a connection for a single statement that reads: one round trip, made again if it was cut."""
        return _connected_to_ask(self._autocommitting)

    def viewing(self) -> AbstractContextManager[Connection]:
        """Open a transaction of a few statements that only read, on a connection that is not asked either."""
        return self._transaction("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def committing(self, *, statements: int) -> AbstractContextManager[Connection]:
        """Open a transaction on a connection that is not asked whether it lives; one statement needs none."""
        if statements == 1:
            return self._autocommitting.connect()
        return self._transaction("BEGIN ISOLATION LEVEL READ COMMITTED")

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        # Said in words: the driver would set its session up for that, and back again, in round trips of their
        # own; and behind a pooler the session that it sets up may be somebody else's.
        with self._autocommitting.connect() as conn:
            conn.exec_driver_sql(begin)
            try:
                yield conn
                conn.exec_driver_sql("COMMIT")
            except BaseException:
                _roll_back(conn)
                raise

    @property
    def engines(self) -> Sequence[Engine]:
        """Return every engine that the store speaks through."""
        return (self.engine, self._autocommitting)

    def close(self) -> None:
        """Release the connections."""
        self._direct.close()
        self._autocommitting.dispose()
        super().close()

    def _migration_lock(self, conn: Connection) -> None:
        conn.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _MIGRATION_LOCK_ID})

    def _violated(self, error: IntegrityError) -> str:
        diagnostics = getattr(error.orig, "diag", None)
        return str(getattr(diagnostics, "constraint_name", None) or "")

    def settings_at_risk(self) -> list[str]:
        """Return the settings under which a crash of the server could lose acknowledged writes."""
        with self.reading() as conn:
            found = {name: conn.execute(text(f"SHOW {name}")).scalar_one() for name in _DURABLE_SETTINGS}
        return [f"{name} is off" for name, value in found.items() if value == "off"]

    def _append_plain(self, change: RunChange, after: RunSummary) -> None:
        given = values(change, after, self.codec, utc_text)
        given["lease_end"] = (change.lease_seconds or 0) * 1000  # milliseconds

        def append(connection: Any, cursor: Any, prepared: set[str]) -> None:
            self._execute_prepared(connection, cursor, prepared, given)
            if cursor.rowcount != 1:
                raise moved_on(change)

        self._direct.run(append)

    def _execute_prepared(self, connection: Any, cursor: Any, prepared: set[str], given: Values) -> None:
        statement = self._plain
        try:
            if self._prepares and statement.name not in prepared:
                cursor.execute(statement.prepare)
                prepared.add(statement.name)
            _execute(cursor, statement.execute if self._prepares else statement.unprepared, given)
        except connection.Error as error:
            if error.pgcode not in _NOT_OUR_SESSION:
                raise
            # A pooler stands between and gives each statement another session: nothing stays prepared there.
            self._prepares = False
            _execute(cursor, statement.unprepared, given)

    def database_now(self, plus_seconds: float = 0.0) -> Any:
        """Return the server's clock: the only one that all executors share."""
        return func.clock_timestamp() + literal(timedelta(seconds=plus_seconds), Interval)

    def scrub(self) -> str | None:
        """Return what to do: the server keeps old versions of rows until it is told to rewrite its tables."""
        return "run VACUUM FULL on runs, step_records, decisions and audit_events; write-ahead logs age out"

    def starts_with(self, column: Any, prefix: str) -> Any:
        """Return a LIKE, served by the index with pattern operators whatever the collation."""
        return column.startswith(prefix, autoescape=True)

    @staticmethod
    def hour_of(column: Any) -> Any:
        """Return the moment cut to the hour in UTC."""
        return func.date_trunc("hour", column, "UTC")

    def parse_hour(self, value: Any) -> datetime:
        """Return the hour as aware UTC."""
        return as_utc(value)


def _roll_back(conn: Connection) -> None:
    """End a transaction that failed; a connection that cannot even do that goes back to nobody."""
    if conn.invalidated:  # it was lost, and the transaction with it
        return
    try:
        conn.exec_driver_sql("ROLLBACK")
    except DBAPIError:
        conn.invalidate()


def _execute(cursor: Any, statement: str, given: Values) -> None:
    if cursor.connection.encoding != "UTF8":
        cursor.execute(statement, given)
        return

    def quote(value: str) -> str:
        quoted: bytes = cursor.mogrify("%s", (value,))
        return quoted.decode()

    cursor.execute(statement % literals(given, quote))


def _ping_when_idle(engine: Engine) -> None:
    """Ask a connection whether it lives only after it lay idle: no server restarts within a second."""

    @event.listens_for(engine, "checkin")
    def _note(_: Any, record: Any) -> None:
        record.info[_IDLE_SINCE] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _ping(connection: Any, record: Any, _: Any) -> None:
        idle_since = record.info.get(_IDLE_SINCE)
        if idle_since is None or time.monotonic() - idle_since < TRUSTED_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as problem:
            raise InvalidatePoolError from problem  # the pool replaces all its connections and tries again


def postgres_url(database_url: str) -> URL:
    """Return the URL with the psycopg2 driver named; `postgres://` and `postgresql://` are understood."""
    url = make_url(database_url)
    if url.get_backend_name() not in ("postgres", "postgresql"):
        raise InvalidValueError(
            "database_url", f"expected postgresql+psycopg2://..., found {url.drivername}://"
        )
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg2")
    return url

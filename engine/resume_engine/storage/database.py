"""A database that holds runs: its connections, its transactions, and the key that it may be sealed with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import IntegrityError

from resume_engine.core.errors import PayloadLockedError
from resume_engine.storage.encryption import codec_from_environment
from resume_engine.storage.payload_codec import PayloadCodec
from resume_engine.storage.schema import runs
from resume_engine.storage.schema_version import ensure_schema, upgrade


class Database:
    """Open transactions of one database; subclasses supply the engine and what differs between databases.

    Opening creates the schema in an empty database and checks it in any other
    (`SchemaOutdatedError`, `SchemaTooNewError`).
    """

    _reading_options: Mapping[str, Any] = {}

    def __init__(
        self, engine: Engine, *, check_schema: bool = True, codec: PayloadCodec | None = None
    ) -> None:
        self.codec = codec_from_environment() if codec is None else codec
        self._locked: str | None = None
        self._engine = engine
        self._reading_engine = engine.execution_options(**self._reading_options)
        self._writing_engine = engine.execution_options(writes=True)
        self._asking_engine = engine.execution_options(asks=True)
        if check_schema:
            try:
                ensure_schema(engine, self._migration_lock, self.codec)
                self._locked = self._missing_key()
            except BaseException:
                self.close()  # nobody gets this store, so nobody else could
                raise

    # Differences between databases

    def _migration_lock(self, conn: Connection) -> None:
        """Make sure that one process at a time migrates; held until the transaction ends."""

    def _violated(self, error: IntegrityError) -> str:
        """Return the name of the violated unique key."""
        raise NotImplementedError

    def database_now(self, plus_seconds: float = 0.0) -> Any:
        """Return an expression for the current moment by the database's clock, moved by so many seconds."""
        raise NotImplementedError

    def starts_with(self, column: Any, prefix: str) -> Any:
        """Return the condition that a text column begins with `prefix`, in a form that an index serves."""
        raise NotImplementedError

    @staticmethod
    def hour_of(column: Any) -> Any:
        """Return an expression that groups moments by hour; `parse_hour` reads its values."""
        raise NotImplementedError

    def parse_hour(self, value: Any) -> datetime:
        """Return the hour (aware UTC) that a value of `hour_of` names."""
        raise NotImplementedError

    def settings_at_risk(self) -> list[str]:
        """Return what in the database's settings could lose a write that was acknowledged."""
        raise NotImplementedError

    def scrub(self) -> str | None:
        """Remove what overwritten rows left behind in the files, or return what there is to do for that."""
        return None

    # Encryption

    def _missing_key(self) -> str | None:
        """Return the key that the newest run is sealed with when it is not here: this database is locked."""
        newest = (
            select(runs.c.metadata_json).order_by(runs.c.created_at.desc(), runs.c.run_id.desc()).limit(1)
        )
        with self.asking() as conn:
            text = conn.execute(newest).scalar()
        return self.codec.missing_key(text) if text is not None else None

    @property
    def is_locked(self) -> bool:
        """Return whether the database is sealed with a key that is not here: it can be looked at only."""
        return self._locked is not None

    def refuse_if_locked(self) -> None:
        """Raise `PayloadLockedError` if the database is sealed with a key that is not here."""
        # What is written without the key would lie in the clear, and with another key would be lost for those
        # who hold the right one. Asked before a step runs, not when its output is recorded.
        if self._locked is not None:
            raise PayloadLockedError(f"the runs in this database need the key {self._locked}")

    # Transactions

    @property
    def engine(self) -> Engine:
        """Return the SQLAlchemy engine, for the queries of the read side."""
        return self._engine

    @property
    def engines(self) -> Sequence[Engine]:
        """Return every engine that the store speaks through."""
        return (self._engine,)

    @property
    def url(self) -> str:
        """Return the database URL without its password."""
        return self._engine.url.render_as_string(hide_password=True)

    def reading(self) -> AbstractContextManager[Connection]:
        """Open a transaction that only reads: one consistent view, for as long as it takes."""
        return self._reading_engine.begin()

    def viewing(self) -> AbstractContextManager[Connection]:
        """Open a transaction of a few statements that only read, all of whose rows are fetched at once."""
        return self.reading()

    def asking(self) -> AbstractContextManager[Connection]:
        """Open a connection for a single statement that reads: it needs no transaction around it."""
        return self._asking_engine.connect()

    def writing(self) -> AbstractContextManager[Connection]:
        """Open a transaction that may write; on SQLite it waits for its turn at once."""
        return self._writing_engine.begin()

    def committing(self, *, statements: int) -> AbstractContextManager[Connection]:
        """Open a transaction of so many statements whose writer finds out what became of it if it is cut."""
        return self.writing()

    def upgrade_schema(self) -> tuple[str, str]:
        """Bring the database to this release's schema; return (schema before, schema after)."""
        return upgrade(self._engine, self._migration_lock, self.codec)

    def close(self) -> None:
        """Release the connections."""
        self._engine.dispose()

"""Which schema a database has, and bringing it to this release's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, select, text
from sqlalchemy.exc import DatabaseError

from resume_engine.core.errors import SchemaOutdatedError, SchemaTooNewError
from resume_engine.storage.payload_codec import PLAIN, PayloadCodec
from resume_engine.storage.schema import HEAD_REVISION
from resume_engine.storage.table_locks import take_tables

KNOWN_REVISIONS = (
    "0001_baseline_0_2_0",
    "0002_gates_and_audit",
    "0003_control_plane",
    "0004_old_release_refused",
    HEAD_REVISION,
)
_EMPTY = "empty"
_BASELINE_UNVERSIONED = "0.2.0 (without a version)"

MigrationLock = Callable[[Connection], None]


def ensure_schema(engine: Engine, lock: MigrationLock, codec: PayloadCodec = PLAIN) -> None:
    """Create the schema in an empty database, check it in any other.

    Raises `SchemaOutdatedError` or `SchemaTooNewError`; Alembic is imported only when there is work.
    """
    found = _version_fast(engine)
    if found is None:
        with engine.begin() as conn:
            found = found_schema(conn)
    if found == _EMPTY:
        upgrade(engine, lock, codec)
    elif found != HEAD_REVISION:
        raise_unless_head(found)


def raise_unless_head(found: str) -> None:
    """Raise the error that says what is wrong with schema `found`."""
    raise_if_too_new(found)
    if found != HEAD_REVISION:
        raise SchemaOutdatedError(found, HEAD_REVISION)


def raise_if_too_new(found: str) -> None:
    """Raise `SchemaTooNewError` for a schema that this release does not know."""
    if found not in (*KNOWN_REVISIONS, _EMPTY, _BASELINE_UNVERSIONED):
        raise SchemaTooNewError(found, HEAD_REVISION)


def found_schema(conn: Connection) -> str:
    """Return the revision of a database, or words for one without a revision."""
    names = set(inspect(conn).get_table_names())
    if "alembic_version" in names:
        version = conn.execute(select(text("version_num")).select_from(text("alembic_version"))).scalar()
        if version:
            return str(version)
    return _BASELINE_UNVERSIONED if "runs" in names else _EMPTY


def upgrade(engine: Engine, lock: MigrationLock, codec: PayloadCodec = PLAIN) -> tuple[str, str]:
    """Bring a database to this release's schema; return (revision before, revision after).

    `codec` opens sealed rows that join the chain of the audit.

    Of several processes at once one migrates, the others wait and find it done. A newer schema is
    refused with `SchemaTooNewError`.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    with engine.execution_options(writes=True).begin() as conn:
        lock(conn)
        before = found_schema(conn)
        if before == HEAD_REVISION:
            return before, before
        raise_if_too_new(before)
        if before != _EMPTY:
            take_tables(conn)
        config.attributes["connection"] = conn
        config.attributes["codec"] = codec
        if before == _BASELINE_UNVERSIONED:
            command.stamp(config, KNOWN_REVISIONS[0])
        command.upgrade(config, "head")
    return before, HEAD_REVISION


def _version_fast(engine: Engine) -> str | None:
    try:
        with engine.begin() as conn:
            version = conn.execute(select(text("version_num")).select_from(text("alembic_version"))).scalar()
    except DatabaseError:
        return None  # no such table: an empty or a 0.2.0 database
    return str(version) if version else None

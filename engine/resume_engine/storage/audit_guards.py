"""Triggers that keep the audit append-only, whoever writes to the database.

What stands in the audit is neither changed nor removed; a payload may only become a sealed one, as a change
of keys makes it. Records and decisions go when their run has gone, and a run goes only when it is finished.
Whoever owns the database can take the triggers away: that is what the chain and its seals are for.

Release 0.2.0 knows nothing of the chain, of versions and of decisions. It opens an upgraded database as if it
were its own, so the database itself refuses what it writes, and says what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from resume_engine.core.audit_chain import CONTROL
from resume_engine.core.run import FINISHED_STATUSES
from resume_engine.storage.payload_codec import SEALED_MARK
from resume_engine.storage.schema import metadata

PREFIX = "audit_guard_"


@dataclass(frozen=True)
class _Key:
    """Columns that no two rows share, of all rows or of those where `among` holds."""

    columns: str
    among: str | None = None  # in terms of columns

    @property
    def is_taken(self) -> str:
        """Return the condition that a new row finds its key taken; the index of the key answers it."""
        same = " AND ".join(f"{name} = NEW.{name}" for name in self.columns.split(", "))
        if self.among is None:
            return f"EXISTS (SELECT 1 FROM {{table}} WHERE {same})"
        return f"(NEW.{self.among} AND EXISTS (SELECT 1 FROM {{table}} WHERE {same} AND {self.among}))"


@dataclass(frozen=True)
class _Guarded:
    """A table of the audit: what may become sealed, when a row may go, and keys that no other row may take.

    SQLite's `INSERT OR REPLACE` deletes what is in the way without asking its triggers: there an insert
    that finds a key taken is refused, in the words of SQLite itself.
    """

    name: str
    keys: Sequence[_Key]
    sealable: Sequence[str] = ()
    kept_while: str | None = None  # in terms of OLD; None: for ever

    @property
    def changes(self) -> Iterator[tuple[str, bool]]:
        """Yield every column, and whether it may become sealed."""
        for column in metadata.tables[self.name].c:
            yield column.name, column.name in self.sealable


_RUN_IS_THERE = "EXISTS (SELECT 1 FROM runs WHERE runs.run_id = OLD.run_id)"
_GUARDED = (
    _Guarded("audit_events", [_Key("event_id"), _Key("stream, chain_seq")], ["payload_json", "note"]),
    _Guarded(
        "step_records",
        [
            _Key("id"),
            _Key("run_id, sequence, legacy_duplicate"),
            _Key("idempotency_key, legacy_duplicate", "status IN ('completed', 'skipped_replay')"),
        ],
        ["input_json", "output_json", "error_message", "error_traceback"],
        _RUN_IS_THERE,
    ),
    _Guarded(
        "decisions",
        [_Key("decision_id"), _Key("run_id, failure_key, kind, ordinal")],
        ["note", "result_json"],
        _RUN_IS_THERE,
    ),
    _Guarded("audit_checkpoints", [_Key("checkpoint_id")]),
    _Guarded("audit_checkpoint_leaves", [_Key("checkpoint_id, stream")]),
)
_FINISHED = ", ".join(f"'{status.value}'" for status in sorted(FINISHED_STATUSES))
_UNFINISHED = f"OLD.status NOT IN ({_FINISHED})"
# The head of a run's chain moves before its events are written; that of the control stream afterwards.
_OUT_OF_PLACE = f"""
    NEW.stream IS NULL OR NEW.chain_seq IS NULL OR NEW.chain_hash IS NULL
    OR (NEW.stream = '{CONTROL}' AND NOT EXISTS (
        SELECT 1 FROM audit_streams s WHERE s.stream = NEW.stream
        AND s.chain_seq + 1 = NEW.chain_seq AND s.chain_head = COALESCE(NEW.prev_hash, '')))
    OR (NEW.stream <> '{CONTROL}' AND NOT EXISTS (
        SELECT 1 FROM runs r WHERE r.run_id = NEW.stream
        AND (r.chain_seq > NEW.chain_seq OR (r.chain_seq = NEW.chain_seq AND r.chain_head = NEW.chain_hash))))
"""
OLD_RELEASE = (
    "this database was upgraded, and release 0.2.0 of resume_engine may not write to it any more: "
    "update the package (pip install --upgrade resume_engine) or record over HTTP (RemoteCheckpointStore)"
)
"""What a process of 0.2.0 is told. It fills no column that it does not know: that is how it is seen."""
_UNCHAINED = {
    "runs": "NEW.chain_head IS NULL",
    "step_records": "(NEW.chain_seq IS NULL OR NEW.chain_hash IS NULL)",
}
_UNVERSIONED = """
    NEW.version = OLD.version AND (NEW.status <> OLD.status OR NEW.updated_at <> OLD.updated_at
    OR (NEW.metadata_json <> OLD.metadata_json AND NOT {sealed}))
"""
_HEAD_JUMPS = "NEW.stream <> OLD.stream OR NEW.chain_seq <> OLD.chain_seq + 1"


def statements(dialect: str) -> list[str]:
    """Return the statements that make every trigger."""
    return list(_sqlite() if dialect == "sqlite" else _postgres())


def names(dialect: str) -> set[str]:
    """Return the names of all triggers."""
    return {words[2] for words in (s.split() for s in statements(dialect)) if words[1] == "TRIGGER"}


def create(conn: Connection) -> None:
    """Make every trigger."""
    for statement in statements(conn.dialect.name):
        conn.execute(text(statement))


def renew(conn: Connection) -> None:
    """Bring the triggers of an older schema to what they are now; part of a migration.

    On SQLite all are made anew: some say more than they did. PostgreSQL locks a table for each of its
    triggers, so there those that stand stay.
    """
    if conn.dialect.name == "sqlite":
        drop(conn)
        create(conn)
        return
    new = missing(conn)
    for statement in statements(conn.dialect.name):
        if statement.split()[3] == "FUNCTION" or new & set(statement.split()):
            conn.execute(text(statement))


def drop(conn: Connection) -> None:
    """Take every trigger away; whoever owns the tables can."""
    postgres = conn.dialect.name == "postgresql"
    for statement in statements(conn.dialect.name):
        _, kind, name, *rest = statement.split()
        if kind == "TRIGGER":
            table = f" ON {rest[rest.index('ON') + 1]}" if postgres else ""
            conn.execute(text(f"DROP TRIGGER IF EXISTS {name}{table}"))


def missing(conn: Connection) -> set[str]:
    """Return the names of the triggers that are not there, or do not always fire."""
    if conn.dialect.name == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    else:
        query = "SELECT tgname FROM pg_trigger WHERE tgenabled = 'A'"
    return names(conn.dialect.name) - set(conn.execute(text(query)).scalars())


def _sqlite() -> Iterator[str]:
    for table in _GUARDED:
        same = [
            f"OLD.{name} IS NEW.{name}" + (f" OR {_is_sealed(name)}" if sealable else "")
            for name, sealable in table.changes
        ]
        changed = f"NOT ({' AND '.join(f'({part})' for part in same)})"
        yield _sqlite_trigger(table.name, "UPDATE", changed, f"{table.name} is append-only")
        yield _sqlite_trigger(table.name, "DELETE", table.kept_while or "1", f"{table.name} is append-only")
        yield _sqlite_key_trigger(table.name, table.keys, unchained=_UNCHAINED.get(table.name))
    yield _sqlite_trigger("audit_events", "INSERT", _OUT_OF_PLACE, "audit_events: not the next", "_place")
    yield _sqlite_trigger("runs", "DELETE", _UNFINISHED, "runs: only finished ones are deleted")
    yield _sqlite_trigger("runs", "UPDATE", _unversioned(), OLD_RELEASE)
    yield _sqlite_key_trigger("runs", [_Key("run_id")], unchained=_UNCHAINED["runs"])
    yield _sqlite_trigger("audit_streams", "DELETE", "1", "audit_streams is append-only")
    yield _sqlite_trigger("audit_streams", "UPDATE", _HEAD_JUMPS, "audit_streams: not the next")
    yield _sqlite_key_trigger("audit_streams", [_Key("stream")])


def _sqlite_trigger(table: str, verb: str, when: str, message: str, suffix: str = "") -> str:
    return (
        f"CREATE TRIGGER {PREFIX}{table}_{verb.lower()}{suffix} BEFORE {verb} ON {table} WHEN {when} "
        f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
    )


def _sqlite_key_trigger(table: str, keys: Sequence[_Key], *, unchained: str | None = None) -> str:
    """Return one trigger for all keys: every step pays for each trigger of its table."""
    taken = [key.is_taken.format(table=table) for key in keys]
    old_release = f"WHEN {unchained} THEN RAISE(ABORT, '{OLD_RELEASE}') " if unchained else ""
    refusals = old_release + " ".join(
        f"WHEN {condition} THEN RAISE(ABORT, 'UNIQUE constraint failed: "
        + ", ".join(f"{table}.{name}" for name in key.columns.split(", "))
        + "')"
        for condition, key in zip(taken, keys, strict=True)
    )
    refused = [unchained, *taken] if unchained else taken
    return (
        f"CREATE TRIGGER {PREFIX}{table}_insert BEFORE INSERT ON {table} WHEN {' OR '.join(refused)} "
        f"BEGIN SELECT CASE {refusals} END; END"
    )


def _unversioned() -> str:
    return _UNVERSIONED.format(sealed=_is_sealed("metadata_json"))


def _is_sealed(name: str) -> str:
    return f"substr(NEW.{name}, 1, {len(SEALED_MARK)}) = '{SEALED_MARK}'"


def _postgres() -> Iterator[str]:
    yield _function("refuse", "true")
    yield _function("run_is_there", _RUN_IS_THERE)
    yield _old_release_function()
    yield _function("out_of_place", _OUT_OF_PLACE)
    for table in _GUARDED:
        same = [
            f"OLD.{_quoted(name)} IS NOT DISTINCT FROM NEW.{_quoted(name)}"
            + (f" OR COALESCE({_is_sealed(name)}, false)" if sealable else "")
            for name, sealable in table.changes
        ]
        changed = f"NOT ({' AND '.join(f'({part})' for part in same)})"
        yield from _postgres_trigger(table.name, "UPDATE", when=changed)
        function = "run_is_there" if table.kept_while else "refuse"
        yield from _postgres_trigger(table.name, "DELETE", function=function)
    yield from _postgres_trigger("audit_events", "INSERT", function="out_of_place")
    yield from _postgres_trigger("runs", "DELETE", when=_UNFINISHED)
    for name, condition in _UNCHAINED.items():
        yield from _postgres_trigger(name, "INSERT", when=condition, function="old_release")
    # Before the row, PostgreSQL would lock each row that a step updates, and log that.
    yield from _postgres_trigger(
        "runs", "UPDATE", when=_unversioned(), function="old_release", moment="AFTER"
    )
    yield from _postgres_trigger("audit_streams", "DELETE")
    yield from _postgres_trigger("audit_streams", "UPDATE", when=_HEAD_JUMPS)
    for name in ("runs", "audit_streams", *(table.name for table in _GUARDED)):
        yield from _postgres_trigger(name, "TRUNCATE", each="STATEMENT")


def _function(name: str, refused_when: str) -> str:
    given = "OLD" if "OLD." in refused_when else "NEW"
    return (
        f"CREATE OR REPLACE FUNCTION {PREFIX}{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF {refused_when} THEN RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP "
        f"USING ERRCODE = 'restrict_violation'; END IF; RETURN {given}; END $$"
    )


def _old_release_function() -> str:
    return (
        f"CREATE OR REPLACE FUNCTION {PREFIX}old_release() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"RAISE EXCEPTION '{OLD_RELEASE}' USING ERRCODE = 'restrict_violation'; END $$"
    )


def _postgres_trigger(
    table: str,
    verb: str,
    *,
    when: str | None = None,
    function: str = "refuse",
    each: str = "ROW",
    moment: str = "BEFORE",
) -> Iterator[str]:
    name = f"{PREFIX}{table}_{verb.lower()}"
    condition = f" WHEN ({when})" if when else ""
    yield (
        f"CREATE TRIGGER {name} {moment} {verb} ON {table} FOR EACH {each}{condition} "
        f"EXECUTE FUNCTION {PREFIX}{function}()"
    )
    # Otherwise session_replication_role = replica would leave it out.
    yield f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}"


def _quoted(name: str) -> str:
    return f'"{name}"'

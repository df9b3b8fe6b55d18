"""The guards of the audit in the SQL of SQLite: triggers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, text

from resume_engine.storage.guarded_tables import (
    FILLED,
    GUARDED,
    HEAD_JUMPS,
    OLD_RELEASE,
    OUT_OF_PLACE,
    PREFIX,
    REDECIDED,
    TOUCHED,
    UNFINISHED,
    UNVERSIONED,
    Guard,
    Key,
    is_sealed,
)


def guards() -> Iterator[Guard]:
    """Yield every guard."""
    for table in GUARDED:
        same = [
            f"OLD.{name} IS NEW.{name}" + (f" OR {is_sealed(name)}" if sealable else "")
            for name, sealable in table.changes
        ]
        changed = f"NOT ({' AND '.join(f'({part})' for part in same)})"
        yield _trigger(table.name, "UPDATE", changed, f"{table.name} is append-only")
        yield _trigger(table.name, "DELETE", table.kept_while or "1", f"{table.name} is append-only")
        yield _key_trigger(table.name, table.keys)
    yield _trigger("audit_events", "INSERT", OUT_OF_PLACE, "audit_events: not the next", "_place")
    yield _trigger("runs", "DELETE", UNFINISHED, "runs: only finished ones are deleted")
    yield _trigger("runs", "UPDATE", f"{UNVERSIONED} AND ({TOUCHED} OR {REDECIDED})", OLD_RELEASE)
    yield _key_trigger("runs", [Key("run_id")])
    yield _trigger("audit_streams", "DELETE", "1", "audit_streams is append-only")
    yield _trigger("audit_streams", "UPDATE", HEAD_JUMPS, "audit_streams: not the next")
    yield _key_trigger("audit_streams", [Key("stream")])


def present(conn: Connection) -> set[str]:
    """Return the names of those that are there."""
    return set(conn.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars())


def _trigger(table: str, verb: str, when: str, message: str, suffix: str = "") -> Guard:
    return _guard(table, verb, when, f"SELECT RAISE(ABORT, '{message}')", suffix)


def _key_trigger(table: str, keys: Sequence[Key]) -> Guard:
    """Return one trigger for all keys: every step pays for each trigger of its table."""
    refusals = {
        key.is_taken.format(table=table): "UNIQUE constraint failed: "
        + ", ".join(f"{table}.{name}" for name in key.columns.split(", "))
        for key in keys
    }
    if table in FILLED:
        refusals = {f"NEW.{FILLED[table]} IS NULL": OLD_RELEASE} | refusals
    cases = " ".join(f"WHEN {refused} THEN RAISE(ABORT, '{words}')" for refused, words in refusals.items())
    return _guard(table, "INSERT", " OR ".join(refusals), f"SELECT CASE {cases} END")


def _guard(table: str, verb: str, when: str, does: str, suffix: str = "") -> Guard:
    name = f"{PREFIX}{table}_{verb.lower()}{suffix}"
    make = f"CREATE TRIGGER {name} BEFORE {verb} ON {table} WHEN {when} BEGIN {does}; END"
    return Guard(name, table, [make], f"DROP TRIGGER IF EXISTS {name}")

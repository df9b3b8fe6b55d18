"""The guards of the audit in the SQL of PostgreSQL: triggers, and columns without which no row is written.

PostgreSQL reads the condition of a trigger anew for each statement, so every step pays for the conditions
that it meets. It meets one, a short one.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, text

from resume_engine.storage.guarded_tables import (
    FILLED,
    GUARDED,
    HEAD_JUMPS,
    OLD_RELEASE,
    OUT_OF_PLACE,
    PREFIX,
    REDECIDED,
    RUN_IS_THERE,
    TOUCHED,
    UNFINISHED,
    UNVERSIONED,
    Guard,
    is_sealed,
)

_LEFT_OUT = f"{PREFIX}left_out()"


def guards() -> Iterator[Guard]:
    """Yield every guard; they call `FUNCTIONS`."""
    for table in GUARDED:
        same = [
            f'OLD."{name}" IS NOT DISTINCT FROM NEW."{name}"'
            + (f" OR COALESCE({is_sealed(name)}, false)" if sealable else "")
            for name, sealable in table.changes
        ]
        changed = f"NOT ({' AND '.join(f'({part})' for part in same)})"
        yield _trigger(table.name, "UPDATE", when=changed)
        yield _trigger(table.name, "DELETE", function="run_is_there" if table.kept_while else "refuse")
    yield _trigger("audit_events", "INSERT", function="out_of_place")
    yield _trigger("runs", "DELETE", when=UNFINISHED)
    yield from _old_release_guards()
    yield _trigger("audit_streams", "DELETE")
    yield _trigger("audit_streams", "UPDATE", when=HEAD_JUMPS)
    for name in ("runs", "audit_streams", *(table.name for table in GUARDED)):
        yield _trigger(name, "TRUNCATE", each="STATEMENT")


def present(conn: Connection) -> set[str]:
    """Return the names of those that are there and act whatever the role of the session."""
    triggers = "SELECT tgname FROM pg_trigger WHERE tgenabled = 'A'"
    defaults = (
        "SELECT table_name FROM information_schema.columns "
        f"WHERE table_schema = current_schema() AND column_default LIKE '%{_LEFT_OUT}%'"
    )
    tables = conn.execute(text(defaults)).scalars()
    return {*conn.execute(text(triggers)).scalars(), *map(_default_name, tables)}


def unmake_obsolete(conn: Connection) -> list[str]:
    """Return the statements that take away triggers of an older schema which are none any more."""
    query = f"SELECT tgname, tgrelid::regclass FROM pg_trigger WHERE starts_with(tgname, '{PREFIX}')"
    names = {guard.name for guard in guards()}
    return [
        f"DROP TRIGGER {name} ON {table}" for name, table in conn.execute(text(query)) if name not in names
    ]


def _old_release_guards() -> Iterator[Guard]:
    # A column that a statement names is not asked for its default, so a row of ours does not pay for this.
    for table, column in FILLED.items():
        alter = f"ALTER TABLE {table} ALTER COLUMN {column}"
        yield Guard(
            _default_name(table), table, [f"{alter} SET DEFAULT {_LEFT_OUT}"], f"{alter} DROP DEFAULT"
        )
    # A step changes neither column of the first. Before the row, PostgreSQL would lock each row that a step
    # updates, and log that.
    of_state = "UPDATE OF status, metadata_json"
    redecided = f"{UNVERSIONED} AND {REDECIDED}"
    yield _trigger("runs", of_state, "_state", when=redecided, function="old_release", moment="AFTER")
    touched = f"{UNVERSIONED} AND {TOUCHED}"
    yield _trigger("runs", "UPDATE", "_moment", when=touched, function="old_release", moment="AFTER")


def _default_name(table: str) -> str:
    return f"{PREFIX}{table}_default"


def _trigger(
    table: str,
    verb: str,
    suffix: str = "",
    *,
    when: str | None = None,
    function: str = "refuse",
    each: str = "ROW",
    moment: str = "BEFORE",
) -> Guard:
    name = f"{PREFIX}{table}_{verb.split()[0].lower()}{suffix}"
    condition = f" WHEN ({when})" if when else ""
    make = (
        f"CREATE TRIGGER {name} {moment} {verb} ON {table} FOR EACH {each}{condition} "
        f"EXECUTE FUNCTION {PREFIX}{function}()"
    )
    # Otherwise session_replication_role = replica would leave it out.
    always = f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}"
    return Guard(name, table, [make, always], f"DROP TRIGGER IF EXISTS {name} ON {table}")


def _function(name: str, does: str, gives: str = "trigger") -> str:
    return (
        f"CREATE OR REPLACE FUNCTION {PREFIX}{name}() RETURNS {gives} LANGUAGE plpgsql "
        f"AS $$ BEGIN {does}; END $$"
    )


def _refusing(name: str, refused_when: str) -> str:
    given = "OLD" if "OLD." in refused_when else "NEW"
    return _function(
        name,
        f"IF {refused_when} THEN RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP "
        f"USING ERRCODE = 'restrict_violation'; END IF; RETURN {given}",
    )


_REFUSE_OLD_RELEASE = f"RAISE EXCEPTION '{OLD_RELEASE}' USING ERRCODE = 'restrict_violation'"
FUNCTIONS = (
    _refusing("refuse", "true"),
    _refusing("run_is_there", RUN_IS_THERE),
    _refusing("out_of_place", OUT_OF_PLACE),
    _function("old_release", _REFUSE_OLD_RELEASE),
    _function("left_out", _REFUSE_OLD_RELEASE, "text"),
)

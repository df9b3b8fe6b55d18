"""The guards of the audit, asked by people who write SQL by hand; and what is left without them."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.chain_report import Verdict
from resume_engine.core.clock import utc_now
from resume_engine.storage import audit_guards
from resume_engine.storage.chain_verification import ChainVerifier
from resume_engine.storage.open_store import open_store
from resume_engine.storage.sealing import seal
from resume_engine.storage.signing import SecretKey
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.verification import verify
from tests.factories import OLGA, RunFactory
from tests.guards import unguarded
from tests.provision.postgres import Databases
from tests.stores.changes import event

KEY = SecretKey("a secret of the tests, long enough")
EVENT_COLUMNS = (
    "event_type, run_id, actor, role, channel, payload_json, created_at, stream, chain_seq, prev_hash, "
    "chain_hash"
)
REFUSED = [
    "UPDATE audit_events SET actor = 'mallory'",
    "UPDATE audit_events SET payload_json = '{}' WHERE payload_json <> '{}'",
    "UPDATE audit_events SET stream = NULL",
    "DELETE FROM audit_events",
    f"INSERT INTO audit_events ({EVENT_COLUMNS}) SELECT {EVENT_COLUMNS.replace(', chain_seq', ', 99')} "
    "FROM audit_events WHERE event_id = (SELECT min(event_id) FROM audit_events)",
    f"INSERT INTO audit_events ({EVENT_COLUMNS}) SELECT {EVENT_COLUMNS.replace('stream', 'NULL')} "
    "FROM audit_events WHERE event_id = (SELECT min(event_id) FROM audit_events)",
    "UPDATE step_records SET status = 'failed'",
    "UPDATE step_records SET output_json = '{\"ok\": true}'",
    "UPDATE step_records SET chain_hash = 'x'",
    "DELETE FROM step_records",
    "UPDATE decisions SET actor = 'mallory'",
    "DELETE FROM decisions",
    "DELETE FROM runs",
    "DELETE FROM audit_streams",
    "UPDATE audit_streams SET chain_seq = chain_seq - 1",
    "UPDATE audit_checkpoints SET entries = 0",
    "DELETE FROM audit_checkpoints",
    "UPDATE audit_checkpoint_leaves SET chain_seq = 1",
    "DELETE FROM audit_checkpoint_leaves",
]
TABLES = ("audit_events", "step_records", "decisions", "audit_checkpoints", "audit_checkpoint_leaves")


@pytest.fixture
def filled(store: SqlCheckpointStore) -> SqlCheckpointStore:
    RunFactory(store).every_state()
    store.append_event(event())
    assert seal(store, KEY) is not None
    return store


@pytest.mark.parametrize("statement", REFUSED)
def test_what_stands_is_neither_changed_nor_removed(filled: SqlCheckpointStore, statement: str) -> None:
    with pytest.raises(IntegrityError), filled.writing() as conn:
        conn.execute(text(statement))
    assert ChainVerifier(filled, key=KEY).verify_all().verdict is Verdict.INTACT


@pytest.mark.parametrize("table", TABLES)
def test_insert_or_replace_does_not_go_around_it(tmp_path: Path, migrated_file: Path, table: str) -> None:
    """SQLite deletes the old row without asking its triggers, unless a connection wants it otherwise."""
    path = shutil.copyfile(migrated_file, tmp_path / "runs.db")
    with open_store(f"sqlite:///{path}") as store:  # of its own: the connection keeps the setting
        RunFactory(store).every_state()
        seal(store, KEY)
        with pytest.raises(IntegrityError), store.writing() as conn:
            conn.execute(text("PRAGMA recursive_triggers = OFF"))
            conn.execute(text(f"INSERT OR REPLACE INTO {table} SELECT * FROM {table} LIMIT 1"))


@pytest.mark.parametrize(
    "other",
    [
        {"sequence": "99", "idempotency_key": "'x'"},
        {"id": "NULL", "idempotency_key": "'x'"},
        {"id": "NULL", "sequence": "99"},
    ],
    ids=["its number", "its place", "its key"],
)
def test_a_step_is_not_replaced_by_one_that_shares(
    tmp_path: Path, migrated_file: Path, other: dict[str, str]
) -> None:
    """Each key of a record is guarded; a connection of somebody else, with the settings of SQLite."""
    path = shutil.copyfile(migrated_file, tmp_path / "runs.db")
    with open_store(f"sqlite:///{path}") as store:
        RunFactory(store).completed()
        assert seal(store, KEY) is not None

        def replace_one(raw: sqlite3.Connection) -> None:
            names = [row[1] for row in raw.execute("PRAGMA table_info(step_records)")]
            values = ", ".join((other | {"worker": "'mallory'"}).get(name, f'"{name}"') for name in names)
            raw.execute(f"INSERT OR REPLACE INTO step_records SELECT {values} FROM step_records LIMIT 1")

        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            with pytest.raises(sqlite3.IntegrityError, match="UNIQUE constraint failed: step_records"):
                replace_one(raw)
            assert not raw.execute("SELECT 1 FROM step_records WHERE worker = 'mallory'").fetchall()
            raw.execute("DROP TRIGGER audit_guard_step_records_insert")  # as the owner of the file can
            replace_one(raw)
        assert ChainVerifier(store, key=KEY).verify_all().verdict is Verdict.TAMPERED


def test_a_payload_may_only_become_sealed(filled: SqlCheckpointStore) -> None:
    with filled.writing() as conn:
        conn.execute(text("UPDATE step_records SET output_json = '$fernet1$0$x' WHERE status = 'completed'"))
    with pytest.raises(IntegrityError), filled.writing() as conn:
        conn.execute(text("UPDATE step_records SET output_json = '{}' WHERE status = 'completed'"))


@pytest.mark.parametrize("table", (*TABLES, "runs", "audit_streams"))
@pytest.mark.parametrize("role", ["origin", "replica"])
def test_truncate_and_the_replica_role_do_not_go_around_it(
    postgres_store: SqlCheckpointStore, table: str, role: str
) -> None:
    for statement in (f"TRUNCATE {table}", f"DELETE FROM {table}"):
        if statement == "DELETE FROM runs":
            continue  # an empty table: nothing is deleted
        with pytest.raises(IntegrityError), postgres_store.writing() as conn:
            run = RunFactory(postgres_store).cancelled()
            exported = AuditEvent.by(OLGA, EventType.AUDIT_EXPORTED, utc_now(), run_id=run.run_id)
            postgres_store.append_event(exported)  # no statement deletes a head that is not there
            seal(postgres_store, KEY)
            conn.execute(text(f"SET LOCAL session_replication_role = {role}"))
            conn.execute(text(statement))


def test_a_role_that_may_only_read_and_add_cannot_take_the_guards_away(
    postgres_store: SqlCheckpointStore,
) -> None:
    """What docs/deploy.md recommends; whoever owns the tables could do all of it."""
    with unguarded(postgres_store) as conn:
        conn.execute(text("DROP ROLE IF EXISTS audit_test_app"))
        conn.execute(text("CREATE ROLE audit_test_app"))
        conn.execute(text("GRANT SELECT, INSERT ON audit_events TO audit_test_app"))
    try:
        for statement in (
            "UPDATE audit_events SET actor = 'x'",
            "DELETE FROM audit_events",
            "TRUNCATE audit_events",
            "ALTER TABLE audit_events DISABLE TRIGGER ALL",
            "DROP TRIGGER audit_guard_audit_events_delete ON audit_events",
            "DROP TABLE audit_events",
            "SET session_replication_role = replica",
        ):
            with pytest.raises(DBAPIError, match="denied|owner"), postgres_store.writing() as conn:
                conn.execute(text("SET LOCAL ROLE audit_test_app"))
                conn.execute(text(statement))
    finally:
        with postgres_store.writing() as conn:
            conn.execute(text("DROP OWNED BY audit_test_app"))
            conn.execute(text("DROP ROLE audit_test_app"))


def test_the_rights_that_the_documentation_grants_are_enough(postgres_databases: Databases) -> None:
    """A role that owns nothing starts, fails, clears, resumes and completes runs, seals and verifies."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
    grants = page.partition("```sql\n")[2].partition("```")[0]
    address = postgres_databases.create_migrated()
    with open_store(address) as owner, owner.writing() as conn:
        conn.execute(text("CREATE ROLE audit_test_owned"))
        for statement in grants.replace(" app;", " audit_test_owned;").split(";\n"):
            if statement.strip():
                conn.execute(text(statement))
    joined = "&" if "?" in address else "?"
    try:
        with open_store(f"{address}{joined}options=-crole%3Daudit_test_owned") as store:
            RunFactory(store).every_state()
            store.append_event(event())
            assert seal(store, KEY) is not None
            assert ChainVerifier(store, key=KEY).verify_all().verdict is Verdict.INTACT
            for statement in ("UPDATE audit_events SET actor = 'x'", "UPDATE decisions SET actor = 'x'"):
                with pytest.raises(DBAPIError, match="denied"), store.writing() as conn:
                    conn.execute(text(statement))
    finally:
        with open_store(address) as owner, owner.writing() as conn:
            conn.execute(text("DROP OWNED BY audit_test_owned"))
            conn.execute(text("DROP ROLE audit_test_owned"))
        postgres_databases.drop(address)


def test_without_the_guards_everything_goes_and_is_found(filled: SqlCheckpointStore) -> None:
    """The protection taken out: the statements above do what they say."""
    with unguarded(filled) as conn:
        changed = conn.execute(text("UPDATE audit_events SET actor = 'mallory' WHERE stream <> 'control'"))
        assert changed.rowcount > 3
    assert ChainVerifier(filled, key=KEY).verify_all().verdict is Verdict.TAMPERED


def test_a_missing_guard_is_a_finding(filled: SqlCheckpointStore) -> None:
    assert verify(filled) == []
    with filled.writing() as conn:
        audit_guards.drop(conn)
    try:
        assert "guard of audit_events is missing: audit_guard_audit_events_delete" in verify(filled)
    finally:
        with filled.writing() as conn:
            audit_guards.create(conn)

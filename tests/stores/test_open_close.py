"""Opening and closing, and what each kind of database is set to."""

from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from resume_engine.core.checkpoint_store import ResumeEngine
from resume_engine.core.errors import InvalidValueError
from resume_engine.storage.open_store import describe_database_error, missing_file, open_store
from resume_engine.storage.postgres_backend import PostgresCheckpointStore, postgres_url
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.sqlite_backend import SQLiteCheckpointStore
from tests.stores.changes import change, completed, event, new_run, summary


def test_what_was_written_is_there_after_opening_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    with open_store(url) as store:
        written = store.commit(change(new_run(store), completed(0)))
    with open_store(url) as store:
        assert summary(store) == written


def test_a_closed_store_keeps_no_connection(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'x.db'}")
    new_run(store)
    store.close()
    store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.db"], "the WAL went with its last reader"


def test_the_default_database_is_the_one_of_0_2_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    SQLiteCheckpointStore().close()
    assert (tmp_path / "resume_engine.db").exists()


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "", "sqlite+nodriver"])
def test_another_address_is_refused_in_words(url: str) -> None:
    with pytest.raises(InvalidValueError, match="DATABASE_URL"):
        open_store(url)


def test_a_backend_refuses_the_address_of_another() -> None:
    with pytest.raises(InvalidValueError, match="expected sqlite"):
        SQLiteCheckpointStore("postgresql://x/y")
    with pytest.raises(InvalidValueError, match="expected postgresql"):
        PostgresCheckpointStore("sqlite:///x.db")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_spelling_of_postgres_is_understood(scheme: str) -> None:
    assert postgres_url(f"{scheme}://u@h/d").drivername == "postgresql+psycopg2"


def test_a_password_is_not_shown(postgres_store: SqlCheckpointStore) -> None:
    with_password = postgres_store.engine.url.set(username="postgres", password="secret")
    store = PostgresCheckpointStore(with_password.render_as_string(hide_password=False), check_schema=False)
    assert "secret" not in store.url and "***" in store.url
    store.close()


def test_a_file_that_is_not_a_database_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("not a database, but long enough to be looked at closely" * 50)
    with pytest.raises(Exception) as caught:
        open_store(f"sqlite:///{tmp_path / 'x.db'}")
    assert describe_database_error(caught.value) == "file is not a database"


def test_missing_files(tmp_path: Path) -> None:
    assert missing_file(f"sqlite:///{tmp_path / 'x.db'}") == str(tmp_path / "x.db")
    assert missing_file("sqlite:///:memory:") is None
    assert missing_file("postgresql://x/y") is None
    assert missing_file("nonsense") is None


# SQLite


def test_sqlite_files_are_durable_and_shared(sqlite_file_store: SqlCheckpointStore) -> None:
    with sqlite_file_store.reading() as conn:
        pragmas = {
            name: conn.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "recursive_triggers", "busy_timeout")
        }
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "recursive_triggers": 1,
        "busy_timeout": 15_000,
    }
    assert sqlite_file_store.settings_at_risk() == []


def test_every_connection_of_a_pool_is_durable(sqlite_file_store: SqlCheckpointStore) -> None:
    together = threading.Barrier(5)

    def synchronous(_: int) -> int:
        with sqlite_file_store.reading() as conn:
            together.wait()
            return int(conn.exec_driver_sql("PRAGMA synchronous").scalar_one())

    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(synchronous, range(5))) == [2] * 5


def statements_of(store: SqlCheckpointStore) -> list[str]:
    """Return a list that fills with every statement the one connection of a memory store runs."""
    seen: list[str] = []
    raw = store.engine.raw_connection()
    raw.driver_connection.set_trace_callback(seen.append)
    raw.close()
    return seen


def test_every_write_takes_its_turn_at_once() -> None:
    """A deferred transaction that turns into a writer fails at once with SQLITE_BUSY_SNAPSHOT."""
    with open_store("sqlite:///:memory:") as store:
        seen = statements_of(store)
        store.commit(change(new_run(store), completed(0)))
        store.append_event(event())
        store.renew_lease("run-1", "x", 1, 30)
        store.get_run("run-1")
        writes = ("INSERT", "UPDATE", "DELETE")
        begun = ""
        for statement in seen:
            if statement.startswith("BEGIN"):
                begun = statement
            elif statement.lstrip().startswith(writes):
                assert begun == "BEGIN IMMEDIATE", statement
        assert sum(statement == "BEGIN IMMEDIATE" for statement in seen) == 4
        assert "BEGIN" in seen, "readers do not wait for writers"


def test_a_writer_waits_for_a_locked_file(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with open_store(f"sqlite:///{path}") as store:
        new_run(store)
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        released = threading.Timer(0.5, other.execute, ("COMMIT",))
        released.start()
        started = time.monotonic()
        store.append_event(event())
        assert time.monotonic() - started > 0.4
        released.join()
        other.close()


def test_a_database_in_memory_is_one_for_all_threads() -> None:
    with SQLiteCheckpointStore("sqlite:///:memory:") as store:
        engine = ResumeEngine(store)
        together = threading.Barrier(8)

        def work(number: int) -> str:
            together.wait()
            run = engine.start_run(f"workflow {number}")
            steps = [(f"step {i}", lambda _input, _key: {"n": number}) for i in range(5)]
            return engine.execute_workflow(run.run_id, steps).run_id

        with ThreadPoolExecutor(8) as pool:
            run_ids = list(pool.map(work, range(8)))
        for number, run_id in enumerate(run_ids):
            run = engine.get_run_status(run_id)
            assert run is not None and run.workflow_name == f"workflow {number}"
            assert [step.output_data for step in run.steps] == [{"n": number}] * 5


def test_two_databases_in_memory_are_two() -> None:
    with open_store("sqlite:///:memory:") as one, open_store("sqlite://") as other:
        new_run(one)
        assert other.load_summary("run-1") is None


# PostgreSQL


@pytest.mark.parametrize("way", ["reading", "viewing"])
def test_postgres_readers_see_one_moment_and_cannot_write(
    postgres_store: SqlCheckpointStore, way: str
) -> None:
    with getattr(postgres_store, way)() as conn:
        assert conn.exec_driver_sql("SHOW transaction_isolation").scalar_one() == "repeatable read"
        assert conn.exec_driver_sql("SHOW transaction_read_only").scalar_one() == "on"
    with postgres_store.writing() as conn:
        assert conn.exec_driver_sql("SHOW transaction_isolation").scalar_one() == "read committed"
        assert conn.exec_driver_sql("SHOW transaction_read_only").scalar_one() == "off"


def test_a_view_of_postgres_sets_no_session_up(postgres_store: SqlCheckpointStore) -> None:
    """Behind a pooler the next statement has another session: a setting would stay with somebody else's."""
    with postgres_store.viewing() as conn:
        driver: Any = conn.connection.driver_connection
        assert (driver.autocommit, driver.readonly, driver.isolation_level) == (True, None, None)
    with pytest.raises(RuntimeError), postgres_store.viewing() as conn:
        driver = conn.connection.driver_connection
        raise RuntimeError
    assert driver.info.transaction_status == 0  # idle


def test_postgres_settings_that_lose_writes_are_named(postgres_store: SqlCheckpointStore) -> None:
    with postgres_store.reading() as conn:
        off = {
            name
            for name in ("fsync", "full_page_writes", "synchronous_commit")
            if conn.exec_driver_sql(f"SHOW {name}").scalar_one() == "off"
        }
    assert set(postgres_store.settings_at_risk()) == {f"{name} is off" for name in off}


def test_a_server_that_is_away_is_said_in_one_line() -> None:
    with pytest.raises(OperationalError) as caught:
        open_store("postgresql://nobody:secret@127.0.0.1:1/none")
    sentence = describe_database_error(caught.value)
    assert "Connection refused" in sentence and "secret" not in sentence and "\n" not in sentence

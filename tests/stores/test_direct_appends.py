"""The way of a completed step past the pool: connections that are kept, a statement that stays prepared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, insert, text

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import RunNotFoundError
from resume_engine.core.run import Run
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import StepRecord
from resume_engine.storage import run_rows
from resume_engine.storage.open_store import open_store
from resume_engine.storage.schema import runs
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.stores.changes import change, completed, new_run, summary


def append(store: SqlCheckpointStore, run: RunSummary) -> RunSummary:
    """Append the next step of a run by the short way."""
    record: StepRecord = completed(run.next_sequence)
    return store.commit(change(run, record, lease_seconds=30))


def test_a_session_that_forgot_the_statement_loses_nothing(postgres_url: str) -> None:
    with open_store(postgres_url) as store:
        run = append(store, new_run(store))
        # What a pooler does that gives the next transaction another session.
        store._direct.run(lambda connection, cursor, prepared: cursor.execute("DEALLOCATE ALL"))  # type: ignore[attr-defined]
        for _ in range(3):
            run = append(store, run)
        assert summary(store).steps_completed == 4
        assert [record.sequence for record in store.iter_steps("run-1")] == [0, 1, 2, 3]


def test_a_session_that_knows_the_statement_already_is_used(postgres_url: str) -> None:
    with open_store(postgres_url) as store:
        run = append(store, new_run(store))
        store._direct.run(lambda connection, cursor, prepared: prepared.clear())  # type: ignore[attr-defined]
        assert append(store, run).steps_completed == 2
        assert len(list(store.iter_steps("run-1"))) == 2


def test_a_connection_that_was_cut_is_replaced(postgres_url: str) -> None:
    with open_store(postgres_url) as store:
        run = append(store, new_run(store))
        with store.writing() as conn:
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            conn.execute(text(f"{others} AND datname = current_database()"))
        assert append(store, run).steps_completed == 2
        assert len(list(store.iter_steps("run-1"))) == 2


def test_a_run_is_begun_and_ended_although_every_connection_was_cut(postgres_url: str) -> None:
    with open_store(postgres_url) as store, create_engine(postgres_url).connect() as other:
        engine = ResumeEngine(store)
        engine.complete_run(engine.start_run("w").run_id)  # so that there are connections, just used

        def cut() -> None:
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            assert other.execute(text(f"{others} AND datname = current_database()")).all()

        cut()
        run = engine.start_run("w")
        cut()
        assert engine.execute_workflow(run.run_id, [("a", lambda *_: cut() or {})]).status == "completed"
        assert [e.event_type for e in store.list_events(run.run_id)] == ["run.started", "run.completed"]


def test_a_change_that_fails_in_its_middle_leaves_no_transaction_open(postgres_url: str) -> None:
    with open_store(postgres_url) as store:
        with pytest.raises(RunNotFoundError), store.committing(statements=2) as conn:
            conn.execute(
                insert(runs), run_rows.run_values(Run("run-1", "w"), "x", store.codec) | {"chain_head": "x"}
            )
            raise RunNotFoundError("run-1")
        assert store.load_summary("run-1") is None
        with store.committing(statements=1) as conn:
            assert conn.exec_driver_sql("SELECT now() = statement_timestamp()").scalar() is True
        assert new_run(store).version == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_speak_on_a_kept_connection(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 'x.db'}") as store:
        run = append(store, new_run(store))
        child = os.fork()
        if child == 0:
            os._exit(len(store._direct._idle))  # type: ignore[attr-defined]
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(store._direct._idle) == 1, "the parent keeps its own"  # type: ignore[attr-defined]
        assert append(store, run).steps_completed == 2


def test_a_long_workflow_does_not_make_a_step_write_more_pages(tmp_path: Path) -> None:
    path, steps = tmp_path / "x.db", 300
    with open_store(f"sqlite:///{path}") as store:

        @event.listens_for(store.engine, "connect")
        def _keep_the_log(connection: Any, _: Any) -> None:
            connection.execute("PRAGMA wal_autocheckpoint=0")

        store.close()
        engine = ResumeEngine(store)
        run = engine.start_run("w")
        log = Path(f"{path}-wal")
        before = log.stat().st_size
        # 30 KB of names: what SQLite keeps of the run's row on pages of their own.
        engine.execute_workflow(run.run_id, [("n" * 100 + str(n), lambda *_: {"a": 1}) for n in range(steps)])
        frames = (log.stat().st_size - before) / (4096 + 24)
    # The row of the run, the record, its place in two indexes; now and then an index page is split.
    assert frames / steps < 6, f"{frames / steps:.1f} pages a step"

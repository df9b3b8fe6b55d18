"""commit: one change, one transaction, all of it or nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from resume_engine.storage import step_rows
from resume_engine.storage.schema import runs, step_records
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.stores.changes import NOON, change, completed, decision, event, failed, new_run, summary
from tests.stores.faults import writes_fail


@pytest.mark.parametrize("table", ["runs", "step_records", "decisions", "audit_events"])
def test_a_failure_in_the_middle_leaves_nothing(store: SqlCheckpointStore, table: str) -> None:
    run = store.commit(change(new_run(store), completed(0)))
    before = (store.get_run("run-1"), summary(store), len(store.list_events("run-1")))
    whole = change(run, failed(1), decisions=(decision(failure_key="1:1"),), events=(event(),))
    with writes_fail(store, table), pytest.raises(SQLAlchemyError, match="test fault"):
        store.commit(whole)
    assert (store.get_run("run-1"), summary(store), len(store.list_events("run-1"))) == before
    assert store.list_decisions("run-1") == []
    assert store.commit(whole).next_sequence == 2, "the same change goes through once the fault is over"


# A step completed under a lease is nearly every write there is: it takes a way of its own to the driver.
@pytest.mark.parametrize("table", ["runs", "step_records"])
def test_a_failure_in_the_middle_of_a_plain_step_leaves_nothing(
    store: SqlCheckpointStore, table: str
) -> None:
    run = new_run(store)
    plain = change(run, completed(0), lease_seconds=30)
    with writes_fail(store, table), pytest.raises(Exception, match="test fault"):
        store.commit(plain)
    assert summary(store) == run
    assert list(store.iter_steps("run-1")) == []
    assert store.commit(plain).steps_completed == 1


def test_a_plain_step_writes_the_rows_that_any_change_writes(
    store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = completed(0, started_at=NOON, duration_ms=5, worker="w", output={"x": "ü"})

    def written(run_id: str) -> tuple[dict[str, object], dict[str, object]]:
        own = replace(record, idempotency_key=run_id.ljust(64, "0"))
        store.commit(change(new_run(store, run_id, created_at=NOON), own, lease_seconds=30))
        with store.reading() as conn:
            row = conn.execute(select(runs).where(runs.c.run_id == run_id)).mappings().one()
            step = conn.execute(select(step_records).where(step_records.c.run_id == run_id)).mappings().one()
        assert (row["chain_seq"], row["chain_head"]) == (step["chain_seq"], step["chain_hash"])
        mine = {"run_id", "change_id", "lease_expires_at", "id", "idempotency_key"}
        mine |= {"chain_head", "chain_hash"}
        return (
            {name: value for name, value in row.items() if name not in mine},
            {name: value for name, value in step.items() if name not in mine},
        )

    short = written("run-1")
    monkeypatch.setattr("resume_engine.storage.sql_store.is_plain", lambda *_: False)
    assert short == written("run-2")


def test_a_run_and_its_first_event_are_written_together(store: SqlCheckpointStore) -> None:
    with writes_fail(store, "audit_events"), pytest.raises(SQLAlchemyError, match="test fault"):
        new_run(store)
    assert store.get_run("run-1") is None


def test_the_database_itself_keeps_a_sequence_unique(store: SqlCheckpointStore) -> None:
    store.commit(change(new_run(store), completed(0)))
    with pytest.raises(IntegrityError), store.writing() as conn:
        values = step_rows.step_values("run-1", completed(0, name="other"), store.codec)
        conn.execute(insert(step_records), values | {"chain_seq": 9, "chain_hash": "x"})


def test_other_violations_are_not_renamed(store: SqlCheckpointStore) -> None:
    run = new_run(store)
    with pytest.raises(IntegrityError):
        store.commit(change(run, completed(0), events=(event(event_type=None),)))
    with pytest.raises(IntegrityError), store.writing() as conn:
        conn.execute(text("INSERT INTO runs (run_id) VALUES ('x')"))

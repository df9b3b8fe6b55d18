"""commit: one change, one transaction, all of it or nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from resume_engine.core.decisions import DecisionKind
from resume_engine.core.errors import AlreadyDecidedError, IdempotencyCollisionError, StaleRunError
from resume_engine.core.run import RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import after_step
from resume_engine.storage import rows
from resume_engine.storage.schema import runs, step_records
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.stores.changes import NOON, change, completed, decision, event, failed, new_run, summary
from tests.stores.faults import writes_fail


def test_record_counters_and_status_change_together(store: SqlCheckpointStore) -> None:
    run = new_run(store)
    after = store.commit(change(run, completed(0)))
    assert after == summary(store)
    assert (after.version, after.steps_completed, after.next_sequence) == (run.version + 1, 1, 1)
    after = store.commit(change(after, failed(1)))
    assert after == summary(store)
    assert (after.status, after.failure and after.failure.key) == (RunStatus.FAILED, "1:1")


def test_a_change_of_everything_is_read_back(store: SqlCheckpointStore) -> None:
    run = new_run(store)
    record = completed(0)
    after = replace(
        after_step(run, record),
        steps_total=7,
        lease_owner="worker-1",
        lease_token=3,
        lease_expires_at=NOON,
        finished_at=NOON,
        cleared_by="olga@example.com",
        cleared_at=NOON,
        initial_input_hash="0" * 64,
    )
    whole = RunChange(
        before=run,
        after=after,
        record=record,
        decisions=(decision(note="n", result={"a": 1}, step_sequence=4),),
        events=(event(note="first"), event(note="second")),
        initial_input={"order": "ü"},
        metadata={"gates": {}, "kept": 1},
    )
    assert store.commit(whole) == summary(store)
    assert [e.note for e in store.list_events("run-1")[1:]] == ["first", "second"]
    assert store.load_initial_input("run-1") == {"order": "ü"}
    [decided] = store.list_decisions("run-1")
    assert replace(decided, decision_id=None) == whole.decisions[0]
    found = store.get_run("run-1")
    assert found is not None and found.metadata["kept"] == 1


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


@pytest.mark.parametrize("kind", ["plain", "without lease", "with event", "failure"])
def test_a_change_of_an_old_version_is_refused(store: SqlCheckpointStore, kind: str) -> None:
    old = new_run(store)
    newer = store.commit(change(old, completed(0)))
    record = failed(1) if kind == "failure" else completed(1)
    stale = change(
        old,
        record,
        events=(event(note="stale"),) if kind == "with event" else (),
        lease_seconds=30 if kind == "plain" else None,
    )
    with pytest.raises(StaleRunError, match=f"run-1 moved on: expected version {old.version}"):
        store.commit(stale)
    assert summary(store) == newer
    assert [r.sequence for r in store.iter_steps("run-1")] == [0]
    assert "stale" not in [e.note for e in store.list_events("run-1")]


def test_a_change_of_an_unknown_run_is_refused(store: SqlCheckpointStore) -> None:
    run = replace(new_run(store), run_id="none")
    with pytest.raises(StaleRunError):
        store.commit(change(run, completed(0)))
    assert list(store.iter_steps("none")) == []


@pytest.mark.parametrize("lease_seconds", [None, 30])
def test_of_many_at_once_one_commits(store: SqlCheckpointStore, lease_seconds: float | None) -> None:
    run = new_run(store)

    def commit(number: int) -> bool:
        record = completed(0, name=f"branch_{number}")
        try:
            store.commit(change(run, record, lease_seconds=lease_seconds))
        except StaleRunError:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(commit, range(40))) == 1
    assert len(list(store.iter_steps("run-1"))) == 1


@pytest.mark.parametrize("lease_seconds", [None, 30])
def test_one_completed_record_per_key(store: SqlCheckpointStore, lease_seconds: float | None) -> None:
    run = store.commit(change(new_run(store), completed(0)))
    with pytest.raises(IdempotencyCollisionError, match=r"run-1, step 0 'step_0'.*has the key [0-9a-f]{64}"):
        store.commit(change(run, completed(1, index=0), lease_seconds=lease_seconds))
    assert summary(store) == run


def test_the_key_is_unique_over_runs(store: SqlCheckpointStore) -> None:
    new_run(store, "run-2")
    store.commit(change(new_run(store), completed(0)))
    copy = completed(0)  # the key says run-1
    with pytest.raises(IdempotencyCollisionError):
        store.commit(change(summary(store, "run-2"), copy))
    assert list(store.iter_steps("run-2")) == []


def test_failed_attempts_share_the_key_of_the_completed_one(store: SqlCheckpointStore) -> None:
    run = new_run(store)
    for record in (failed(0), failed(1, index=0), completed(2, index=0)):
        run = store.commit(change(run, record))
    assert len({r.idempotency_key for r in store.iter_steps("run-1")}) == 1


def test_the_database_itself_keeps_a_sequence_unique(store: SqlCheckpointStore) -> None:
    store.commit(change(new_run(store), completed(0)))
    with pytest.raises(IntegrityError), store.writing() as conn:
        conn.execute(insert(step_records), rows.step_values("run-1", completed(0, name="other"), store.codec))


@pytest.mark.parametrize("lease_seconds", [None, 30])
def test_a_taken_sequence_is_a_stale_view(store: SqlCheckpointStore, lease_seconds: float | None) -> None:
    """Even a caller whose version is right cannot write two records at one sequence."""
    run = store.commit(change(new_run(store), completed(0)))
    again = replace(run, next_sequence=0)
    with pytest.raises(StaleRunError, match="expected no record at sequence 0"):
        store.commit(change(again, completed(0, name="other"), lease_seconds=lease_seconds))
    assert summary(store) == run


def test_a_failure_event_is_decided_once_per_kind(store: SqlCheckpointStore) -> None:
    run = store.commit(change(new_run(store), failed(0)))
    run = store.commit(RunChange(before=run, after=run, decisions=(decision(),)))
    again = RunChange(before=run, after=run, decisions=(decision(actor="omar@example.com"),))
    with pytest.raises(AlreadyDecidedError, match=r"run-1, failure 0:0: already decided.*by olga@example"):
        store.commit(again)
    other = decision(kind=DecisionKind.PROD_RESUME_ACK)
    store.commit(RunChange(before=run, after=run, decisions=(other,)))
    assert [d.kind for d in store.list_decisions("run-1")] == ["human_approval", "prod_resume_ack"]


def test_other_violations_are_not_renamed(store: SqlCheckpointStore) -> None:
    run = new_run(store)
    with pytest.raises(IntegrityError):
        store.commit(change(run, completed(0), events=(event(event_type=None),)))
    with pytest.raises(IntegrityError), store.writing() as conn:
        conn.execute(text("INSERT INTO runs (run_id) VALUES ('x')"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_an_output_that_json_cannot_hold_is_not_written(store: SqlCheckpointStore, value: object) -> None:
    run = new_run(store)
    with pytest.raises((TypeError, ValueError)):
        store.commit(change(run, completed(0, output={"x": value})))
    assert summary(store) == run

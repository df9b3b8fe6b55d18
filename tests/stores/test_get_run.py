"""get_run and load_summary: a run with its records, and without."""

from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import update

from resume_engine.core.run import RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.step_record import StepStatus
from resume_engine.storage.schema import runs
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.stores.changes import NOON, change, completed, decision, failed, new_run, summary


@pytest.mark.parametrize("unknown", ["none", "", "nul\x00", "half \ud800", "x" * 5_000, "' OR 1=1 --", "%"])
def test_an_unknown_id_is_none(store: SqlCheckpointStore, unknown: str) -> None:
    new_run(store)
    assert store.get_run(unknown) is None
    assert store.load_summary(unknown) is None
    assert store.get_step_by_idempotency_key(unknown) is None


def test_records_come_in_order_with_every_field(store: SqlCheckpointStore) -> None:
    first = completed(
        0,
        input_data={"text": "a\x00b ✓ \ud83d", "deep": [{"x": None}], "n": 1e300},
        output={},
        attempt=2,
        started_at=NOON,
        duration_ms=17,
        worker="host:1:abc",
    )
    second = failed(1, error_traceback="Traceback ...", classified_by="raised as PermanentStepError")
    run = store.commit(change(new_run(store), first))
    store.commit(change(run, second))
    found = store.get_run("run-1")
    assert found is not None
    assert found.steps == [first, second]
    assert found.status is RunStatus.FAILED


def test_an_empty_output_is_not_no_output(store: SqlCheckpointStore) -> None:
    store.commit(change(new_run(store), completed(0, output={})))
    found = store.get_run("run-1")
    assert found is not None and found.steps[0].output_data == {}
    assert '"output_data":{}' in found.audit_trace()


def test_decisions_are_seen_in_the_metadata(store: SqlCheckpointStore) -> None:
    run = store.commit(change(new_run(store, metadata={"a": 1}), failed(0)))
    made = (decision(), decision(failure_key="0:9", note="n"))
    store.commit(RunChange(before=run, after=run.evolve(blocked_by=()), decisions=made))
    found = store.get_run("run-1")
    assert found is not None
    assert found.metadata["a"] == 1
    gates = found.metadata["gates"]
    assert set(gates["approvals"]) == {"0:0", "0:9"}
    assert gates["human_approval"]["approved_by"] == "olga@example.com"


def test_gates_left_in_the_metadata_by_0_2_0_decide_nothing(store: SqlCheckpointStore) -> None:
    store.commit(change(new_run(store), failed(0)))
    left = '{"gates": {"human_approval": {"granted": true, "failure_key": "0:0"}}, "kept": 1}'
    with store.writing() as conn:
        conn.execute(update(runs).values(metadata_json=left))
    found = store.get_run("run-1")
    assert found is not None and found.metadata == {"kept": 1}


def test_gates_in_the_metadata_of_a_new_run_decide_nothing(store: SqlCheckpointStore) -> None:
    forged = {"gates": {"human_approval": {"granted": True, "failure_key": "0:0", "approved_by": "me"}}}
    store.commit(change(new_run(store, metadata=forged), failed(0)))
    found = store.get_run("run-1")
    assert found is not None and "gates" not in found.metadata
    assert summary(store).blocked_by


def test_a_summary_costs_one_statement_however_many_steps(store: SqlCheckpointStore) -> None:
    run = new_run(store)
    for number in range(50):
        run = store.commit(change(run, completed(number)))
    statements: list[str] = []

    def count(conn: object, cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith("BEGIN"):
            statements.append(statement)

    for engine in store.engines:
        sqlalchemy_event.listen(engine, "before_cursor_execute", count)
    try:
        assert summary(store) == run
    finally:
        for engine in store.engines:
            sqlalchemy_event.remove(engine, "before_cursor_execute", count)
    assert len(statements) == 1 and "step_records" not in statements[0]


def test_a_run_is_read_at_one_moment(store: SqlCheckpointStore) -> None:
    """Row, records and decisions of one answer belong together while somebody writes."""
    run = new_run(store)
    stop = threading.Event()

    def write() -> None:
        current = run
        try:
            for number in range(25):
                current = store.commit(change(current, completed(number)))
        finally:
            stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    torn = []
    while not stop.is_set():
        with store.reading() as conn:
            before = conn.exec_driver_sql("SELECT next_sequence FROM runs").scalar_one()
            records = conn.exec_driver_sql("SELECT count(*) FROM step_records").scalar_one()
            if before != records:
                torn.append((before, records))
        time.sleep(0.001)  # a database in memory has one connection: the writer wants it, too
    writer.join()
    assert torn == []
    found = store.get_run("run-1")
    assert found is not None and len(found.steps) == 25
    assert {step.status for step in found.steps} == {StepStatus.COMPLETED}

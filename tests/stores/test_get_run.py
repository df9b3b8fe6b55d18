"""get_run and load_summary: a run with its records, and without."""

from __future__ import annotations

import threading
import time

from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import update

from resume_engine.core.step_record import StepStatus
from resume_engine.storage.schema import runs
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.guards import unguarded
from tests.stores.changes import change, completed, failed, new_run, summary


def test_gates_left_in_the_metadata_by_0_2_0_decide_nothing(store: SqlCheckpointStore) -> None:
    store.commit(change(new_run(store), failed(0)))
    left = '{"gates": {"human_approval": {"granted": true, "failure_key": "0:0"}}, "kept": 1}'
    with unguarded(store) as conn:
        conn.execute(update(runs).values(metadata_json=left))
    found = store.get_run("run-1")
    assert found is not None and found.metadata == {"kept": 1}


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

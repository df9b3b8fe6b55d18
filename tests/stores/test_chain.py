"""Chains as a store writes them: one per run, one for everything else, no entry without its place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import select

from resume_engine.core.audit_chain import CONTROL, event_link, record_hash
from resume_engine.storage.schema import audit_events, audit_streams, runs, step_records
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory
from tests.stores.changes import change, completed, decision, event, failed, new_run, summary


def entries(store: SqlCheckpointStore, stream: str = "run-1") -> list[tuple[int, str]]:
    """Return number and hash of every entry of a stream, in order."""
    events = select(audit_events.c.chain_seq, audit_events.c.chain_hash).where(
        audit_events.c.stream == stream
    )
    records = select(step_records.c.chain_seq, step_records.c.chain_hash).where(
        step_records.c.run_id == stream
    )
    with store.reading() as conn:
        found = [*conn.execute(events), *conn.execute(records)]
    return sorted((row[0], row[1]) for row in found)


def head(store: SqlCheckpointStore, stream: str = "run-1") -> tuple[int, str]:
    table: Any = runs if stream != CONTROL else audit_streams
    key = table.c.run_id if stream != CONTROL else table.c.stream
    with store.reading() as conn:
        row = conn.execute(select(table.c.chain_seq, table.c.chain_head).where(key == stream)).one()
    return (row[0], row[1])


def test_a_run_begins_with_its_first_event(store: SqlCheckpointStore) -> None:
    run = new_run(store)
    [started] = store.list_events("run-1")
    link = event_link("run-1", 0, None, started)
    assert entries(store) == [(1, link.hash)]
    assert (run.chain_seq, run.chain_head) == head(store) == (1, link.hash)


@pytest.mark.parametrize("lease_seconds", [30, None], ids=["plain", "any other"])
def test_a_step_takes_the_next_place(store: SqlCheckpointStore, lease_seconds: float | None) -> None:
    run = new_run(store)
    after = store.commit(change(run, completed(0), lease_seconds=lease_seconds))
    expected = record_hash("run-1", 2, run.chain_head, completed(0))
    assert (after.chain_seq, after.chain_head) == head(store) == (2, expected)
    assert entries(store)[1:] == [(2, expected)]
    assert summary(store).chain_head == after.chain_head


def test_a_change_of_everything_leaves_no_gap(store: SqlCheckpointStore) -> None:
    run = store.commit(change(new_run(store), failed(0)))
    events = (event(note="first"), event(note="second"))
    run = store.commit(change(run, failed(1), events=events, decisions=(decision(failure_key="0:0"),)))
    assert [seq for seq, _ in entries(store)] == [1, 2, 3, 4, 5]
    assert entries(store)[-1] == head(store) == (run.chain_seq, run.chain_head)
    with store.reading() as conn:
        columns = (audit_events.c.chain_seq, audit_events.c.prev_hash, audit_events.c.chain_hash)
        query = select(*columns).where(audit_events.c.stream == "run-1").order_by(audit_events.c.chain_seq)
        first, second, third = conn.execute(query).all()
    assert (first.chain_seq, second.chain_seq, third.chain_seq) == (1, 4, 5)
    assert third.prev_hash == second.chain_hash
    assert second.prev_hash == entries(store)[2][1]


def test_what_changes_no_run_stands_in_the_control_stream(store: SqlCheckpointStore) -> None:
    run = new_run(store)
    store.append_event(event(note="names a run and changes nothing"))
    store.append_event(event(run_id=None))
    assert [seq for seq, _ in entries(store, CONTROL)] == [1, 2]
    assert entries(store, CONTROL)[-1] == head(store, CONTROL)
    assert head(store) == (run.chain_seq, run.chain_head)
    assert [e.note for e in store.list_events("run-1")] == [None, "names a run and changes nothing"]


def test_many_writers_of_the_control_stream_leave_no_gap(store: SqlCheckpointStore) -> None:
    def write(number: int) -> None:
        for turn in range(5):
            store.append_event(event(run_id=None, note=f"{number}/{turn}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    found = entries(store, CONTROL)
    assert [seq for seq, _ in found] == list(range(1, 41))
    assert found[-1] == head(store, CONTROL)
    with store.reading() as conn:
        query = select(audit_events.c.prev_hash, audit_events.c.chain_hash).order_by(audit_events.c.chain_seq)
        links = conn.execute(query).all()
    assert all(second.prev_hash == first.chain_hash for first, second in pairwise(links))


def test_every_kind_of_run_is_chained_whole(store: SqlCheckpointStore) -> None:
    for run in RunFactory(store).every_state().values():
        found = entries(store, run.run_id)
        assert [seq for seq, _ in found] == list(range(1, len(found) + 1))
        assert found[-1] == head(store, run.run_id)

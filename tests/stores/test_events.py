"""append_event and list_events: the audit log only grows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.stores.changes import event, new_run


def test_an_event_is_read_as_it_was_written(store: SqlCheckpointStore) -> None:
    written = event(
        note="ü ✓",
        failure_key="0:0",
        payload={"deep": [{"x": None}], "nul": "a\x00b", "half": "\ud800"},
    )
    store.append_event(written)
    [found] = store.list_events("run-1")
    assert found.event_id is not None
    assert replace(found, event_id=None) == written


def test_events_are_listed_oldest_first_and_by_run(store: SqlCheckpointStore) -> None:
    for number in range(3):
        store.append_event(event(note=str(number)))
    store.append_event(event("run-2"))
    store.append_event(event(None))
    assert [e.note for e in store.list_events("run-1")] == ["0", "1", "2"]
    assert store.list_events("none") == []


def test_an_actor_of_any_name_is_kept(store: SqlCheckpointStore) -> None:
    store.append_event(event(actor="nul\x00" + "x" * 300, note="nul\x00"))
    [found] = store.list_events("run-1")
    assert found.actor == ("nul\\x00" + "x" * 300)[:255] and found.note == "nul\\x00"


def test_many_at_once_are_all_kept(store: SqlCheckpointStore) -> None:
    new_run(store)
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda number: store.append_event(event(note=str(number))), range(100)))
    found = [e for e in store.list_events("run-1") if e.note]
    assert sorted(int(e.note or 0) for e in found) == list(range(100))
    assert len({e.event_id for e in found}) == 100

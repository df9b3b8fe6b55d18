"""Collecting finished runs: what goes, what must stay, and what is said of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import false, func, select, update

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.audit import EventType
from resume_engine.core.clock import utc_now
from resume_engine.core.permissions import Role
from resume_engine.core.run_summary import RunState
from resume_engine.storage import garbage
from resume_engine.storage.forwarding_marks import ForwardingMarks, Mark
from resume_engine.storage.garbage import collect, count_unforwarded
from resume_engine.storage.schema import audit_events, decisions, runs, step_records
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.verification import verify
from tests.factories import RunFactory, ago, at, steps
from tests.stores.changes import summary

CRON = Actor(name="cron", role=Role.OPERATOR, channel=Channel.CLI)


def take(store: SqlCheckpointStore, *, days: float = 90, dry_run: bool = False) -> list[garbage.Garbage]:
    before = utc_now() - timedelta(days=days)
    return list(collect(store, before, actor=CRON, dry_run=dry_run))


def left(store: SqlCheckpointStore) -> set[str]:
    with store.reading() as conn:
        return set(conn.execute(select(runs.c.run_id)).scalars())


def count(store: SqlCheckpointStore, table: Any) -> int:
    with store.reading() as conn:
        found: int = conn.execute(select(func.count()).select_from(table)).scalar_one()
    return found


def old_runs(store: SqlCheckpointStore, days: float = 100) -> dict[str, str]:
    """Make a run in each state, as long ago as said; what holds a lease holds it until then."""
    with at(ago(days=days)):
        made = {state: run.run_id for state, run in RunFactory(store).every_state().items()}
    return made


def test_completed_and_cancelled_runs_go_with_their_steps_and_decisions(store: SqlCheckpointStore) -> None:
    made = old_runs(store)
    events = count(store, audit_events)
    [completed, cancelled] = sorted(take(store), key=lambda batch: batch.decisions)
    assert completed.run_ids == (made["completed"],) and cancelled.run_ids == (made["cancelled"],)
    assert (completed.step_records, completed.decisions) == (3, 0)
    assert (cancelled.step_records, cancelled.decisions) == (2, 1)
    assert left(store) == {
        run_id for state, run_id in made.items() if state not in ("completed", "cancelled")
    }
    for table in (step_records, decisions):
        with store.reading() as conn:
            theirs = set(conn.execute(select(table.c.run_id)).scalars())
        assert not theirs & {made["completed"], made["cancelled"]}
    assert count(store, audit_events) == events + 2
    assert {event.event_type for event in store.list_events(made["cancelled"])} >= {
        EventType.RUN_STARTED.value,
        EventType.GATE_REJECTED.value,
    }
    assert verify(store) == []


def test_each_batch_leaves_one_event_that_names_what_went(store: SqlCheckpointStore) -> None:
    run_id = old_runs(store)["completed"]
    take(store)
    query = select(audit_events).where(audit_events.c.event_type == EventType.RUN_COLLECTED.value)
    with store.reading() as conn:
        events = conn.execute(query.order_by(audit_events.c.event_id)).all()
    assert len(events) == 2
    payloads = [store.codec.decode(event.payload_json) for event in events]
    [payload] = [found for found in payloads if run_id in found["run_ids"]]
    assert {name: payload[name] for name in ("runs", "step_records", "decisions")} == {
        "runs": 1,
        "step_records": 3,
        "decisions": 0,
    }
    assert {(event.actor, event.channel, event.run_id) for event in events} == {("cron", "cli", None)}


def test_a_run_that_ended_lately_stays_however_old_it_is(store: SqlCheckpointStore) -> None:
    factory = RunFactory(store)
    with at(ago(days=100)):
        old = factory.cleared()
        done = factory.completed()
    factory.engine.resume(old.run_id, steps(3))
    assert [batch.run_ids for batch in take(store)] == [(done.run_id,)]
    assert left(store) == {old.run_id}


@pytest.mark.parametrize(
    "values",
    [
        {"blocked_by": "human_approval", "failure_sequence": 0},
        {"lease_owner": "worker-1", "lease_expires_at": utc_now() + timedelta(days=1)},
    ],
    ids=["an open gate", "a live lease"],
)
def test_what_waits_or_is_held_is_never_taken(store: SqlCheckpointStore, values: dict[str, Any]) -> None:
    """No finished run should look like that; if one does, it is not the collector who decides."""
    with at(ago(days=100)):
        run = RunFactory(store).completed()
    with store.writing() as conn:
        conn.execute(update(runs).where(runs.c.run_id == run.run_id).values(values))
    assert take(store) == [] and left(store) == {run.run_id}


def test_a_run_of_0_2_0_has_no_end_but_its_last_change(store: SqlCheckpointStore) -> None:
    with at(ago(days=100)):
        run = RunFactory(store).completed()
    with store.writing() as conn:
        conn.execute(update(runs).values(finished_at=None))
    assert [batch.run_ids for batch in take(store)] == [(run.run_id,)]


def test_a_dry_run_says_the_same_and_changes_nothing(store: SqlCheckpointStore) -> None:
    old_runs(store)
    tables = (runs, step_records, decisions, audit_events)
    before = [count(store, table) for table in tables]
    wanted = take(store, dry_run=True)
    assert [count(store, table) for table in tables] == before
    assert take(store) == wanted


def test_many_runs_go_in_small_batches(store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "RUNS_PER_BATCH", 4)
    monkeypatch.setattr(garbage, "RECORDS_PER_BATCH", 7)
    factory = RunFactory(store)
    made = set()
    for day in range(200, 190, -1):
        with at(ago(days=day)):
            made.add(factory.completed(count=3).run_id)
    with at(ago(days=150)):
        long = factory.completed(count=9).run_id
    batches = take(store)
    assert [len(batch.run_ids) for batch in batches] == [2, 2, 2, 2, 2, 1]
    assert {run_id for batch in batches for run_id in batch.run_ids} == made | {long}
    assert batches[-1].step_records == 9  # more than a batch holds, but a run is not torn apart
    assert left(store) == set()


def test_what_stays_does_not_stop_the_rest(
    store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first batch full of runs that ended lately would otherwise be read for ever."""
    monkeypatch.setattr(garbage, "RUNS_PER_BATCH", 2)
    factory = RunFactory(store)
    with at(ago(days=100)):
        ids = [factory.completed().run_id for _ in range(5)]
    with store.writing() as conn:
        conn.execute(update(runs).where(runs.c.run_id.in_(ids[:3])).values(finished_at=utc_now()))
    take(store)
    assert left(store) == set(ids[:3])


def test_states_tell_what_may_go(store: SqlCheckpointStore) -> None:
    made = old_runs(store)
    take(store)
    kept = left(store)
    assert {state for state, run_id in made.items() if run_id in kept} == {
        state.value for state in RunState if state not in (RunState.COMPLETED, RunState.CANCELLED)
    }


def test_a_run_that_the_control_plane_has_not_got_is_kept(store: SqlCheckpointStore) -> None:
    made = old_runs(store)
    marks = ForwardingMarks(store)
    marks.begin("http://plane/api")
    marks.begin("http://plane/api")
    ended = {made["completed"], made["cancelled"]}
    before = utc_now() - timedelta(days=90)
    assert count_unforwarded(store, before) == 2
    assert take(store) == [] and ended <= left(store), "none of it was forwarded"
    run = summary(store, made["completed"])
    marks.save(Mark(run.run_id, records=3, version=run.version - 1))
    marks.save(Mark(made["cancelled"], records=2, version=-1, conflict="another run has its id there"))
    assert take(store) == [] and take(store, dry_run=True) == [], "half of it, or a conflict"
    marks.save(Mark(run.run_id, records=3, version=run.version))
    assert [batch.run_ids for batch in take(store)] == [(run.run_id,)]
    assert count_unforwarded(store, before) == 1
    [batch] = collect(store, before, actor=CRON, unforwarded=True)
    assert batch.run_ids == (made["cancelled"],)


def test_without_that_condition_the_test_above_fails(
    store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "is_here_only", false)
    with pytest.raises(AssertionError):
        test_a_run_that_the_control_plane_has_not_got_is_kept(store)

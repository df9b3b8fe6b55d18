"""The benchmark's databases hold nothing that the engine would not have written."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from bench import bulk_load
from bench.databases import NOW
from bench.stamping import Press
from bench.stories import Outcome, StoryTeller
from bench.workflows import WORKFLOWS
from resume_engine.core.clock import ManualClock, replaced_by
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.idempotency import generate_idempotency_key, hash_input
from resume_engine.core.resume_gates import get_resume_blockers
from resume_engine.core.run import Run
from resume_engine.core.run_summary import RunSummary, blockers_of
from resume_engine.storage.audit_queries import AuditQueries, EventFilter
from resume_engine.storage.open_store import open_store
from resume_engine.storage.run_filter import RunFilter
from resume_engine.storage.run_queries import RunQueries
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.verification import verify

RUNS = 400


@pytest.fixture(scope="module")
def press() -> Press:
    """The stories of one short workflow, and a run of 12 steps as the long one."""
    teller = StoryTeller()
    return Press(
        teller.tell_all(WORKFLOWS[1:2]), [("long", timedelta(hours=2), teller.tell_long(12, Outcome.BLOCKED))]
    )


@pytest.fixture(scope="module")
def sqlite_sample(press: Press, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlCheckpointStore]:
    """A sample in a SQLite file."""
    path: Path = tmp_path_factory.mktemp("bench") / "sample.db"
    with open_store(f"sqlite:///{path}") as store:
        bulk_load.load(store.engine, press.print_events(press.print_runs(RUNS, NOW), NOW), lambda _: None)
        yield store


@pytest.fixture
def postgres_sample(press: Press, postgres_url: str) -> Iterator[SqlCheckpointStore]:
    """The same sample in PostgreSQL."""
    with open_store(postgres_url) as store:
        bulk_load.load(store.engine, press.print_events(press.print_runs(RUNS, NOW), NOW), lambda _: None)
        yield store


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_sample_is_what_the_engine_writes(kind: str, request: pytest.FixtureRequest) -> None:
    store: SqlCheckpointStore = request.getfixturevalue(f"{kind}_sample")

    assert verify(store) == []
    runs = _all_runs(store)
    assert len(runs) == RUNS
    for summary in runs:
        run = store.get_run(summary.run_id)
        assert run is not None
        _assert_counters_are_those_of_the_records(summary, run)
        _assert_keys_are_those_of_the_contract(run)
        assert [b.required_action for b in blockers_of(summary)] == [
            b.required_action for b in get_resume_blockers(run)
        ]


def test_a_stamped_run_can_be_resumed(sqlite_sample: SqlCheckpointStore) -> None:
    cleared = next(run for run in _all_runs(sqlite_sample) if run.cleared_by and not run.blocked_by)
    workflow = next(w for w in WORKFLOWS if w.name == cleared.workflow_name)

    with replaced_by(ManualClock(NOW)):
        done = ResumeEngine(sqlite_sample).resume(
            cleared.run_id, [(name, lambda state, key: {"done": True}) for name in workflow.steps]
        )

    assert done.status == "completed"
    assert len(done.completed_indexes()) == len(workflow.steps)


def test_events_are_written_in_the_order_in_which_they_happened(sqlite_sample: SqlCheckpointStore) -> None:
    events = list(AuditQueries(sqlite_sample).stream(EventFilter(until=NOW)))

    assert [event.event_id for event in events] == sorted(event.event_id or 0 for event in events)
    assert {event.event_type for event in events} >= {"run.started", "gate.approved", "auth.signed_in"}


def test_the_indexes_after_a_load_are_those_of_the_schema(sqlite_sample: SqlCheckpointStore) -> None:
    assert bulk_load.build_indexes(sqlite_sample.engine) == []


def _all_runs(store: SqlCheckpointStore) -> list[RunSummary]:
    with replaced_by(ManualClock(NOW)):
        return list(RunQueries(store).list_runs(RunFilter(), limit=RUNS + 10).items)


def _assert_counters_are_those_of_the_records(summary: RunSummary, run: Run) -> None:
    assert summary.steps_completed == len(run.completed_indexes())
    assert summary.resume_from_index == run.resume_from_index()
    assert summary.next_sequence == len(run.steps)
    assert [step.sequence for step in run.steps] == list(range(len(run.steps)))
    failed = run.open_failure()
    assert (summary.failure.key if summary.failure else None) == (failed.failure_key if failed else None)


def _assert_keys_are_those_of_the_contract(run: Run) -> None:
    for step in run.steps:
        assert step.input_hash == hash_input(step.input_data)
        assert step.idempotency_key == generate_idempotency_key(
            run.run_id, step.step_name, step.step_index, step.input_hash
        )
        assert run.created_at <= step.timestamp <= NOW

"""No list, page or look-up reads more when there is more: each walks an index and ends after a page."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from resume_engine.core.clock import ManualClock, replaced_by
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment
from resume_engine.core.run_summary import RunState
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.audit_queries import AuditQueries, EventFilter
from resume_engine.storage.gate_queries import GateQueries
from resume_engine.storage.keyset import Cursor
from resume_engine.storage.open_store import open_store
from resume_engine.storage.run_filter import RunFilter
from resume_engine.storage.run_page_queries import RunPageQueries
from resume_engine.storage.run_queries import RunQueries
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.step_queries import StepQueries
from tests.provision.postgres import Databases
from tests.stores.query_plans import LONG_RUN, NOW, RUNS, fill, sent_by, statements_of

MIDDLE = NOW - timedelta(days=10)
FORWARDS, BACKWARDS = Cursor(moment=MIDDLE, row_id="8"), Cursor(moment=MIDDLE, row_id="8", backwards=True)
NAMES = [f"flow_{number}" for number in range(7)]


@pytest.fixture(scope="module")
def sqlite_filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlCheckpointStore]:
    """A filled SQLite file that nobody ran ANALYZE on."""
    path: Path = tmp_path_factory.mktemp("plans") / "filled.db"
    with open_store(f"sqlite:///{path}") as store:
        fill(store)
        yield store


@pytest.fixture(scope="module")
def postgres_filled(postgres_databases: Databases) -> Iterator[SqlCheckpointStore]:
    """A filled PostgreSQL database."""
    address = postgres_databases.create_migrated()
    with open_store(address) as store:
        fill(store)
        yield store
    postgres_databases.drop(address)


@pytest.fixture(params=["sqlite", "postgres"])
def filled(request: pytest.FixtureRequest) -> Iterator[SqlCheckpointStore]:
    """A filled store of each kind in turn, seen at the moment it was made for."""
    with replaced_by(ManualClock(NOW)):
        yield request.getfixturevalue(f"{request.param}_filled")


LISTS: dict[str, Callable[[RunQueries], object]] = {
    "plain": lambda read: read.list_runs(RunFilter()),
    "next page": lambda read: read.list_runs(RunFilter(), cursor=FORWARDS),
    "page before": lambda read: read.list_runs(RunFilter(), cursor=BACKWARDS),
    **{f"state {s}": lambda read, s=s: read.list_runs(RunFilter(state=s)) for s in RunState},
    "workflow": lambda read: read.list_runs(RunFilter(workflow="flow_3")),
    "environment": lambda read: read.list_runs(RunFilter(environment=Environment.PROD)),
    "class": lambda read: read.list_runs(RunFilter(classification=FailureClassification.PARTIAL)),
    "blocked by": lambda read: read.list_runs(RunFilter(blocked_by=GateAction.HUMAN_APPROVAL)),
    "since": lambda read: read.list_runs(RunFilter(since=MIDDLE, until=NOW)),
    "completed + workflow": lambda read: read.list_runs(
        RunFilter(state=RunState.COMPLETED, workflow="flow_1"), cursor=FORWARDS
    ),
    "failed + workflow": lambda read: read.list_runs(RunFilter(state=RunState.FAILED, workflow="flow_1")),
    "interrupted + environment": lambda read: read.list_runs(
        RunFilter(state=RunState.INTERRUPTED, environment=Environment.DEV)
    ),
    "cause": lambda read: read.list_runs(
        RunFilter(error_type="ValueError", message_start="amount 1 is negative", since=MIDDLE)
    ),
    "queue": lambda read: read.list_blocked(),
    "queue, next page": lambda read: read.list_blocked(cursor=FORWARDS),
    "queue, filtered": lambda read: read.list_blocked(
        action=GateAction.HUMAN_APPROVAL, environment=Environment.PROD, workflow="flow_1"
    ),
}
ATTEMPTS: dict[str, Callable[[StepQueries], object]] = {
    "steps": lambda read: read.list_steps(LONG_RUN, after=1_000),
    "failed steps": lambda read: read.list_steps(LONG_RUN, only_failed=True),
    "attempts": lambda read: read.list_attempts(LONG_RUN, latest=200),
    "one attempt": lambda read: read.load_step_view(LONG_RUN, 1_234),
    "output of one attempt": lambda read: read.load_step_json(LONG_RUN, 1_234, "output"),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_one_statement_that_walks_an_index(filled: SqlCheckpointStore, name: str) -> None:
    [statement] = sent_by(filled, lambda: LISTS[name](RunQueries(filled)))

    assert statement.problems() == [], statement.plan


@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_list_of_attempts_is_one_statement_that_walks_an_index(
    filled: SqlCheckpointStore, name: str
) -> None:
    [statement] = sent_by(filled, lambda: ATTEMPTS[name](StepQueries(filled)))

    assert statement.problems() == [], statement.plan


def test_the_names_of_workflows_are_looked_up_one_by_one(filled: SqlCheckpointStore) -> None:
    [statement] = sent_by(filled, RunQueries(filled).workflow_names)

    assert "ix_runs_workflow" in statement.plan
    assert statement.problems() == [], statement.plan


SEARCHES = {
    "beginning of an id": RunFilter(search=LONG_RUN[:9]),
    "beginning of very many ids": RunFilter(search="0"),
    "part of a name": RunFilter(search="low_3"),
    "part of several names, filtered": RunFilter(search="ow_", state=RunState.CLEARED),
    "nothing": RunFilter(search="there is no such thing"),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_sorts_no_more_than_a_page_of_each_way_to_find(
    filled: SqlCheckpointStore, name: str
) -> None:
    *others, statement = sent_by(filled, lambda: RunQueries(filled).list_runs(SEARCHES[name], names=NAMES))

    assert len(others) <= 1
    for sent in (*others, statement):
        assert not any(problem.startswith("reads all") for problem in sent.problems()), sent.plan


COUNTS: dict[str, Callable[[RunQueries], object]] = {
    "what is blocked": lambda read: read.count_blocked(),
    "states": lambda read: read.count_states(NOW - timedelta(days=7), NOW),
    "states, hours of a day": lambda read: read.count_states(
        NOW - timedelta(days=7), NOW, hourly_from=NOW - timedelta(hours=23)
    ),
    "causes": lambda read: read.failure_causes(NOW - timedelta(days=7)),
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_is_one_statement_and_reads_no_table_as_a_whole(
    filled: SqlCheckpointStore, name: str
) -> None:
    [statement] = sent_by(filled, lambda: COUNTS[name](RunQueries(filled)))

    assert not any(problem.startswith("reads all") for problem in statement.problems()), statement.plan


@pytest.mark.parametrize("hours", [None, 23], ids=["by the hour", "hours of a day"])
def test_states_are_counted_as_each_run_is_shown(filled: SqlCheckpointStore, hours: int | None) -> None:
    since = NOW - timedelta(days=7, minutes=20)
    hourly_from = None if hours is None else NOW - timedelta(hours=hours)
    expected: Counter[tuple[datetime, RunState]] = Counter()
    for run in RunQueries(filled).list_runs(RunFilter(since=since), limit=RUNS).items:
        before = hourly_from is not None and run.created_at < hourly_from
        hour = (since if before else run.created_at).replace(minute=0, second=0, microsecond=0)
        expected[hour, run.state(NOW)] += 1

    counted = RunQueries(filled).count_states(since, NOW, hourly_from=hourly_from)

    assert {(count.hour, count.state): count.count for count in counted} == expected
    assert {count.state for count in counted} == set(RunState)


EVENTS: dict[str, EventFilter] = {
    "all": EventFilter(),
    "actor": EventFilter(actor="person_3"),
    "kind": EventFilter(kind="gate.approved"),
    "run": EventFilter(run_id=LONG_RUN),
    "time": EventFilter(since=MIDDLE, until=MIDDLE + timedelta(days=1)),
    "actor + family": EventFilter(actor="person_3", kind="gate."),
}


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("position", [{}, {"before": 3_000}, {"after": 3_000}], ids=str)
def test_a_page_of_events_walks_an_index(
    filled: SqlCheckpointStore, name: str, position: dict[str, int]
) -> None:
    [statement] = sent_by(filled, lambda: AuditQueries(filled).list_events(EVENTS[name], **position))

    assert statement.problems() == [], statement.plan


def test_a_family_of_events_is_one_walk_for_each_kind(filled: SqlCheckpointStore) -> None:
    [statement] = sent_by(filled, lambda: AuditQueries(filled).list_events(EventFilter(kind="gate.")))

    assert not any(problem.startswith("reads all") for problem in statement.problems()), statement.plan
    assert statement.plan.count("ix_audit_events_type") == 6


def test_an_export_of_events_goes_on_where_it_stopped(filled: SqlCheckpointStore) -> None:
    sent = sent_by(filled, lambda: list(AuditQueries(filled).stream(EventFilter(since=MIDDLE))))

    assert len(sent) > 3
    assert [statement.problems() for statement in sent] == [[]] * len(sent)


def test_a_run_page_does_not_read_the_steps_of_the_run(filled: SqlCheckpointStore) -> None:
    sent = sent_by(filled, lambda: RunPageQueries(filled).load(LONG_RUN))

    assert len(sent) <= 3
    assert not any("reads all" in problem for statement in sent for problem in statement.problems())


def test_the_queue_item_is_found_without_reading_the_queue(filled: SqlCheckpointStore) -> None:
    [statement] = sent_by(filled, GateQueries(filled).oldest_waiting)

    assert "ix_runs_blocked_since" in statement.plan
    assert statement.problems() == [], statement.plan


def test_the_engine_finds_a_step_by_its_key_and_a_run_by_its_id(filled: SqlCheckpointStore) -> None:
    def look_up() -> None:
        filled.load_summary(LONG_RUN)
        filled.load_step(LONG_RUN, 7)
        filled.get_step_by_idempotency_key("0" * 64)
        list(filled.iter_steps(LONG_RUN))

    sent = sent_by(filled, look_up)

    assert [statement.problems() for statement in sent] == [[]] * len(sent)


def test_the_worker_looks_at_no_run_that_completed(filled: SqlCheckpointStore) -> None:
    [statement] = sent_by(
        filled, lambda: filled.find_resumable(NAMES, failed_before=NOW, max_attempts=5, limit=20)
    )

    assert "ix_runs_open_created" in statement.plan or "ix_runs_workflow_open" in statement.plan
    assert not any(problem.startswith("reads all") for problem in statement.problems()), statement.plan


@pytest.mark.parametrize("analyzed", [False, True], ids=["as it grew", "after ANALYZE"])
def test_every_combination_of_filters_walks_an_index_on_sqlite(
    sqlite_filled: SqlCheckpointStore, analyzed: bool
) -> None:
    """The statements name their index: one that could not serve them fails here, not for a reader."""
    if analyzed:
        with sqlite_filled.writing() as conn:
            conn.execute(text("ANALYZE"))
    combinations = list(
        itertools.product(
            [None, *RunState],
            [None, "flow_1"],
            [None, Environment.PROD],
            [None, FailureClassification.PARTIAL],
            [None, GateAction.COMPENSATION],
            [None, "ValueError"],
            [(None, FORWARDS), (MIDDLE, BACKWARDS)],
        )
    )
    read = RunQueries(sqlite_filled)
    with replaced_by(ManualClock(NOW)), statements_of(sqlite_filled) as sent:
        for state, workflow, environment, failure_class, gate, error, (since, cursor) in combinations:
            wanted = RunFilter(
                state=state,
                workflow=workflow,
                environment=environment,
                classification=failure_class,
                blocked_by=gate,
                error_type=error,
                since=since,
            )
            read.list_runs(wanted, cursor=cursor)

    assert len(sent) == len(combinations)
    assert [statement.plan for statement in sent if statement.problems()] == []

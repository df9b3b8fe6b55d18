"""Fill a database with a week of runs, all of it written by the engine itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial

from resume_engine.core import clock
from resume_engine.storage.audit_queries import AuditQueries, EventFilter
from resume_engine.storage.open_store import open_store
from resume_engine.storage.run_queries import RunQueries
from resume_engine.storage.sql_store import SqlCheckpointStore
from webapp.accounts.login_links import SYSTEM
from webapp.accounts.store import AccountStore
from webapp.demo.people import EVERYBODY
from webapp.demo.plan import ORDINARY_RUNS, Planned, plan_week
from webapp.demo.simulated_time import SimulatedTime
from webapp.demo.stories import Storyteller

SEED = 20_260_301
IN_MEMORY = "sqlite:///:memory:"

Report = Callable[[int, int], None]
"""Called with the number of runs told so far and in all."""


class DatabaseInUseError(Exception):
    """The database holds something already; the demo fills empty ones only."""


def fill(
    store: SqlCheckpointStore,
    *,
    report: Report | None = None,
    seed: int = SEED,
    end: datetime | None = None,
    ordinary_runs: int = ORDINARY_RUNS,
) -> int:
    """Fill an empty store with the week before `end` (default: now) and return the number of runs.

    Raises `DatabaseInUseError` when the store holds a run or an event.
    """
    if RunQueries(store).workflow_names() or AuditQueries(store).list_events(EventFilter(), limit=1)[0]:
        raise DatabaseInUseError("is not empty; the demo fills new databases only")
    end = end or clock.utc_now()
    planned = plan_week(seed, end, ordinary_runs=ordinary_runs)
    if not is_sqlite(store):
        _play(store, planned, end, report)
        return len(planned)
    # Each of the thousands of small transactions is flushed to disk, as it must be. A past that is made up
    # need not wait for that: it is played in memory and copied.
    with open_store(IN_MEMORY) as memory:
        _play(memory, planned, end, report)
        _copy(memory, store)
    return len(planned)


def is_sqlite(store: SqlCheckpointStore) -> bool:
    """Return whether the store is a SQLite database, which can be copied as a whole."""
    return store.engine.dialect.name == "sqlite"


def _play(
    store: SqlCheckpointStore, planned: Sequence[Planned], end: datetime, report: Report | None
) -> None:
    manual = clock.ManualClock(end - timedelta(days=8))
    with clock.replaced_by(manual):
        _add_people(store, manual)
        time = SimulatedTime(manual, end)
        teller = Storyteller(store, time.sleep)
        for number, (at, story) in enumerate(planned, 1):
            time.add(at, partial(teller.tell, story))
            if report is not None:
                time.add(at, partial(report, number, len(planned)))
        time.play()


def _add_people(store: SqlCheckpointStore, manual: clock.ManualClock) -> None:
    accounts = AccountStore(store)
    for person in EVERYBODY:
        accounts.add(person.email, role=person.role, display_name=person.name, actor=SYSTEM)
        manual.advance(95)


def _copy(source: SqlCheckpointStore, target: SqlCheckpointStore) -> None:
    read, write = source.engine.raw_connection(), target.engine.raw_connection()
    try:
        read.driver_connection.backup(write.driver_connection)  # type: ignore[union-attr]
    finally:
        read.close()
        write.close()

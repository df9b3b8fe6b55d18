"""How many runs are in which state, without looking at those that completed.

Nearly all runs complete. They are counted by the time of their creation, out of an index; then the few others
are taken off, each by the index that holds its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    TextualSelect,
    bindparam,
    case,
    false,
    func,
    literal,
    select,
    text,
    union_all,
)

from resume_engine.core.run import RunStatus
from resume_engine.core.run_summary import RunState
from resume_engine.storage.run_list import by_index
from resume_engine.storage.schema import UtcDateTime, runs

HourOf = Callable[[Any], Any]
ParseHour = Callable[[Any], datetime]
_HOUR = timedelta(hours=1)
_BOUND = "bound_"
_AT_REST = [status for status in RunStatus if status not in (RunStatus.COMPLETED, RunStatus.RUNNING)]
_NO_END = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class StateCount:
    """How many runs created in one hour (UTC) are in a state now."""

    hour: datetime
    state: RunState
    count: int


@dataclass(frozen=True)
class Stretches:
    """Stretches of time that follow each other, the last without an end; `hourly_from` on they are hours."""

    bounds: Sequence[datetime]
    hourly_from: datetime

    @classmethod
    def between(cls, since: datetime, now: datetime, hourly_from: datetime | None) -> Stretches:
        """Return whole hours from `since` (or `hourly_from`) to `now`, and one stretch for what is before."""
        first = _whole_hour(since if hourly_from is None else max(hourly_from, since))
        hours = [first + number * _HOUR for number in range(int((now - first) / _HOUR) + 1)]
        return cls(sorted({since, *(hour for hour in hours if hour > since)}), first)

    def holding(self, hour: datetime | None) -> datetime:
        """Return the first hour of the stretch that holds `hour`; None is what was before the hours."""
        last = _whole_hour(self.bounds[-1])
        return _whole_hour(self.bounds[0]) if hour is None else min(hour, last)


def count_states(
    conn: Connection, stretches: Stretches, now: datetime, hour_of: HourOf, parse_hour: ParseHour
) -> list[StateCount]:
    """Return the counts of all stretches; one statement."""
    bounds = {f"{_BOUND}{number}": bound for number, bound in enumerate([*stretches.bounds, _NO_END])}
    moments = {"since": stretches.bounds[0], "hourly_from": stretches.hourly_from, "now": now}
    query = _statement(hour_of, len(stretches.bounds))
    totals: dict[tuple[datetime, RunState], int] = {}
    left = dict.fromkeys(map(_whole_hour, stretches.bounds), 0)
    for at, word, is_expired, count in conn.execute(query, bounds | moments):
        if word in bounds:
            left[_whole_hour(bounds[word])] += count
            continue
        hour = stretches.holding(None if at is None else parse_hour(at))
        key = (hour, _state(word, bool(is_expired)))
        totals[key] = totals.get(key, 0) + count
        left[hour] -= count
    totals |= {(hour, RunState.COMPLETED): count for hour, count in left.items() if count > 0}
    return [StateCount(hour=h, state=s, count=n) for (h, s), n in sorted(totals.items())]


@lru_cache(maxsize=64)
def _statement(hour_of: HourOf, stretches: int) -> CompoundSelect[Any]:
    """Return the statement for so many stretches; to put it together takes as long as to ask it."""
    return union_all(
        # Leases change all the time and are in no index: only running runs are looked at one by one.
        _open_runs(hour_of, [RunStatus.RUNNING], with_leases=True),
        _open_runs(hour_of, _AT_REST, with_leases=False),
        _blocked_runs(hour_of),
        _amounts(stretches),
    )


def _open_runs(hour_of: HourOf, statuses: Sequence[RunStatus], *, with_leases: bool) -> Select[Any]:
    hour = _hour(hour_of)
    expired: ColumnElement[Any] = false()
    if with_leases:
        expired = func.coalesce(runs.c.lease_expires_at < _moment("now"), False)
    query = (
        select(hour, runs.c.status, expired.label("expired"), func.count())
        .where(runs.c.status.in_([status.value for status in statuses]), runs.c.blocked_by.is_(None))
        .where(runs.c.created_at >= _moment("since"))
        .group_by(hour, runs.c.status)
    )
    return by_index(query.group_by(expired) if with_leases else query, "ix_runs_open_created")


def _blocked_runs(hour_of: HourOf) -> Select[Any]:
    hour = _hour(hour_of)
    query = (
        select(hour, literal(RunState.BLOCKED.value), false(), func.count())
        .where(runs.c.blocked_by.is_not(None), runs.c.created_at >= _moment("since"))
        .group_by(hour)
    )
    return by_index(query, "ix_runs_blocked_created")


def _amounts(count: int) -> TextualSelect:
    """Return the statement that counts the runs of each stretch out of the index of creation."""
    names = [f"{_BOUND}{number}" for number in range(count + 1)]
    stretches = ", ".join(f"('{names[n]}', :{names[n]}, :{names[n + 1]})" for n in range(count))
    columns: list[Column[Any]] = [Column("hour"), Column("word"), Column("expired"), Column("count")]
    statement = f"""
        SELECT NULL, word, false,
            (SELECT count(*) FROM runs WHERE created_at >= since AND created_at < until)
        FROM (
            SELECT column1 AS word, column2 AS since, column3 AS until
            FROM (VALUES {stretches}) AS bounds
        ) AS stretches
        """
    return text(statement).bindparams(*map(_moment, names)).columns(*columns)


def _hour(hour_of: HourOf) -> ColumnElement[Any]:
    created = runs.c.created_at
    hour: ColumnElement[Any] = case((created >= _moment("hourly_from"), hour_of(created)))
    return hour.label("hour")


def _moment(name: str) -> BindParameter[datetime]:
    return bindparam(name, type_=UtcDateTime)


def _state(word: str, expired: bool) -> RunState:
    if word == RunStatus.PAUSED:
        return RunState.CLEARED
    if word == RunStatus.RUNNING and expired:
        return RunState.INTERRUPTED
    return RunState(word)


def _whole_hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)

"""The overview: what needs me now?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from flask import Blueprint, render_template, request
from flask.typing import ResponseReturnValue

from resume_engine.core import clock
from resume_engine.core.permissions import Permission
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment
from resume_engine.core.run_summary import RunState
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.run_counts import StateCount
from resume_engine.storage.run_queries import FailureCause
from webapp.extensions import gate_queries, run_queries
from webapp.formats import plural
from webapp.pages import gate_list, run_url
from webapp.pages.gate_item import GateItem, item_of
from webapp.pages.waiting import Waiting, waiting
from webapp.permissions import can, requires
from webapp.presentation import OPEN_GATES, STATES

LATEST_DECISIONS = 8
HOURS_OF_A_DAY, DAYS_OF_A_WEEK = 24, 7
_BAD = frozenset({RunState.FAILED, RunState.BLOCKED, RunState.INTERRUPTED, RunState.CANCELLED})

blueprint = Blueprint("overview", __name__)


@dataclass(frozen=True, kw_only=True)
class KindCount:
    """How many runs wait for one kind of decision, and since when the oldest does."""

    kind: str
    count: int
    oldest: datetime | None
    href: str


@dataclass(frozen=True, kw_only=True)
class Need:
    """What waits for a person."""

    all: Waiting
    prod: int
    kinds: Sequence[KindCount]

    @property
    def version(self) -> str:
        """Return what changes whenever these numbers do."""
        words = [f"{self.all.count}.{self.prod}.{_second(self.all.oldest)}"]
        return ".".join([*words, *(f"{k.count}.{_second(k.oldest)}" for k in self.kinds)])


@dataclass(frozen=True, kw_only=True)
class Hour:
    """One bar: runs created in one hour, by how they stand now."""

    start: datetime
    completed: int
    failed: int
    other: int

    @property
    def total(self) -> int:
        """Return all of them."""
        return self.completed + self.failed + self.other


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number of runs in one state, and the address of exactly these runs."""

    state: str
    count: int
    href: str


@dataclass(frozen=True, kw_only=True)
class CauseLine:
    """One cause of failures: the address of its runs and, where some wait, of approving them together."""

    cause: FailureCause
    href: str
    bulk_href: str | None = None


@blueprint.get("/")
@requires(Permission.RUNS_READ)
def show() -> ResponseReturnValue:
    """Show the oldest open gate in place, then how the runs are doing."""
    item = _oldest()
    return render_template("overview.html", need=need(), item=item, bare=item is None, **_figures())


@blueprint.get("/overview/need")
@requires(Permission.RUNS_READ)
def needs() -> ResponseReturnValue:
    """Return the numbers of what waits, for the page that renews them; nothing while they are the same."""
    found = need()
    if request.args.get("v") == found.version:
        return "", 204
    return render_template("overview/_need.html", need=found, bare="bare" in request.args, renew_count=True)


@blueprint.get("/overview/figures")
@requires(Permission.RUNS_READ)
def figures() -> ResponseReturnValue:
    """Return the lower half of the page, for the page that renews it."""
    return render_template("overview/_figures.html", **_figures())


def need() -> Need:
    """Return what waits for a person, by kind, each with the address of exactly these runs."""
    kinds = []
    for word in OPEN_GATES:
        found = waiting(GateAction(word))
        kinds.append(
            KindCount(kind=word, count=found.count, oldest=found.oldest, href=gate_list.href(kind=word))
        )
    return Need(all=waiting(), prod=waiting(environment=Environment.PROD).count, kinds=kinds)


def _second(moment: datetime | None) -> int:
    return int(moment.timestamp()) if moment else 0


def _oldest() -> GateItem | None:
    found = gate_queries().oldest_waiting()
    return item_of(found) if found is not None else None


def _figures() -> dict[str, object]:
    now = clock.utc_now()
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    # Whole hours, so that the bars, the numbers and the lists behind them count the same runs.
    day = this_hour - timedelta(hours=HOURS_OF_A_DAY - 1)
    week = this_hour - timedelta(days=DAYS_OF_A_WEEK)
    counts = run_queries().count_states(week, now, hourly_from=day)
    hours = _hours([count for count in counts if count.hour >= day], day)
    return {
        "day": {"hours": hours, "words": _words(hours), "since": day, "figures": _by_state(counts, day)},
        "week": {"since": week, "figures": _by_state(counts, week)},
        "causes": [_cause_line(cause, week) for cause in run_queries().failure_causes(week)],
        "latest": gate_queries().decided_since(week, limit=LATEST_DECISIONS),
    }


def _hours(counts: Sequence[StateCount], first: datetime) -> list[Hour]:
    found = []
    for index in range(HOURS_OF_A_DAY):
        start = first + timedelta(hours=index)
        here = [count for count in counts if count.hour == start]
        completed = sum(c.count for c in here if c.state is RunState.COMPLETED)
        failed = sum(c.count for c in here if c.state in _BAD)
        other = sum(c.count for c in here) - completed - failed
        found.append(Hour(start=start, completed=completed, failed=failed, other=other))
    return found


def _words(hours: Sequence[Hour]) -> str:
    """Return in a sentence what the bars show."""
    busiest = max(hours, key=lambda hour: hour.total)
    worst = max(hours, key=lambda hour: hour.failed)
    words = f"Runs started in each of the last {HOURS_OF_A_DAY} hours, {sum(h.total for h in hours)} in all"
    if busiest.total:
        words += f"; most at {busiest.start:%H}:00 UTC ({plural(busiest.total, 'run')})"
    if worst.failed:
        words += f"; most of those that failed or wait at {worst.start:%H}:00 UTC ({worst.failed})"
    return words


def _by_state(counts: Sequence[StateCount], since: datetime) -> list[Figure]:
    totals = dict.fromkeys(STATES, 0)
    for count in counts:
        if count.hour >= since:
            totals[count.state.value] += count.count
    return [
        Figure(state=state, count=total, href=_since(since, status=state))
        for state, total in totals.items()
        if total
    ]


def _cause_line(cause: FailureCause, since: datetime) -> CauseLine:
    several = cause.count > 1 and cause.classification is FailureClassification.PERMANENT
    return CauseLine(
        cause=cause,
        bulk_href=gate_list.bulk_href(cause.message_start)
        if several and can(Permission.GATES_DECIDE)
        else None,
        href=_since(
            since,
            failure=cause.classification.value,
            error_type=cause.error_type,
            message=cause.message_start,
        ),
    )


def _since(moment: datetime, **words: str | None) -> str:
    return run_url.href(**{**words, "from": moment.strftime("%Y-%m-%dT%H:%MZ")})

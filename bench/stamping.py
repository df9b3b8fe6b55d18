"""Many runs out of few stories: other ids, other times, everything else as the engine wrote it."""

from __future__ import annotations

import hashlib
import heapq
import json
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Table

from bench.stories import STORY_TIME, Outcome, Story, StoryTeller, duration, possible
from bench.workflows import ENVIRONMENTS, PEOPLE, WORKFLOWS
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.idempotency import generate_idempotency_key
from resume_engine.storage.schema import audit_events, decisions, runs, step_records

RUN_OF_10 = "b0000010-0000-4000-8000-000000000010"
RUN_OF_1000 = "b0001000-0000-4000-8000-000000001000"
RUN_OF_10000 = "b0010000-0000-4000-8000-000000010000"
DAYS = 60
DATA_VERSION = 3
"""Raise it when other rows than before come out of here: kept databases are then built anew."""

Values = list[Any]

# In percent; where an outcome cannot happen in an environment the others share its part.
_SHARE_AND_AGE: dict[Outcome, tuple[float, Callable[[random.Random], timedelta]]] = {
    Outcome.COMPLETED: (86.5, lambda rng: _any_time(rng)),
    Outcome.RETRIED: (6.0, lambda rng: _any_time(rng)),
    Outcome.MENDED: (3.0, lambda rng: _any_time(rng)),
    Outcome.FAILED: (0.3, lambda rng: timedelta(hours=rng.expovariate(1 / 20))),
    Outcome.BLOCKED: (1.8, lambda rng: timedelta(days=rng.expovariate(1 / 12))),
    Outcome.HALF_DECIDED: (0.4, lambda rng: timedelta(days=rng.expovariate(1 / 6))),
    Outcome.CLEARED: (0.2, lambda rng: timedelta(hours=rng.expovariate(1 / 3))),
    Outcome.REJECTED: (1.5, lambda rng: _any_time(rng)),
    Outcome.RUNNING: (0.15, lambda rng: timedelta(0)),
    Outcome.INTERRUPTED: (0.2, lambda rng: timedelta(days=rng.expovariate(1 / 2))),
    Outcome.PENDING: (0.05, lambda rng: timedelta(minutes=rng.expovariate(1 / 20))),
}


def _any_time(rng: random.Random) -> timedelta:
    # Two thirds of the runs start in working hours.
    hour = rng.gauss(14, 3) % 24 if rng.random() < 0.66 else rng.uniform(0, 24)
    return timedelta(days=rng.randrange(DAYS) + 1) - timedelta(hours=hour)


@dataclass(frozen=True)
class Template:
    """A row with the places that every stamp fills anew."""

    values: Sequence[Any]
    moments: Sequence[tuple[int, timedelta]]
    run_id_at: int
    key_at: int | None = None
    key_middle: str = ""

    def stamp(self, run_id: str, start: datetime, row_id: int | None) -> Values:
        """Return the row of one run; moments are text in the form both databases read."""
        row = list(self.values)
        row[self.run_id_at] = run_id
        for place, offset in self.moments:
            row[place] = (start + offset).isoformat(" ", "microseconds")
        if self.key_at is not None:
            row[self.key_at] = hashlib.sha256(f"{run_id}{self.key_middle}".encode()).hexdigest()
        if row_id is not None:
            row[0] = row_id
        return row


@dataclass(frozen=True)
class Stamped:
    """The rows of one run, ready for a bulk load."""

    run: Values
    steps: list[Values]
    decisions: list[Values]
    events: list[tuple[datetime, Template, str]]


# 0.2.0's duplicates do not occur; a copied chain would not verify: these columns keep their defaults.
_LEFT_OUT = {"legacy_duplicate", "stream", "chain_seq", "chain_head", "prev_hash", "chain_hash"}
COLUMNS: dict[str, list[str]] = {
    table.name: [c.name for c in table.c if c.name not in _LEFT_OUT]
    for table in (runs, step_records, decisions, audit_events)
}


_IN_FLIGHT_AT = COLUMNS["runs"].index("in_flight_json")


class Press:
    """Hold the stories as templates: `stories` of every outcome, and `long_runs` with their ids and ages."""

    def __init__(
        self, stories: Sequence[Story], long_runs: Sequence[tuple[str, timedelta, Story]] = ()
    ) -> None:
        self._stories = {story.key: _Printed(story) for story in stories}
        self._long = [(run_id, age, _Printed(story)) for run_id, age, story in long_runs]
        told = {story.key[0] for story in stories}
        self._workflows = [workflow for workflow in WORKFLOWS if workflow.name in told]

    @classmethod
    def of_everything(cls) -> Press:
        """Tell all stories and return them as templates; takes half a minute."""
        teller = StoryTeller()
        long_runs = [
            (RUN_OF_1000, timedelta(hours=26), teller.tell_long(1_000, Outcome.BLOCKED)),
            (RUN_OF_10000, timedelta(days=3), teller.tell_long(10_000, Outcome.BLOCKED)),
        ]
        return cls(teller.tell_all(), long_runs)

    def print_runs(self, count: int, now: datetime, *, seed: int = 1) -> Iterator[Stamped]:
        """Yield `count` runs in order of their start."""
        rng = random.Random(seed)
        weights = [workflow.weight for workflow in self._workflows]
        names = [workflow.name for workflow in self._workflows]
        planned: list[tuple[datetime, str, _Printed]] = []
        for run_id, age, printed in self._long:
            planned.append((now - age, run_id, printed))
        ten = self._stories[(names[0], ENVIRONMENTS[0][0], Outcome.COMPLETED)]
        planned.append((now - timedelta(hours=2), RUN_OF_10, ten))
        for _ in range(count - len(planned)):
            environment = rng.choices([e for e, _ in ENVIRONMENTS], [w for _, w in ENVIRONMENTS])[0]
            outcomes = possible(environment)
            outcome = rng.choices(outcomes, [_SHARE_AND_AGE[o][0] for o in outcomes])[0]
            printed = self._stories[(rng.choices(names, weights)[0], environment, outcome)]
            run_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
            planned.append((_start(rng, now, outcome, printed), run_id, printed))
        planned.sort(key=lambda plan: plan[:2])
        step_id = decision_id = 1
        for start, run_id, printed in planned:
            yield printed.stamp(run_id, start.replace(tzinfo=None), step_id, decision_id)
            step_id += len(printed.steps)
            decision_id += len(printed.decisions)

    def print_events(
        self, stamped: Iterator[Stamped], now: datetime
    ) -> Iterator[tuple[Stamped, list[Values]]]:
        """Yield each run with the audit events that are older than its start, in order of time.

        The last one comes with all events left. Sign-ins of people are mixed in.
        """
        waiting: list[tuple[datetime, int, Template, str]] = []
        number = event_id = 0
        last: Stamped | None = None
        for run in stamped:
            if last is not None:
                until = run.events[0][0]
                ready: list[Values] = []
                while waiting and waiting[0][0] < until:
                    event_id += 1
                    ready.append(_event(heapq.heappop(waiting), event_id))
                yield last, ready
            for moment, template, run_id in run.events:
                number += 1
                heapq.heappush(waiting, (moment, number, template, run_id))
            if number % 20 == 0:
                number += 1
                heapq.heappush(waiting, (run.events[0][0], number, _SIGN_INS[number % len(_SIGN_INS)], ""))
            last = run
        if last is not None:
            left = []
            while waiting:
                event_id += 1
                left.append(_event(heapq.heappop(waiting), event_id))
            yield last, left


def _event(entry: tuple[datetime, int, Template, str], event_id: int) -> Values:
    moment, _, template, run_id = entry
    offset = template.moments[0][1]
    return template.stamp(run_id or None, moment - offset, event_id)  # type: ignore[arg-type]


class _Printed:
    """A story as templates."""

    def __init__(self, story: Story) -> None:
        self.outcome = story.key[2]
        self.duration = duration(story)
        self.run = _template(runs, story.run)
        self.in_flight = json.loads(story.run["in_flight_json"] or "[]")
        self.in_flight_hash = story.in_flight_hash
        self.steps = [_template(step_records, step) for step in story.steps]
        self.decisions = [_template(decisions, decision) for decision in story.decisions]
        self.events = [_template(audit_events, event) for event in story.events]

    def stamp(self, run_id: str, start: datetime, step_id: int, decision_id: int) -> Stamped:
        """Return the rows of a run that started at `start` (UTC, without a zone)."""
        run = self.run.stamp(run_id, start, None)
        if self.in_flight:
            run[_IN_FLIGHT_AT] = self._in_flight(run_id, start)
        return Stamped(
            run=run,
            steps=[t.stamp(run_id, start, step_id + at) for at, t in enumerate(self.steps)],
            decisions=[t.stamp(run_id, start, decision_id + at) for at, t in enumerate(self.decisions)],
            events=[(start + t.moments[0][1], t, run_id) for t in self.events],
        )

    def _in_flight(self, run_id: str, start: datetime) -> str:
        [(index, name, _, attempt, since)] = self.in_flight
        key = generate_idempotency_key(run_id, name, index, self.in_flight_hash or "")
        moved = start.replace(tzinfo=UTC) + (datetime.fromisoformat(since) - STORY_TIME)
        return json.dumps([[index, name, key, attempt, moved.isoformat()]])


def _template(table: Table, row: dict[str, Any]) -> Template:
    names = COLUMNS[table.name]
    moments = [(at, row[n] - STORY_TIME) for at, n in enumerate(names) if isinstance(row[n], datetime)]
    key_at, middle = None, ""
    if table is step_records:
        key_at = names.index("idempotency_key")
        middle = f":{row['step_name']}:{row['step_index']}:{row['input_hash']}"
    return Template([row[n] for n in names], moments, names.index("run_id"), key_at, middle)


def _start(rng: random.Random, now: datetime, outcome: Outcome, printed: _Printed) -> datetime:
    if outcome is Outcome.RUNNING:
        return now - printed.duration - timedelta(seconds=rng.uniform(0, 20))  # its lease of 30 s still holds
    age = min(_SHARE_AND_AGE[outcome][1](rng), timedelta(days=DAYS))
    lease = timedelta(seconds=45) if outcome is Outcome.INTERRUPTED else timedelta(0)
    return now - max(age, printed.duration + lease)


def _sign_ins() -> list[Template]:
    found = []
    for person in PEOPLE:
        event = AuditEvent.by(person, EventType.AUTH_SIGNED_IN, STORY_TIME, payload={"address": "10.1.4.7"})
        row = {name: getattr(event, name, None) for name in COLUMNS["audit_events"]}
        found.append(_template(audit_events, row | {"payload_json": json.dumps(event.payload)}))
    return found


_SIGN_INS = _sign_ins()

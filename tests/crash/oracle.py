"""Compare what the world outside saw with what the engine recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import func, select

from resume_engine.core.run import FINISHED_STATUSES, RunStatus
from resume_engine.core.step_record import StepRecord
from resume_engine.storage.chain_verification import ChainVerifier
from resume_engine.storage.schema import audit_events, runs, step_records
from resume_engine.storage.signing import NoKey
from resume_engine.storage.sql_store import SqlCheckpointStore
from resume_engine.storage.verification import verify
from tests.crash.effects import Effects
from tests.crash.workload import STEPS

Place = tuple[str, str]
"""A run and one of its steps."""


@dataclass
class Doubts:
    """The intents that killed processes left behind, as seen before anybody took their runs over."""

    seen: dict[Place, list[str]] = field(default_factory=dict)
    _known: set[tuple[str, int, str]] = field(default_factory=set)

    def look(self, store: SqlCheckpointStore) -> None:
        """Note the steps whose outcome is unknown now."""
        with store.reading() as conn:
            named = conn.execute(select(runs.c.run_id).where(runs.c.in_flight_json.is_not(None))).scalars()
            run_ids = list(named)
        for run_id in run_ids:
            run = store.load_summary(run_id)
            assert run is not None
            for step in run.in_flight:
                place = (run_id, run.lease_token, step.step_name)
                if place not in self._known:
                    self._known.add(place)
                    self.seen.setdefault((run_id, step.step_name), []).append(step.idempotency_key)

    @property
    def count(self) -> int:
        """Return how many there were."""
        return sum(map(len, self.seen.values()))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was counted, and what is wrong, one sentence each."""

    runs: int
    steps: int
    acknowledged: int
    repeated: int
    doubts: int
    damage: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.runs} runs, {self.steps} steps recorded, {self.acknowledged} acknowledged, "
            f"{self.doubts} left in doubt, {self.repeated} effects repeated, {len(self.damage)} damaged"
        )


def unfinished_runs(store: SqlCheckpointStore) -> list[str]:
    """Return the ids of the runs that are not over."""
    finished = [status.value for status in FINISHED_STATUSES]
    with store.reading() as conn:
        query = select(runs.c.run_id).where(runs.c.status.not_in(finished)).order_by(runs.c.created_at)
        return list(conn.execute(query).scalars())


def judge(
    store: SqlCheckpointStore, effects: Effects, doubts: Doubts, *, unfinished: Sequence[str] = ()
) -> Verdict:
    """Return what is wrong once all runs are finished (but for those that are named)."""
    records = {run_id: list(store.iter_steps(run_id)) for run_id in _run_ids(store)}
    damage = [
        *_lost(effects, records),
        *_run_again(effects),
        *_keys(effects),
        *_unexplained(effects, doubts),
        *_recorded_wrongly(store, records, unfinished),
        *verify(store),
        *map(str, ChainVerifier(store, key=NoKey()).verify_all().findings),
    ]
    return Verdict(
        runs=len(records),
        steps=sum(map(len, records.values())),
        acknowledged=len({(e.run_id, e.step) for e in effects.journal("acknowledged")}),
        repeated=sum(count - 1 for count in _acts(effects).values()),
        doubts=doubts.count,
        damage=tuple(damage),
    )


def _run_ids(store: SqlCheckpointStore) -> list[str]:
    with store.reading() as conn:
        return list(conn.execute(select(runs.c.run_id)).scalars())


def _acts(effects: Effects) -> Counter[Place]:
    return Counter((entry.run_id, entry.step) for entry in effects.journal("effect"))


def _lost(effects: Effects, records: dict[str, list[StepRecord]]) -> list[str]:
    """What a client was told is on record, with the very output it was told."""
    found = [
        f"run {e.run_id} was started and is gone"
        for e in effects.journal("started")
        if e.run_id not in records
    ]
    outputs = {
        (run_id, record.step_name): (record.output_data or {}).get(record.step_name)
        for run_id, steps in records.items()
        for record in steps
        if record.is_completed
    }
    return found + [
        f"acknowledged and lost: {e.step} of {e.run_id}"
        for e in effects.journal("acknowledged")
        if outputs.get((e.run_id, e.step)) != e.nonce
    ]


def _run_again(effects: Effects) -> list[str]:
    """A step that was acknowledged has no effect after that."""
    told: set[Place] = set()
    found = []
    for entry in effects.journal():
        if entry.kind == "acknowledged":
            told.add((entry.run_id, entry.step))
        elif entry.kind == "effect" and (entry.run_id, entry.step) in told:
            found.append(f"completed and run again: {entry.step} of {entry.run_id}")
    return found


def _keys(effects: Effects) -> list[str]:
    """All attempts of a step carry one key, so that a receiver that knows keys acts once."""
    acted = Counter((run_id, step) for run_id, step, _ in effects.keyed())
    return [f"{step} of {run_id} had {count} keys" for (run_id, step), count in acted.items() if count > 1]


def _unexplained(effects: Effects, doubts: Doubts) -> list[str]:
    """A step acted again only where a killed process had left its intent, and with the key of that."""
    found = []
    keys = {(run_id, step): key for run_id, step, key in effects.keyed()}
    for place, count in _acts(effects).items():
        left = doubts.seen.get(place, [])
        if count - 1 > len(left):
            found.append(f"{place[1]} of {place[0]} acted {count} times after {len(left)} interruptions")
        if any(key != keys[place] for key in left):
            found.append(f"{place[1]} of {place[0]} was left in doubt with another key")
    return found


def _recorded_wrongly(
    store: SqlCheckpointStore, records: dict[str, list[StepRecord]], unfinished: Sequence[str]
) -> list[str]:
    found = []
    for run_id, steps in records.items():
        names = [record.step_name for record in steps if record.is_completed]
        run = store.load_summary(run_id)
        assert run is not None
        if run.steps_completed != len(names):
            found.append(f"run {run_id} counts {run.steps_completed} steps and has {len(names)}")
        if run_id in unfinished:
            continue
        if run.status is not RunStatus.COMPLETED:
            found.append(f"run {run_id} is {run.status} in the end")
        if names != list(STEPS):
            found.append(f"run {run_id} has the steps {names}")
        if run.in_flight or run.lease_owner:
            found.append(f"run {run_id} is over and still held by {run.lease_owner}")
    with store.reading() as conn:
        claims = conn.execute(
            select(audit_events.c.run_id, func.count())
            .where(audit_events.c.event_type == "run.resumed")
            .group_by(audit_events.c.run_id)
        ).all()
        tokens = {
            row.run_id: row.lease_token for row in conn.execute(select(runs.c.run_id, runs.c.lease_token))
        }
        positions = conn.execute(
            select(step_records.c.run_id, func.count(), func.max(step_records.c.sequence)).group_by(
                step_records.c.run_id
            )
        ).all()
    found += [
        f"run {run} was resumed {n} times on {tokens[run]} leases" for run, n in claims if n > tokens[run]
    ]
    return found + [f"the sequence of run {run} has gaps" for run, n, last in positions if last != n - 1]

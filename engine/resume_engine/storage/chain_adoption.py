"""Chain what was recorded before there was a chain; part of a migration.

Runs are taken in batches, their records in the order of their sequence and their events by time among them.
Decisions of 0.2.0 have no event: they get one, so that no decision stands outside the chain.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, bindparam, insert, not_, or_, select, update

from resume_engine.core.actor import ENGINE_ACTOR
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.audit_chain import CONTROL, entry_hash
from resume_engine.core.clock import utc_now
from resume_engine.core.decision import Decision
from resume_engine.core.decisions import EVENT_OF_KIND
from resume_engine.storage import audit_rows
from resume_engine.storage.audit_log import append_in_tx
from resume_engine.storage.chain_reader import StoredEntry
from resume_engine.storage.payload_codec import PayloadCodec
from resume_engine.storage.schema import audit_events, audit_streams, decisions, runs, step_records

_RUNS_PER_BATCH = 200
_EVENTS_PER_BATCH = 500
_NO_CHANGE = ("gate.refused", *audit_rows.PLAIN_EVENTS)
_SET_STEP = (
    update(step_records)
    .where(step_records.c.id == bindparam("row_key"))
    .values(chain_seq=bindparam("seq"), chain_hash=bindparam("hash"))
)
_SET_EVENT = (
    update(audit_events)
    .where(audit_events.c.event_id == bindparam("row_key"))
    .values(
        stream=bindparam("to"),
        chain_seq=bindparam("seq"),
        prev_hash=bindparam("prev"),
        chain_hash=bindparam("hash"),
    )
)
_SET_HEAD = (
    update(runs)
    .where(runs.c.run_id == bindparam("row_key"))
    .values(chain_seq=bindparam("seq"), chain_head=bindparam("hash"))
)


def adopt(conn: Connection, codec: PayloadCodec) -> None:
    """Chain every record and event that stands in no chain, and say how many they were."""
    found = {"runs": 0, "step_records": 0, "events": 0}
    for run_ids in _batches(conn):
        _give_events(conn, run_ids, codec)
        _adopt_runs(conn, run_ids, codec, found)
    _adopt_control(conn, codec, found)
    if any(found.values()):
        event = AuditEvent.by(ENGINE_ACTOR, EventType.AUDIT_CHAIN_STARTED, utc_now(), payload=found)
        append_in_tx(conn, event)


def _batches(conn: Connection) -> Iterator[Sequence[str]]:
    last = ""
    while True:
        query = select(runs.c.run_id).where(runs.c.run_id > last, runs.c.chain_seq == 0)
        found = conn.execute(query.order_by(runs.c.run_id).limit(_RUNS_PER_BATCH)).scalars().all()
        if not found:
            return
        yield found
        last = found[-1]


def _give_events(conn: Connection, run_ids: Sequence[str], codec: PayloadCodec) -> None:
    """Write the event of every decision that has none."""
    kinds = [kind.value for kind in EVENT_OF_KIND.values()]
    there = select(audit_events.c.run_id, audit_events.c.failure_key, audit_events.c.event_type)
    there = there.where(audit_events.c.run_id.in_(run_ids), audit_events.c.event_type.in_(kinds))
    told = {tuple(row) for row in conn.execute(there)}
    query = select(decisions).where(decisions.c.run_id.in_(run_ids)).order_by(decisions.c.decision_id)
    for row in conn.execute(query).all():
        event = _event_of(audit_rows.decision_from_row(row, codec))
        if (event.run_id, event.failure_key, event.event_type) not in told:
            conn.execute(insert(audit_events), audit_rows.event_values(event, codec))


def _event_of(decision: Decision) -> AuditEvent:
    return AuditEvent(
        event_type=EVENT_OF_KIND[decision.kind].value,
        actor=decision.actor,
        role=decision.role,
        channel=decision.channel,
        created_at=decision.decided_at,
        run_id=decision.run_id,
        failure_key=decision.failure_key,
        note=decision.note,
        payload={"carried_over": True},
    )


def _adopt_runs(conn: Connection, run_ids: Sequence[str], codec: PayloadCodec, found: dict[str, int]) -> None:
    steps = select(step_records).where(step_records.c.run_id.in_(run_ids))
    steps = steps.order_by(
        step_records.c.run_id, step_records.c.sequence, step_records.c.legacy_duplicate, step_records.c.id
    )
    no_change = or_(*(audit_events.c.event_type.startswith(kind) for kind in _NO_CHANGE))
    events = select(audit_events).where(audit_events.c.run_id.in_(run_ids), not_(no_change))
    events = events.order_by(audit_events.c.run_id, audit_events.c.event_id)
    records_of = _by_run(conn.execute(steps).all())
    events_of = _by_run(conn.execute(events).all())
    for run_id in run_ids:
        records = [StoredEntry(row, is_step=True) for row in records_of.get(run_id, [])]
        told = [StoredEntry(row, is_step=False) for row in events_of.get(run_id, [])]
        seq, head = _chain(conn, run_id, heapq.merge(told, records, key=_time), codec, 0, None)
        conn.execute(_SET_HEAD, {"row_key": run_id, "seq": seq, "hash": head})
        found["runs"] += 1
        found["step_records"] += len(records)
        found["events"] += len(told)


def _by_run(found: Sequence[Any]) -> dict[str, list[Any]]:
    return {run_id: list(group) for run_id, group in groupby(found, key=lambda row: row.run_id)}


def _time(entry: StoredEntry) -> datetime:
    found: datetime = entry.row.timestamp if entry.is_step else entry.row.created_at
    return found


def _adopt_control(conn: Connection, codec: PayloadCodec, found: dict[str, int]) -> None:
    seq, head = 0, None
    while True:
        query = select(audit_events).where(audit_events.c.stream.is_(None)).order_by(audit_events.c.event_id)
        batch = conn.execute(query.limit(_EVENTS_PER_BATCH)).all()
        if not batch:
            break
        seq, head = _chain(
            conn, CONTROL, [StoredEntry(row, is_step=False) for row in batch], codec, seq, head
        )
        found["events"] += len(batch)
    if seq:
        conn.execute(insert(audit_streams).values(stream=CONTROL, chain_seq=seq, chain_head=head))


def _chain(
    conn: Connection,
    stream: str,
    entries: Iterable[StoredEntry],
    codec: PayloadCodec,
    seq: int,
    head: str | None,
) -> tuple[int, str | None]:
    """Write the places of entries behind `seq`, and return the new end of the stream."""
    steps: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    for entry in entries:
        seq += 1
        prev, head = head, entry_hash(entry.header(stream, seq, head, codec))
        if entry.is_step:
            steps.append({"row_key": entry.row.id, "seq": seq, "hash": head})
        else:
            place = {"to": stream, "seq": seq, "prev": prev, "hash": head}
            events.append({"row_key": entry.row.event_id} | place)
    if steps:
        conn.execute(_SET_STEP, steps)
    if events:
        conn.execute(_SET_EVENT, events)
    return seq, head

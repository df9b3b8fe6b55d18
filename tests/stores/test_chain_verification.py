"""Tampering with a database behind the guards' back: all of it is found, and where it begins."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert, select, text, update

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.audit_chain import CONTROL, entry_hash
from resume_engine.core.chain_report import ChainReport, Verdict
from resume_engine.core.clock import utc_now
from resume_engine.core.decisions import event_of
from resume_engine.core.permissions import Role
from resume_engine.core.policy import NO_REQUIREMENT
from resume_engine.core.run_change import RunChange
from resume_engine.storage.chain_reader import iter_entries
from resume_engine.storage.chain_verification import ChainVerifier
from resume_engine.storage.collected_check import CollectedCheck
from resume_engine.storage.encryption import EncryptedCodec
from resume_engine.storage.garbage import collect
from resume_engine.storage.key_rotation import rotate_keys
from resume_engine.storage.open_store import open_store
from resume_engine.storage.payload_codec import PLAIN
from resume_engine.storage.schema import (
    audit_checkpoint_leaves,
    audit_checkpoints,
    audit_events,
    audit_streams,
    decisions,
    runs,
    step_records,
)
from resume_engine.storage.sealing import latest, seal
from resume_engine.storage.signing import NoKey, SecretKey
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory, ago, at
from tests.guards import unguarded
from tests.stores.changes import change, completed, decision, event, failed, new_run, summary

KEY = SecretKey("a secret of the tests, long enough")
OLGA = Actor(name="olga@example.com", role=Role.OPERATOR, channel=Channel.LIBRARY)
CRON = Actor(name="cron", role=Role.OPERATOR, channel=Channel.CLI)
Tamper = Callable[[Connection], object]


def verified(store: SqlCheckpointStore, **given: Any) -> ChainReport:
    return ChainVerifier(store, key=given.pop("key", KEY), **given).verify_all()


@pytest.fixture
def filled(store: SqlCheckpointStore) -> SqlCheckpointStore:
    """A sealed database with runs in every state and one run whose entries the tests know.

    run-1: #1 run.started, #2 failed step, #3 gate.approved, #4 and #5 completed steps, #6 and #7 events.
    """
    _fill(store)
    return store


def _fill(store: SqlCheckpointStore) -> None:
    RunFactory(store).every_state()
    run = store.commit(change(new_run(store), failed(0)))
    approval = decision(failure_key="0:0", note="looked at it")
    told = event_of(approval, OLGA, NO_REQUIREMENT)
    after = run.evolve(blocked_by=(), blocked_since=None)

    store.commit(RunChange(before=run, after=after, decisions=(approval,), events=(told,)))
    for sequence in (1, 2):
        store.commit(change(summary(store), completed(sequence, index=sequence - 1), lease_seconds=30))
    run = summary(store)
    store.commit(RunChange(before=run, after=run, events=(event(note="6"), event(note="7"))))
    store.append_event(event(note="control"))
    assert seal(store, KEY) is not None


def test_what_was_not_touched_is_intact(filled: SqlCheckpointStore) -> None:
    report = verified(filled)
    assert (report.verdict, report.findings, report.sentences()) == (Verdict.INTACT, [], [])
    assert report.streams >= 9 and report.entries > 30


def test_one_run_is_verified_by_itself(filled: SqlCheckpointStore) -> None:
    report = ChainVerifier(filled, key=KEY).verify_run("run-1")
    assert (report.verdict, report.streams, report.entries) == (Verdict.INTACT, 1, 7)


_step = step_records.c
_event = audit_events.c
_MINE = _step.run_id == "run-1"


def _edit_step(**values: Any) -> Tamper:
    return lambda conn: conn.execute(update(step_records).where(_MINE, _step.sequence == 1).values(**values))


def _edit_event(**values: Any) -> Tamper:
    mine = (_event.stream == "run-1", _event.chain_seq == 3)
    return lambda conn: conn.execute(update(audit_events).where(*mine).values(**values))


def _edit_decision(**values: Any) -> Tamper:
    return lambda conn: conn.execute(update(decisions).where(decisions.c.run_id == "run-1").values(**values))


def _swap(conn: Connection) -> None:
    """Exchange what two events say, and leave their places."""
    found = conn.execute(
        select(audit_events).where(_event.stream == "run-1", _event.chain_seq.in_((6, 7)))
    ).all()
    for row, other in zip(found, reversed(found), strict=True):
        values = {"note": other.note, "payload_json": other.payload_json, "created_at": other.created_at}
        conn.execute(update(audit_events).where(_event.event_id == row.event_id).values(values))


def _insert_event(conn: Connection) -> None:
    row = conn.execute(select(audit_events).where(_event.stream == "run-1", _event.chain_seq == 3)).one()
    values = dict(row._mapping) | {"event_id": None, "chain_seq": 8, "actor": "mallory"}
    values.pop("event_id")
    conn.execute(insert(audit_events).values(values))


def _cut_tail(conn: Connection) -> None:
    conn.execute(delete(audit_events).where(_event.stream == "run-1", _event.chain_seq > 5))
    head = conn.execute(select(_step.chain_hash).where(_MINE, _step.chain_seq == 5)).scalar_one()
    conn.execute(update(runs).where(runs.c.run_id == "run-1").values(chain_seq=5, chain_head=head))


def _rebuild(conn: Connection) -> None:
    """Change an actor and compute every hash behind it anew, as somebody does who has read this code."""
    _edit_event(actor="mallory")(conn)
    conn.execute(update(decisions).where(decisions.c.run_id == "run-1").values(actor="mallory"))
    head = None
    for entry in list(iter_entries(conn, "run-1")):
        assert entry.seq is not None
        prev, head = head, entry_hash(entry.header("run-1", entry.seq, head, PLAIN))
        if entry.is_step:
            conn.execute(update(step_records).where(_step.id == entry.row.id).values(chain_hash=head))
        else:
            values = {"chain_hash": head, "prev_hash": prev}
            conn.execute(update(audit_events).where(_event.event_id == entry.row.event_id).values(values))
    conn.execute(update(runs).where(runs.c.run_id == "run-1").values(chain_head=head))


def _drop_run(conn: Connection) -> None:
    for table in (runs, step_records, decisions):
        conn.execute(delete(table).where(table.c.run_id == "run-1"))
    conn.execute(delete(audit_events).where(_event.stream == "run-1"))


def _drop_run_and_leaves(conn: Connection) -> None:
    _drop_run(conn)
    conn.execute(delete(audit_checkpoint_leaves).where(audit_checkpoint_leaves.c.stream == "run-1"))


TAMPERINGS: dict[str, tuple[Tamper, str, int | None]] = {
    "an output": (_edit_step(output_json='{"out": 9}'), "run-1", 4),
    "an input": (_edit_step(input_json='{"n": 9}'), "run-1", 4),
    "an input and its hash": (_edit_step(input_json='{"n": 9}', input_hash="0" * 64), "run-1", 4),
    "what an input follows from": (_edit_step(input_json="=0"), "run-1", 4),
    "a status": (_edit_step(status="failed"), "run-1", 4),
    "a status nobody knows": (_edit_step(status="fine"), "run-1", 4),
    "a worker": (_edit_step(worker="mallory"), "run-1", 4),
    "a hidden copy": (_edit_step(legacy_duplicate=5), "run-1", 4),
    "the hash of a step": (_edit_step(chain_hash="0" * 64), "run-1", 4),
    "the number of a step": (_edit_step(chain_seq=9), "run-1", 4),
    "a step without a number": (_edit_step(chain_seq=None), "run-1", 4),
    "an actor": (_edit_event(actor="mallory"), "run-1", 3),
    "a note": (_edit_event(note="did not look"), "run-1", 3),
    "a time": (_edit_event(created_at=utc_now()), "run-1", 3),
    "a payload": (_edit_event(payload_json='{"status": "x"}'), "run-1", 3),
    "another stream": (_edit_event(stream=CONTROL, chain_seq=99), "run-1", 3),
    "a link": (_edit_event(prev_hash="0" * 64), "run-1", 3),
    "a deleted step": (
        lambda c: c.execute(delete(step_records).where(_MINE, _step.sequence == 1)),
        "run-1",
        4,
    ),
    "a deleted event": (
        lambda c: c.execute(delete(audit_events).where(_event.stream == "run-1", _event.chain_seq == 3)),
        "run-1",
        3,
    ),
    "two swapped events": (_swap, "run-1", 6),
    "an inserted event": (_insert_event, "run-1", 8),
    "a cut tail": (_cut_tail, "run-1", 6),
    "a cut tail whose end was left": (
        lambda c: c.execute(delete(audit_events).where(_event.stream == "run-1", _event.chain_seq == 7)),
        "run-1",
        7,
    ),
    "a rebuilt chain": (_rebuild, "run-1", 7),
    "a dropped run": (_drop_run, "run-1", 1),
    "a dropped run and its seal": (_drop_run_and_leaves, "checkpoint", 1),
    "an event without a place": (_edit_event(stream=None, chain_seq=None), "(none)", None),
    "a decision": (_edit_decision(actor="mallory"), "run-1", None),
    "the time of a decision": (_edit_decision(decided_at=utc_now()), "run-1", None),
    "the note of a decision": (_edit_decision(note="did not look"), "run-1", None),
    "the role of a decision": (_edit_decision(role="admin"), "run-1", None),
    "the channel of a decision": (_edit_decision(channel="api"), "run-1", None),
    "the name of a decision": (_edit_decision(display_name="olga"), "run-1", None),
    "the result of a decision": (_edit_decision(result_json='{"refunded": 9}'), "run-1", None),
    "a decision that opened nothing": (_edit_decision(opened=0), "run-1", None),
    "the end of a decision": (_edit_decision(expires_at=utc_now()), "run-1", None),
    "the step of a decision": (_edit_decision(step_sequence=1), "run-1", None),
    "a decision about another failure": (_edit_decision(failure_key="0:7"), "run-1", None),
    "a decision of another kind": (_edit_decision(kind="reject"), "run-1", None),
    "a removed decision": (
        lambda c: c.execute(delete(decisions).where(decisions.c.run_id == "run-1")),
        "run-1",
        None,
    ),
    "an event of the control stream": (
        lambda c: c.execute(update(audit_events).where(_event.stream == CONTROL).values(role="admin")),
        CONTROL,
        1,
    ),
    "the end of the control stream": (
        lambda c: c.execute(update(audit_streams).values(chain_head="0" * 64)),
        CONTROL,
        None,
    ),
    "a checkpoint": (
        lambda c: c.execute(update(audit_checkpoints).values(entries=1)),
        "checkpoint",
        1,
    ),
    "a leaf": (
        lambda c: c.execute(
            update(audit_checkpoint_leaves)
            .where(audit_checkpoint_leaves.c.stream == "run-1")
            .values(chain_head="0" * 64)
        ),
        "checkpoint",
        1,
    ),
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_every_tampering_is_found_where_it_begins(filled: SqlCheckpointStore, what: str) -> None:
    tamper, stream, seq = TAMPERINGS[what]
    with unguarded(filled) as conn:
        tamper(conn)
    report = verified(filled)
    assert report.verdict is Verdict.TAMPERED
    places = [(f.stream, f.seq) for f in report.findings]
    assert (stream, seq) in places if seq else stream in [f.stream for f in report.findings], report.findings


@pytest.mark.parametrize("head", ["", "0" * 64])
def test_a_run_that_was_put_in_by_hand_has_no_entry(filled: SqlCheckpointStore, head: str) -> None:
    """No guard stands before it: an insert is what starting a run is."""
    with filled.writing() as conn:
        row = conn.execute(select(runs).where(runs.c.run_id == "run-1")).one()._asdict()
        conn.execute(insert(runs), row | {"run_id": "forged", "chain_seq": 0, "chain_head": head})
    assert [f.stream for f in verified(filled).findings] == ["forged"]
    with filled.writing() as conn:
        values = {"chain_head": None, "version": runs.c.version + 1}
        conn.execute(update(runs).where(runs.c.run_id == "forged").values(values))
    assert ["it has no entry" in f.problem for f in verified(filled).findings] == [True]


UNREADABLE = {
    "steps under way": ("runs", "in_flight_json", "null", "run-1"),
    "steps under way without an end": ("runs", "in_flight_json", "[" * 100_000, "run-1"),
    "the time of a change": ("runs", "updated_at", "yesterday", "run-1"),
    "the end of a lease": ("runs", "lease_expires_at", "2024-13-45 99:99:99", "run-1"),
    "the length of a chain": ("runs", "chain_seq", "long", "run-1"),
    "a counter": ("runs", "steps_completed", "many", "run-1"),
    "the time of a step": ("step_records", "timestamp", "later", "run-1"),
    "the output of a step": ("step_records", "output_json", b"\xff", "run-1"),
    "the time of a decision": ("decisions", "decided_at", "soon", "run-1"),
    "the ordinal of a decision": ("decisions", "ordinal", "first", "run-1"),
    "the result of a decision": ("decisions", "result_json", b"\xff", "run-1"),
    "the time of an event": ("audit_events", "created_at", "once", "run-1"),
    "the place of an event": ("audit_events", "chain_seq", "next", "run-1"),
    "the payload of an event": ("audit_events", "payload_json", b"\xff", "run-1"),
    "the time of a checkpoint": ("audit_checkpoints", "created_at", "never", "checkpoint"),
    "the signature of a checkpoint": ("audit_checkpoints", "signature", b"\xff", "checkpoint"),
    "the length of a leaf": ("audit_checkpoint_leaves", "chain_seq", "all", "run-1"),
    "the length of the control stream": ("audit_streams", "chain_seq", "all", "control"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_cannot_be_read_is_a_finding_and_everything_else_is_verified(tmp_path: Path, what: str) -> None:
    """SQLite keeps any value in any column."""
    table, column, value, stream = UNREADABLE[what]
    of_run = {"audit_events": "stream", "audit_checkpoint_leaves": "stream"}.get(table, "run_id")
    condition = f"WHERE {of_run} = 'run-1'" if stream == "run-1" else ""
    if table == "audit_events":
        condition = "WHERE stream = 'run-1' AND chain_seq = 3"
    with open_store(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        _fill(store)
        other = RunFactory(store).completed().run_id
        with unguarded(store) as conn:
            conn.execute(text(f"UPDATE {table} SET {column} = :value {condition}"), {"value": value})
            conn.execute(update(step_records).where(step_records.c.run_id == other).values(attempt=7))
        found = {finding.stream for finding in verified(store).findings}
        assert {stream, other} <= found <= {stream, other, "checkpoint"}


def test_without_comparing_hashes_a_changed_output_is_missed(
    filled: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The protection taken out: the test above sees that it is the chain that finds it."""
    with unguarded(filled) as conn:
        _edit_step(output_json='{"out": 9}')(conn)
    monkeypatch.setattr("resume_engine.storage.chain_walk.ChainWalk._wrong", lambda *_: None)
    assert verified(filled).verdict is Verdict.INTACT


def test_a_whole_history_that_was_rebuilt_and_sealed_again_is_found_outside(
    filled: SqlCheckpointStore,
) -> None:
    """Even with the key: what was kept elsewhere does not fit any more."""
    with filled.reading() as conn:
        anchor = latest(conn)
    assert anchor is not None
    with unguarded(filled) as conn:
        _drop_run(conn)
        conn.execute(delete(audit_checkpoints))
        conn.execute(delete(audit_checkpoint_leaves))
    assert verified(filled, anchors=[anchor]).verdict is Verdict.TAMPERED
    assert seal(filled, KEY) is not None
    assert verified(filled).verdict is Verdict.INTACT
    report = verified(filled, anchors=[anchor])
    assert [(f.stream, f.seq) for f in report.findings] == [("checkpoint", 1)]


def test_what_is_not_sealed_or_not_signed_for_us_cannot_be_told(filled: SqlCheckpointStore) -> None:
    assert verified(filled, key=NoKey()).verdict is Verdict.CANNOT_TELL
    filled.append_event(event())
    report = verified(filled)
    assert (report.verdict, report.unsealed) == (Verdict.CANNOT_TELL, 1)
    assert seal(filled, KEY) is not None
    assert verified(filled).verdict is Verdict.INTACT
    assert verified(filled, since=2).verdict is Verdict.INTACT


def test_collected_runs_leave_a_chain_that_still_verifies(store: SqlCheckpointStore) -> None:
    with at(ago(days=100)):
        RunFactory(store).every_state()
    assert seal(store, KEY) is not None
    assert len(list(collect(store, utc_now() - timedelta(days=90), actor=CRON))) == 2
    assert seal(store, KEY) is not None
    report = verified(store)
    assert (report.verdict, report.findings) == (Verdict.INTACT, [])
    gone = select(audit_events.c.event_id).where(
        audit_events.c.stream != CONTROL, audit_events.c.stream.not_in(select(runs.c.run_id))
    )
    with unguarded(store) as conn:
        event_id = conn.execute(gone.limit(1)).scalar_one()
        conn.execute(update(audit_events).where(_event.event_id == event_id).values(actor="mallory"))
    assert verified(store).verdict is Verdict.TAMPERED


def test_runs_that_are_collected_while_others_are_verified_are_no_finding(
    store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at(ago(days=100)):
        RunFactory(store).every_state()
    assert seal(store, KEY) is not None
    check = CollectedCheck.check

    def collected_before(self: CollectedCheck, take_newer: Callable[[], None]) -> None:
        assert len(list(collect(store, utc_now() - timedelta(days=90), actor=CRON))) == 2
        check(self, take_newer)

    with monkeypatch.context() as patch:
        patch.setattr(CollectedCheck, "check", collected_before)
        assert verified(store).findings == []
    run_id = RunFactory(store).completed().run_id
    assert seal(store, KEY) is not None
    with unguarded(store) as conn:
        for table in (step_records, runs):
            conn.execute(delete(table).where(table.c.run_id == run_id))
    assert [f.stream for f in verified(store).findings] == [run_id]


def test_whether_runs_were_collected_cannot_be_told_without_the_key(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'sealed.db'}"
    with open_store(url, codec=EncryptedCodec([EncryptedCodec.generate_key()])) as store:
        with at(ago(days=100)):
            RunFactory(store).completed()
        assert len(list(collect(store, utc_now() - timedelta(days=90), actor=CRON))) == 1
        assert seal(store, KEY) is not None
        assert verified(store).verdict is Verdict.INTACT
    with open_store(url, codec=PLAIN) as locked:
        assert verified(locked).verdict is Verdict.CANNOT_TELL


def test_sealed_payloads_and_new_keys_leave_the_chain_whole(tmp_path: Path) -> None:

    url = f"sqlite:///{tmp_path / 'sealed.db'}"
    with open_store(url, codec=PLAIN) as plain:
        RunFactory(plain).every_state()
        assert seal(plain, KEY) is not None
    old, new = EncryptedCodec.generate_key(), EncryptedCodec.generate_key()
    for keys in ([old], [new, old]):
        with open_store(url, codec=EncryptedCodec(keys)) as store:
            assert rotate_keys(store) > 0
            RunFactory(store).blocked()
            assert seal(store, KEY) is not None
            assert verified(store).verdict is Verdict.INTACT
    with open_store(url, codec=PLAIN) as locked:
        report = verified(locked)
    assert report.verdict is Verdict.CANNOT_TELL and report.locked > 10 and not report.findings

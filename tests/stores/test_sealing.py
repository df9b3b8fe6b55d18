"""Checkpoints: which streams they seal, that none is half written, that each holds the one before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event

from resume_engine.core.audit_chain import CONTROL
from resume_engine.core.chain_report import Verdict
from resume_engine.core.checkpoint import Checkpoint
from resume_engine.storage import sealing
from resume_engine.storage.chain_verification import ChainVerifier
from resume_engine.storage.sealing import Sealer, iter_checkpoints, leaves_of, seal
from resume_engine.storage.signing import SecretKey
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.stores.changes import change, completed, event, new_run, summary

KEY = SecretKey("a secret of the tests, long enough")


def checkpoints(store: SqlCheckpointStore) -> list[Checkpoint]:
    with store.reading() as conn:
        return [made for made, _ in iter_checkpoints(conn)]


def streams(store: SqlCheckpointStore, number: int) -> list[tuple[str, int]]:
    with store.reading() as conn:
        return [(leaf.stream, leaf.seq) for leaf in leaves_of(conn, number)]


def test_a_checkpoint_seals_what_moved_since_the_one_before(store: SqlCheckpointStore) -> None:
    run = new_run(store, "run-1")
    new_run(store, "run-2")
    first = seal(store, KEY)
    assert first is not None and seal(store, KEY) is None
    store.commit(change(run, completed(0)))
    store.append_event(event())
    second = seal(store, KEY)
    assert second is not None
    assert streams(store, 1) == [("run-1", 1), ("run-2", 1)]
    assert streams(store, 2) == [(CONTROL, 1), ("run-1", 2)]
    assert (second.number, second.previous_hash, second.entries) == (2, first.hash, 3)
    assert [KEY.is_signed(made) for made in checkpoints(store)] == [True, True]


def test_a_sealer_that_goes_on_looks_at_what_is_new_and_misses_nothing(
    store: SqlCheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "OVERLAP", 0)
    sealer = Sealer(store, KEY)
    for number in range(5):
        new_run(store, f"run-{number}")
    store.commit(change(summary(store, "run-0"), completed(0, run_id="run-0")))
    assert sealer.seal() is not None
    assert sealer.seal() is None
    store.commit(change(summary(store, "run-3"), completed(0, run_id="run-3"), lease_seconds=30))
    assert sealer.seal(leave_fewer_than=2) is None, "one entry can wait"
    assert sealer.seal() is not None
    assert streams(store, 2) == [("run-3", 2)]


class Stopped(Exception):
    """The end of a process, as far as its transaction can tell."""


@contextmanager
def breaking(store: SqlCheckpointStore, at: int) -> Iterator[list[str]]:
    """Let the statement with this number fail, as when the process is killed there."""
    seen: list[str] = []

    def note(_conn: Any, _cursor: Any, sql: str, *_rest: Any) -> None:
        if not sql.startswith(("BEGIN", "COMMIT", "ROLLBACK")):
            seen.append(sql)
            if len(seen) == at:
                raise Stopped

    for engine in store.engines:
        sqlalchemy_event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        for engine in store.engines:
            sqlalchemy_event.remove(engine, "before_cursor_execute", note)


def test_a_sealer_that_is_stopped_at_any_statement_leaves_nothing_half(store: SqlCheckpointStore) -> None:
    new_run(store)
    at, stopped = 1, 0
    while True:
        with breaking(store, at) as seen:
            try:
                done = seal(store, KEY)
            except Stopped:
                done = None
        if len(seen) < at:
            break
        assert done is None and checkpoints(store) == [] and streams(store, 1) == []
        at, stopped = at + 1, stopped + 1
    assert stopped >= 6
    assert [made.number for made in checkpoints(store)] == [1]
    assert ChainVerifier(store, key=KEY).verify_all().verdict is Verdict.INTACT


def test_every_old_checkpoint_still_fits_the_longer_log(store: SqlCheckpointStore) -> None:
    kept: list[Checkpoint] = []
    run = new_run(store)
    for sequence in range(12):
        run = store.commit(change(run, completed(sequence)))
        made = seal(store, KEY)
        assert made is not None
        kept.append(made)
    for anchor in kept:
        assert ChainVerifier(store, key=KEY, anchors=[anchor]).verify_all().verdict is Verdict.INTACT

"""renew_lease: only the owner of the newest term moves its end."""

from __future__ import annotations

from datetime import timedelta

from resume_engine.core.clock import utc_now
from resume_engine.core.lease import Lease
from resume_engine.core.run_summary import RunSummary
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.stores.changes import change, completed, new_run, summary


def taken(store: SqlCheckpointStore, owner: str = "worker-1", seconds: float = 30) -> RunSummary:
    lease = Lease(store, owner, seconds)
    return lease.take(summary(store), steps_total=1, initial_input={}, event=None)


def test_the_owner_moves_the_end(store: SqlCheckpointStore) -> None:
    new_run(store)
    held = taken(store)
    until = utc_now() + timedelta(minutes=5)
    assert store.renew_lease("run-1", "worker-1", held.lease_token, until)
    assert summary(store).lease_expires_at == until


def test_renewing_does_not_disturb_the_owners_next_write(store: SqlCheckpointStore) -> None:
    new_run(store)
    held = taken(store)
    store.renew_lease("run-1", "worker-1", held.lease_token, utc_now() + timedelta(minutes=5))
    assert store.commit(change(held, completed(0))).steps_completed == 1


def test_others_and_old_terms_move_nothing(store: SqlCheckpointStore) -> None:
    new_run(store)
    first = taken(store)
    store.renew_lease("run-1", "worker-1", first.lease_token, utc_now() - timedelta(seconds=1))
    second = taken(store, "worker-2")
    until = utc_now() + timedelta(minutes=5)
    assert not store.renew_lease("run-1", "worker-1", first.lease_token, until)
    assert not store.renew_lease("run-1", "worker-2", first.lease_token, until)
    assert not store.renew_lease("run-1", "worker-1", second.lease_token, until)
    assert not store.renew_lease("none", "worker-2", second.lease_token, until)
    assert summary(store).lease_expires_at == second.lease_expires_at


def test_the_term_grows_with_every_owner(store: SqlCheckpointStore) -> None:
    new_run(store)
    tokens = []
    for number in range(3):
        held = taken(store, f"worker-{number}")
        tokens.append(held.lease_token)
        store.renew_lease("run-1", f"worker-{number}", held.lease_token, utc_now() - timedelta(seconds=1))
    assert tokens == [1, 2, 3]

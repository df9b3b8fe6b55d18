"""renew_lease: only the owner of the newest term moves its end."""

from __future__ import annotations

from datetime import timedelta

from resume_engine.conformance.samples import (
    change,
    completed,
    new_run,
    summary,
)
from resume_engine.core.lease import Lease
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.store import CheckpointStore


def taken(store: CheckpointStore, owner: str = "worker-1", seconds: float = 30) -> RunSummary:
    run = summary(store)
    return Lease(store, owner, seconds, exclusive=True).take(RunChange(before=run, after=run))


class RenewLease:
    """Only the owner of the newest term moves its end."""

    def test_the_owner_moves_the_end(self, store: CheckpointStore) -> None:
        new_run(store)
        held = taken(store)
        assert store.renew_lease("run-1", "worker-1", held.lease_token, 300)
        moved = summary(store).lease_expires_at
        assert moved is not None
        assert held.lease_expires_at is not None
        assert timedelta(seconds=260) < moved - held.lease_expires_at < timedelta(seconds=280)

    def test_no_seconds_end_a_lease_at_once(self, store: CheckpointStore) -> None:
        new_run(store)
        held = taken(store)
        assert summary(store).lease_live
        assert store.renew_lease("run-1", "worker-1", held.lease_token, 0)
        assert not summary(store).lease_live
        assert summary(store).is_interrupted

    def test_renewing_does_not_disturb_the_owners_next_write(self, store: CheckpointStore) -> None:
        new_run(store)
        held = taken(store)
        store.renew_lease("run-1", "worker-1", held.lease_token, 300)
        assert store.commit(change(held, completed(0))).steps_completed == 1

    def test_others_and_old_terms_move_nothing(self, store: CheckpointStore) -> None:
        new_run(store)
        first = taken(store)
        store.renew_lease("run-1", "worker-1", first.lease_token, 0)
        second = taken(store, "worker-2")
        ends = summary(store).lease_expires_at
        assert not store.renew_lease("run-1", "worker-1", first.lease_token, 300)
        assert not store.renew_lease("run-1", "worker-2", first.lease_token, 300)
        assert not store.renew_lease("run-1", "worker-1", second.lease_token, 300)
        assert not store.renew_lease("none", "worker-2", second.lease_token, 300)
        assert summary(store).lease_expires_at == ends

    def test_the_term_grows_with_every_owner(self, store: CheckpointStore) -> None:
        new_run(store)
        tokens = []
        for number in range(3):
            held = taken(store, f"worker-{number}")
            tokens.append(held.lease_token)
            store.renew_lease("run-1", f"worker-{number}", held.lease_token, 0)
        assert tokens == [1, 2, 3]

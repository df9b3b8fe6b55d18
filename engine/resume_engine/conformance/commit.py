"""commit: one change, one transaction, all of it or nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from resume_engine.conformance.abilities import Ability, needs
from resume_engine.conformance.samples import (
    NOON,
    change,
    completed,
    decision,
    event,
    failed,
    new_run,
    summary,
)
from resume_engine.core.decisions import DecisionKind
from resume_engine.core.errors import AlreadyDecidedError, IdempotencyCollisionError, StaleRunError
from resume_engine.core.run import RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import after_step
from resume_engine.core.store import CheckpointStore


class Commit:
    """One change, one transaction, all of it or nothing."""

    def test_record_counters_and_status_change_together(self, store: CheckpointStore) -> None:
        run = new_run(store)
        after = store.commit(change(run, completed(0)))
        assert after == summary(store)
        assert (after.version, after.steps_completed, after.next_sequence) == (run.version + 1, 1, 1)
        after = store.commit(change(after, failed(1)))
        assert after == summary(store)
        assert (after.status, after.failure and after.failure.key) == (RunStatus.FAILED, "1:1")

    @needs(Ability.WRITES_AS_GIVEN)
    def test_a_change_of_everything_is_read_back(self, store: CheckpointStore) -> None:
        run = new_run(store)
        record = completed(0)
        after = replace(
            after_step(run, record),
            steps_total=7,
            lease_owner="worker-1",
            lease_token=3,
            lease_expires_at=NOON,
            finished_at=NOON,
            cleared_by="olga@example.com",
            cleared_at=NOON,
            initial_input_hash="0" * 64,
        )
        whole = RunChange(
            before=run,
            after=after,
            record=record,
            decisions=(decision(note="n", result={"a": 1}, step_sequence=4),),
            events=(event(note="first"), event(note="second")),
            initial_input={"order": "ü"},
            metadata={"gates": {}, "kept": 1},
        )
        assert store.commit(whole) == summary(store)
        assert [e.note for e in store.list_events("run-1")[1:]] == ["first", "second"]
        assert store.load_initial_input("run-1") == {"order": "ü"}
        [decided] = store.list_decisions("run-1")
        assert replace(decided, decision_id=None) == whole.decisions[0]
        found = store.get_run("run-1")
        assert found is not None and found.metadata["kept"] == 1

    @pytest.mark.parametrize("kind", ["plain", "without lease", "with event", "failure"])
    def test_a_change_of_an_old_version_is_refused(self, store: CheckpointStore, kind: str) -> None:
        old = new_run(store)
        newer = store.commit(change(old, completed(0)))
        record = failed(1) if kind == "failure" else completed(1)
        stale = change(
            old,
            record,
            events=(event(note="stale"),) if kind == "with event" else (),
            lease_seconds=30 if kind == "plain" else None,
        )
        with pytest.raises(StaleRunError, match=f"run-1 moved on: expected version {old.version}"):
            store.commit(stale)
        assert summary(store) == newer
        assert [r.sequence for r in store.iter_steps("run-1")] == [0]
        assert "stale" not in [e.note for e in store.list_events("run-1")]

    def test_a_change_of_an_unknown_run_is_refused(self, store: CheckpointStore) -> None:
        run = replace(new_run(store), run_id="none")
        with pytest.raises(StaleRunError):
            store.commit(change(run, completed(0)))
        assert list(store.iter_steps("none")) == []

    @pytest.mark.parametrize("lease_seconds", [None, 30])
    def test_of_many_at_once_one_commits(self, store: CheckpointStore, lease_seconds: float | None) -> None:
        run = new_run(store)

        def commit(number: int) -> bool:
            record = completed(0, name=f"branch_{number}")
            try:
                store.commit(change(run, record, lease_seconds=lease_seconds))
            except StaleRunError:
                return False
            return True

        with ThreadPoolExecutor(20) as pool:
            assert sum(pool.map(commit, range(40))) == 1
        assert len(list(store.iter_steps("run-1"))) == 1

    @pytest.mark.parametrize("lease_seconds", [None, 30])
    def test_one_completed_record_per_key(self, store: CheckpointStore, lease_seconds: float | None) -> None:
        run = store.commit(change(new_run(store), completed(0)))
        with pytest.raises(
            IdempotencyCollisionError, match=r"run-1, step 0 'step_0'.*has the key [0-9a-f]{64}"
        ):
            store.commit(change(run, completed(1, index=0), lease_seconds=lease_seconds))
        assert summary(store) == run

    @needs(Ability.WRITES_AS_GIVEN)
    def test_the_key_is_unique_over_runs(self, store: CheckpointStore) -> None:
        new_run(store, "run-2")
        store.commit(change(new_run(store), completed(0)))
        copy = completed(0)  # the key says run-1
        with pytest.raises(IdempotencyCollisionError):
            store.commit(change(summary(store, "run-2"), copy))
        assert list(store.iter_steps("run-2")) == []

    @needs(Ability.WRITES_AS_GIVEN)
    def test_failed_attempts_share_the_key_of_the_completed_one(self, store: CheckpointStore) -> None:
        run = new_run(store)
        for record in (failed(0), failed(1, index=0), completed(2, index=0)):
            run = store.commit(change(run, record))
        assert len({r.idempotency_key for r in store.iter_steps("run-1")}) == 1

    @needs(Ability.WRITES_AS_GIVEN)
    @pytest.mark.parametrize("lease_seconds", [None, 30])
    def test_a_taken_sequence_is_a_stale_view(
        self, store: CheckpointStore, lease_seconds: float | None
    ) -> None:
        """Even a caller whose version is right cannot write two records at one sequence."""
        run = store.commit(change(new_run(store), completed(0)))
        again = replace(run, next_sequence=0)
        with pytest.raises(StaleRunError, match="expected no record at sequence 0"):
            store.commit(change(again, completed(0, name="other"), lease_seconds=lease_seconds))
        assert summary(store) == run

    @needs(Ability.WRITES_AS_GIVEN)
    def test_a_failure_event_is_decided_once_per_kind(self, store: CheckpointStore) -> None:
        run = store.commit(change(new_run(store), failed(0)))
        run = store.commit(RunChange(before=run, after=run, decisions=(decision(),)))
        again = RunChange(before=run, after=run, decisions=(decision(actor="omar@example.com"),))
        with pytest.raises(
            AlreadyDecidedError, match=r"run-1, failure 0:0: already decided.*by olga@example"
        ):
            store.commit(again)
        other = decision(kind=DecisionKind.PROD_RESUME_ACK)
        store.commit(RunChange(before=run, after=run, decisions=(other,)))
        assert [d.kind for d in store.list_decisions("run-1")] == ["human_approval", "prod_resume_ack"]

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
    def test_an_output_that_json_cannot_hold_is_not_written(
        self, store: CheckpointStore, value: object
    ) -> None:
        run = new_run(store)
        with pytest.raises((TypeError, ValueError)):
            store.commit(change(run, completed(0, output={"x": value})))
        assert summary(store) == run

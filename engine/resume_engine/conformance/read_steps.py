"""iter_steps, load_step, list_open_failures, get_step_by_idempotency_key: records, read."""

from __future__ import annotations

from dataclasses import replace

from resume_engine.conformance.abilities import Ability, needs
from resume_engine.conformance.samples import change, completed, failed, new_run
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import StepRecord, StepStatus
from resume_engine.core.store import CheckpointStore


def written(store: CheckpointStore, *records: StepRecord) -> RunSummary:
    run = new_run(store)
    for record in records:
        run = store.commit(change(run, record))
    return run


class ReadSteps:
    """Records, read."""

    def test_records_of_other_runs_stay_out(self, store: CheckpointStore) -> None:
        written(store, completed(0))
        store.commit(change(new_run(store, "run-10"), completed(0, run_id="run-10")))
        assert len(list(store.iter_steps("run-1"))) == 1
        assert list(store.iter_steps("run-")) == []

    @needs(Ability.WRITES_AS_GIVEN)
    def test_one_record_by_its_sequence(self, store: CheckpointStore) -> None:
        second = failed(1, index=0)
        written(store, failed(0), second)
        assert store.load_step("run-1", 1) == second
        assert store.load_step("run-1", 2) is None
        assert store.load_step("none", 0) is None

    @needs(Ability.WRITES_AS_GIVEN)
    def test_the_completed_record_has_the_key(self, store: CheckpointStore) -> None:
        record = completed(1, index=0)
        written(store, failed(0), record)
        assert store.get_step_by_idempotency_key(record.idempotency_key) == record
        assert store.idempotency_key_exists(record.idempotency_key)

    def test_a_failed_attempt_does_not_have_the_key(self, store: CheckpointStore) -> None:
        written(store, failed(0))
        assert store.get_step_by_idempotency_key(failed(0).idempotency_key) is None
        assert not store.idempotency_key_exists(failed(0).idempotency_key)

    @needs(Ability.WRITES_AS_GIVEN)
    def test_a_record_of_an_0_2_0_replay_counts_as_completed(self, store: CheckpointStore) -> None:
        record = replace(completed(0), status=StepStatus.SKIPPED_REPLAY)
        written(store, record)
        assert store.get_step_by_idempotency_key(record.idempotency_key) == record

"""append_step: a record that was made elsewhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from resume_engine.conformance.abilities import Ability, needs
from resume_engine.conformance.samples import (
    completed,
    failed,
    new_run,
    summary,
)
from resume_engine.core.clock import utc_now
from resume_engine.core.errors import (
    InvalidValueError,
    ResumeBlockedError,
    RunBusyError,
    RunFinishedError,
    RunNotFoundError,
    StaleRunError,
)
from resume_engine.core.lease import Lease
from resume_engine.core.run import RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step_record import FailureClassification, StepRecord, StepStatus
from resume_engine.core.store import CheckpointStore

PARTIAL = FailureClassification.PARTIAL


def take(store: CheckpointStore, run: RunSummary) -> RunSummary:
    return Lease(store, "worker-1", 60, exclusive=True).take(RunChange(before=run, after=run))


class AppendStep:
    """A record that was made elsewhere."""

    def test_a_record_moves_the_counters(self, store: CheckpointStore) -> None:
        new_run(store)
        store.append_step("run-1", completed(0))
        store.append_step("run-1", completed(1))
        after = summary(store)
        assert (after.steps_completed, after.next_sequence, after.resume_from_index) == (2, 2, 2)

    def test_a_failure_closes_its_gates(self, store: CheckpointStore) -> None:
        new_run(store)
        store.append_step("run-1", failed(0, PARTIAL))
        assert summary(store).status is RunStatus.FAILED
        with pytest.raises(ResumeBlockedError, match="compensation"):
            store.append_step("run-1", completed(1))

    def test_a_closed_gate_lets_a_compensation_through_and_nothing_else(self, store: CheckpointStore) -> None:
        new_run(store)
        store.append_step("run-1", failed(0, PARTIAL))
        store.append_step("run-1", completed(1, index=0, name="__compensate__step_0"))
        assert summary(store).blocked_by, "the decision opens the gate, not the record"

    def test_a_compensation_needs_a_gate_that_waits_for_it(self, store: CheckpointStore) -> None:
        new_run(store)
        store.append_step("run-1", failed(0, FailureClassification.PERMANENT))
        with pytest.raises(ResumeBlockedError, match="human_approval"):
            store.append_step("run-1", completed(1, index=0, name="__compensate__step_0"))

    def test_repeating_a_write_changes_nothing(self, store: CheckpointStore) -> None:
        new_run(store)
        record = completed(0)
        store.append_step("run-1", record)
        before = summary(store)
        store.append_step("run-1", replace(record, timestamp=utc_now()))
        assert summary(store) == before

    def test_repeating_the_failure_that_closed_the_gate_changes_nothing(self, store: CheckpointStore) -> None:
        new_run(store)
        store.append_step("run-1", failed(0))
        store.append_step("run-1", failed(0))
        assert summary(store).next_sequence == 1

    @pytest.mark.parametrize(
        "other",
        [
            completed(0, name="other"),
            completed(0, output={"another": 1}),
            failed(0),
            completed(0, input_data={}),
        ],
        ids=["name", "output", "status", "input"],
    )
    def test_another_record_does_not_take_a_sequence(self, store: CheckpointStore, other: StepRecord) -> None:
        new_run(store)
        store.append_step("run-1", completed(0))
        with pytest.raises(StaleRunError, match=r"expected no record at sequence 0, found step 'step_0'"):
            store.append_step("run-1", other)
        assert [step.step_name for step in store.iter_steps("run-1")] == ["step_0"]

    def test_a_gap_in_the_sequence_is_refused(self, store: CheckpointStore) -> None:
        new_run(store)
        with pytest.raises(StaleRunError, match="expected sequence 0, found sequence 3"):
            store.append_step("run-1", completed(3))

    def test_an_unknown_run_is_refused(self, store: CheckpointStore) -> None:
        with pytest.raises(RunNotFoundError):
            store.append_step("none", completed(0))

    @needs(Ability.WRITES_AS_GIVEN)
    def test_a_finished_run_takes_nothing(self, store: CheckpointStore) -> None:
        new_run(store, status=RunStatus.COMPLETED)
        with pytest.raises(RunFinishedError):
            store.append_step("run-1", completed(0))

    def test_a_run_that_someone_executes_takes_nothing_from_others(self, store: CheckpointStore) -> None:
        take(store, new_run(store))
        with pytest.raises(RunBusyError, match="worker-1"):
            store.append_step("run-1", completed(0))

    @pytest.mark.parametrize("status", [StepStatus.RUNNING, StepStatus.PENDING])
    def test_an_attempt_under_way_is_no_failure(self, store: CheckpointStore, status: StepStatus) -> None:
        new_run(store)
        store.append_step("run-1", replace(completed(0), status=status, output_data=None))
        after = summary(store)
        assert (after.status, after.failure, after.steps_completed) == (RunStatus.RUNNING, None, 0)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("step_name", "x" * 256),
            ("step_name", "nul\x00"),
            ("step_name", ""),
            ("step_index", -1),
            ("step_index", True),
            ("sequence", 2**31),
            ("idempotency_key", "short"),
            ("input_hash", None),
            ("input_data", [1]),
            ("input_data", {"x": float("nan")}),
            ("output_data", {"x": float("inf")}),
            ("output_data", {"x": object()}),
        ],
    )
    def test_a_record_that_cannot_be_kept_names_its_field(
        self, store: CheckpointStore, field: str, value: Any
    ) -> None:
        new_run(store)
        with pytest.raises(InvalidValueError, match=f"^{field}: "):
            store.append_step("run-1", replace(completed(0), **{field: value}))
        assert summary(store).next_sequence == 0

    def test_an_error_message_with_nul_is_kept_readable(self, store: CheckpointStore) -> None:
        new_run(store)
        store.append_step("run-1", failed(0, error_message="broken \x00 answer \ud800"))
        record = store.load_step("run-1", 0)
        assert record is not None and record.error_message == "broken \\x00 answer \\ud800"

    def test_of_many_at_once_each_sequence_is_taken_once(self, store: CheckpointStore) -> None:
        new_run(store)

        def append(number: int) -> int:
            name = f"branch_{number}"
            while True:
                record = completed(summary(store).next_sequence, index=number, name=name)
                try:
                    store.append_step("run-1", record)
                    return record.sequence
                except StaleRunError:
                    continue

        with ThreadPoolExecutor(8) as pool:
            taken = sorted(pool.map(append, range(16)))
        assert taken == list(range(16))
        assert [record.sequence for record in store.iter_steps("run-1")] == list(range(16))
        assert summary(store).steps_completed == 16

    def test_the_time_of_the_lease_decides_not_its_owner(self, store: CheckpointStore) -> None:
        held = take(store, new_run(store))
        store.renew_lease("run-1", "worker-1", held.lease_token, 0)
        store.append_step("run-1", completed(0))
        assert summary(store).next_sequence == 1

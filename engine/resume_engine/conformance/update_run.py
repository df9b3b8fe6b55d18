"""update_run: status and metadata set from outside; gates hold here too."""

from __future__ import annotations

import pytest

from resume_engine.conformance.abilities import Ability, needs
from resume_engine.conformance.samples import (
    change,
    failed,
    new_run,
    summary,
)
from resume_engine.core.errors import (
    InvalidValueError,
    ResumeBlockedError,
    RunFinishedError,
    RunNotFoundError,
)
from resume_engine.core.run import Run, RunStatus
from resume_engine.core.step_record import FailureClassification
from resume_engine.core.store import CheckpointStore

TRANSIENT = FailureClassification.TRANSIENT


def updated(store: CheckpointStore, **fields: object) -> Run:
    run = store.get_run("run-1")
    assert run is not None
    for name, value in fields.items():
        setattr(run, name, value)
    store.update_run(run)
    found = store.get_run("run-1")
    assert found is not None
    return found


class UpdateRun:
    """Status and metadata set from outside; gates hold here too."""

    @needs(Ability.WRITES_AS_GIVEN)
    def test_status_and_metadata_are_written(self, store: CheckpointStore) -> None:
        new_run(store, status=RunStatus.PENDING)
        found = updated(store, status=RunStatus.RUNNING, metadata={"a": [1]})
        assert (found.status, found.metadata) == (RunStatus.RUNNING, {"a": [1]})
        [_, event] = store.list_events("run-1")
        assert event.event_type == "run.updated"
        assert event.payload == {"status": "running", "status_before": "pending"}

    def test_an_unknown_run_is_refused(self, store: CheckpointStore) -> None:
        with pytest.raises(RunNotFoundError, match="none"):
            store.update_run(Run(run_id="none", workflow_name="billing"))

    @needs(Ability.WRITES_AS_GIVEN)
    def test_decisions_cannot_be_written_as_metadata(self, store: CheckpointStore) -> None:
        store.commit(change(new_run(store), failed(0)))
        forged = {"gates": {"human_approval": {"granted": True, "failure_key": "0:0", "approved_by": "me"}}}
        found = updated(store, metadata=forged, status=RunStatus.PAUSED)
        assert "gates" not in found.metadata
        assert summary(store).blocked_by

    @pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.COMPLETED, RunStatus.PENDING])
    def test_a_closed_gate_is_not_passed(self, store: CheckpointStore, status: RunStatus) -> None:
        before = store.commit(change(new_run(store), failed(0)))
        with pytest.raises(ResumeBlockedError, match="human_approval"):
            updated(store, status=status)
        assert summary(store) == before

    @pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.FAILED, RunStatus.CANCELLED])
    def test_a_finished_run_stays_finished(self, store: CheckpointStore, status: RunStatus) -> None:
        new_run(store)
        updated(store, status=RunStatus.COMPLETED)
        with pytest.raises(RunFinishedError, match=r"run-1 is completed.*Start a new run"):
            updated(store, status=status)

    def test_only_a_rejection_cancels(self, store: CheckpointStore) -> None:
        new_run(store)
        with pytest.raises(InvalidValueError, match="rejecting"):
            updated(store, status=RunStatus.CANCELLED)

    def test_a_completed_run_has_no_open_failure(self, store: CheckpointStore) -> None:
        store.commit(change(new_run(store), failed(0, TRANSIENT)))
        updated(store, status=RunStatus.COMPLETED)
        after = summary(store)
        assert after.failure is None and after.finished_at is not None and after.lease_owner is None

    def test_metadata_that_is_not_json_is_refused(self, store: CheckpointStore) -> None:
        new_run(store, metadata={"a": 1})
        with pytest.raises(InvalidValueError, match=r"^metadata: "):
            updated(store, metadata={"a": float("nan")})
        found = store.get_run("run-1")
        assert found is not None and found.metadata == {"a": 1}

"""Metadata that are written while an executor is at work take the run from nobody, and hide no takeover."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest

from resume_engine.core.chain_report import Verdict
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import LeaseLostError, StaleRunError
from resume_engine.core.failure_classifier import PermanentStepError, TransientStepError
from resume_engine.core.lease import Lease, is_held_as
from resume_engine.core.retry import Backoff, RetryPolicy
from resume_engine.core.run import RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step import Step
from resume_engine.core.step_record import StepRecord
from resume_engine.core.store import CheckpointStore
from resume_engine.storage.chain_verification import ChainVerifier
from resume_engine.storage.sealing import seal
from resume_engine.storage.signing import SecretKey
from tests.stores.changes import new_run, summary
from tests.stores.conftest import KINDS as DATABASES
from tests.stores.conftest import OVER_HTTP
from tests.stores.over_http import StoreOverHttp

KINDS = (*DATABASES, *OVER_HTTP)
KEY = SecretKey("a secret of the tests, long enough")
AT_ONCE = RetryPolicy(attempts=3, backoff=Backoff(base_seconds=0, cap_seconds=0))


def note(store: CheckpointStore) -> None:
    """Write other metadata, as a step does that tells how far it is."""
    run = store.get_run("run-1")
    assert run is not None
    store.update_run(replace(run, metadata={"progress": run.metadata.get("progress", 0) + 1}))


class Noting:
    """A step that notes its progress at each call, and fails as often as it is given errors."""

    def __init__(self, store: CheckpointStore, *errors: Exception) -> None:
        self._store, self._errors, self.calls = store, list(errors), 0

    def __call__(self, _input: dict[str, Any], _key: str) -> dict[str, Any]:
        self.calls += 1
        note(self._store)
        if self._errors:
            raise self._errors.pop(0)
        return {"calls": self.calls}


def records(store: CheckpointStore) -> list[StepRecord]:
    """Return what was recorded, and see that the audit holds."""
    behind: Any = store.behind if isinstance(store, StoreOverHttp) else store
    assert seal(behind, KEY) is not None
    assert ChainVerifier(behind, key=KEY).verify_all().verdict is Verdict.INTACT
    return list(store.iter_steps("run-1"))


def test_each_step_is_recorded_once(store: CheckpointStore) -> None:
    new_run(store)
    steps = [(f"step_{n}", Noting(store)) for n in range(3)]
    done = ResumeEngine(store).execute_workflow("run-1", steps)
    assert (done.status, done.metadata["progress"]) == (RunStatus.COMPLETED, 3)
    assert [r.output_data for r in records(store)] == [{"calls": 1}] * 3
    updates = [e for e in store.list_events("run-1") if e.event_type == "run.updated"]
    assert len(updates) == 3 and all(step.calls == 1 for _, step in steps)


def test_a_failure_is_recorded_and_its_step_goes_on_once_it_was_approved(store: CheckpointStore) -> None:
    new_run(store)
    engine, step = ResumeEngine(store), Noting(store, PermanentStepError("no"))
    with pytest.raises(PermanentStepError):
        engine.execute_workflow("run-1", [("step_0", step)])
    assert summary(store).blocked_by == ("human_approval",)
    engine.grant_human_approval("run-1", "ana")
    assert engine.resume("run-1", [("step_0", step)]).status is RunStatus.COMPLETED
    assert [(r.status, r.attempt) for r in records(store)] == [("failed", 1), ("completed", 2)]


def test_a_step_that_is_tried_again_is_recorded_each_time(store: CheckpointStore) -> None:
    new_run(store)
    step = Noting(store, TransientStepError("busy"), TransientStepError("busy"))
    ResumeEngine(store).execute_workflow("run-1", [Step("step_0", step, retry=AT_ONCE)])
    assert [r.status for r in records(store)] == ["failed", "failed", "completed"]


def test_a_rollback_goes_on(store: CheckpointStore) -> None:
    new_run(store)
    undo = [Noting(store), Noting(store)]
    steps = [Step(f"step_{n}", lambda *_: {}, compensate=undo[n]) for n in range(2)]
    failing = Step("step_2", Noting(store, PermanentStepError("no")))
    engine = ResumeEngine(store)
    with pytest.raises(PermanentStepError):
        engine.execute_workflow("run-1", [*steps, failing])
    done = engine.roll_back("run-1", [*steps, failing], requested_by="ana", note="wrong order")
    assert done.status is RunStatus.CANCELLED and [one.calls for one in undo] == [1, 1]
    assert len(records(store)) == 5


def test_what_is_written_before_the_end_of_a_run_does_not_keep_it_from_it(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_run(store)
    commit, noted = store.commit, []

    def overtaken(change: RunChange) -> RunSummary:
        if change.after.status is RunStatus.COMPLETED and len(noted) < 2:
            noted.append(change)
            monkeypatch.setattr(store, "commit", commit)
            note(store)
            monkeypatch.setattr(store, "commit", overtaken)
        return commit(change)

    monkeypatch.setattr(store, "commit", overtaken)
    done = ResumeEngine(store).execute_workflow("run-1", [("step_0", lambda *_: {})])
    assert (done.status, len(noted)) == (RunStatus.COMPLETED, 2)
    assert len(records(store)) == 1


@pytest.mark.parametrize("is_noted", [False, True])
@pytest.mark.parametrize("error", [None, ValueError("too late")])
def test_a_run_that_was_taken_again_in_the_same_name_is_lost(
    store: CheckpointStore, is_noted: bool, error: Exception | None
) -> None:
    new_run(store)

    def slow(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        held = summary(store)
        store.renew_lease("run-1", "worker-1", held.lease_token, 0)
        over = summary(store)
        Lease(store, "worker-1", 30, exclusive=True).take(RunChange(before=over, after=over))
        assert summary(store).lease_token == held.lease_token + 1
        if is_noted:
            note(store)
        if error is not None:
            raise error
        return {}

    with pytest.raises(LeaseLostError):
        ResumeEngine(store, owner="worker-1").execute_workflow("run-1", [("step_0", slow)])
    assert list(store.iter_steps("run-1")) == []


def test_a_run_that_another_step_of_the_same_executor_changed_is_lost(store: CheckpointStore) -> None:
    new_run(store)
    engine = ResumeEngine(store, owner="worker-1")

    def meddle(_input: dict[str, Any], _key: str) -> dict[str, Any]:
        engine.execute_step("run-1", "beside", 7, {}, lambda *_: {})
        note(store)
        return {}

    with pytest.raises(LeaseLostError):
        engine.execute_workflow("run-1", [("step_0", meddle)])
    assert [r.step_name for r in store.iter_steps("run-1")] == ["beside"]


BESIDE = {
    "version",
    "change_id",
    "chain_seq",
    "chain_head",
    "updated_at",
    "lease_expires_at",
    "lease_live",
}


@pytest.mark.parametrize("name", [field.name for field in fields(RunSummary)])
def test_whatever_else_changes_in_a_row_ends_the_hold(name: str) -> None:
    held = RunSummary(
        run_id="run-1",
        workflow_name="billing",
        status=RunStatus.RUNNING,
        environment="dev",  # type: ignore[arg-type]
        created_at="then",  # type: ignore[arg-type]
        updated_at="then",  # type: ignore[arg-type]
    )
    assert is_held_as(held, held.evolve())
    assert is_held_as(held, held.evolve(**{name: "another"})) is (name in BESIDE)


def test_metadata_do_not_set_a_heartbeat_back(store: CheckpointStore) -> None:
    if isinstance(store, StoreOverHttp):
        store = store.behind
    new_run(store)
    taken = Lease(store, "worker-1", 30, exclusive=True).take(
        RunChange(before=summary(store), after=summary(store))
    )
    seen = summary(store)
    assert store.renew_lease("run-1", "worker-1", taken.lease_token, 300)
    store.commit(RunChange(before=seen, after=seen.evolve(), metadata={"progress": 1}))
    assert seen.lease_expires_at is not None
    end = summary(store).lease_expires_at
    assert end is not None and end > seen.lease_expires_at + timedelta(seconds=200)
    with pytest.raises(StaleRunError):
        store.commit(RunChange(before=seen, after=seen.evolve(), metadata={"progress": 2}))

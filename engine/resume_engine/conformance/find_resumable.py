"""find_resumable: what a worker may take, and nothing that waits for a person."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from resume_engine.conformance.abilities import Ability, needs
from resume_engine.conformance.samples import (
    NOON,
    OLGA,
    change,
    completed,
    failed,
    new_run,
    summary,
)
from resume_engine.core.decisions import DecisionKind, DecisionRequest, decide
from resume_engine.core.policy import NO_POLICY
from resume_engine.core.resume_gates import required_actions
from resume_engine.core.run import Environment, RunStatus
from resume_engine.core.step_record import FailureClassification
from resume_engine.core.store import CheckpointStore

TRANSIENT = FailureClassification.TRANSIENT


def found(store: CheckpointStore, *names: str, **options: Any) -> list[str]:
    given: dict[str, Any] = {"failed_before": NOON, "max_attempts": 5, "limit": 10} | options
    resumable = store.find_resumable(names or ("billing",), **given)
    return [run.run_id for run in resumable]


def fail(
    store: CheckpointStore,
    run_id: str,
    classification: FailureClassification = TRANSIENT,
    **fields: object,
) -> None:
    run = new_run(store, run_id, **fields)
    store.commit(change(run, failed(0, classification, run_id=run_id)))


class FindResumable:
    """What a worker may take, and nothing that waits for a person."""

    def test_every_class_and_environment(self, store: CheckpointStore) -> None:
        """Of a failure only the transient one outside prod needs nobody."""
        for classification in FailureClassification:
            for environment in Environment:
                fail(store, f"{classification}-{environment}", classification, environment=environment)
        assert sorted(found(store)) == ["transient-dev", "transient-staging"]

    def test_a_run_is_taken_once_all_its_gates_are_open(self, store: CheckpointStore) -> None:
        fail(store, "run-1", FailureClassification.PARTIAL, environment=Environment.PROD)
        for action in required_actions(FailureClassification.PARTIAL, Environment.PROD):
            assert found(store) == []
            decide(
                store, DecisionRequest(run_id="run-1", kind=DecisionKind(action.value), actor=OLGA), NO_POLICY
            )
        assert found(store) == ["run-1"]

    def test_a_failure_waits_for_its_time_and_a_cleared_run_does_not(self, store: CheckpointStore) -> None:
        fail(store, "failed")
        fail(store, "cleared", FailureClassification.PERMANENT)
        decide(
            store, DecisionRequest(run_id="cleared", kind=DecisionKind.HUMAN_APPROVAL, actor=OLGA), NO_POLICY
        )
        earlier = NOON - timedelta(seconds=1)
        assert found(store, failed_before=earlier) == ["cleared"]
        assert sorted(found(store)) == ["cleared", "failed"]

    def test_a_run_that_failed_too_often_is_left_alone(self, store: CheckpointStore) -> None:
        run = new_run(store)
        for sequence in range(3):
            run = store.commit(change(run, failed(sequence, TRANSIENT, index=0)))
        assert run.failure is not None and run.failure.attempts == 3
        assert found(store, max_attempts=3) == []
        assert found(store, max_attempts=4) == ["run-1"]

    @needs(Ability.WRITES_AS_GIVEN)
    def test_other_states_are_left_alone(self, store: CheckpointStore) -> None:
        for status in RunStatus:
            new_run(store, status.value, status=status)
        assert found(store) == ["paused"]

    def test_only_workflows_that_were_asked_for(self, store: CheckpointStore) -> None:
        fail(store, "run-1", workflow_name="billing")
        fail(store, "run-2", workflow_name="claims")
        assert found(store, "claims") == ["run-2"]
        assert found(store, "claims", "billing", "more") == ["run-1", "run-2"]
        assert store.find_resumable([], failed_before=NOON, max_attempts=5, limit=10) == []

    def test_the_longest_waiting_first_and_no_more_than_asked(self, store: CheckpointStore) -> None:
        for number in range(5):
            run_id = f"run-{number}"
            record = replace(failed(0, TRANSIENT, run_id=run_id), timestamp=NOON - timedelta(minutes=number))
            store.commit(change(new_run(store, run_id), record))
        assert found(store, limit=3) == ["run-4", "run-3", "run-2"]

    def test_a_mended_run_is_left_alone(self, store: CheckpointStore) -> None:
        fail(store, "run-1")
        store.commit(change(summary(store), completed(1, index=0)))
        assert found(store) == []

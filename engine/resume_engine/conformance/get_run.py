"""get_run and load_summary: a run with its records, and without."""

from __future__ import annotations

import pytest

from resume_engine.conformance.abilities import Ability, needs
from resume_engine.conformance.samples import (
    NOON,
    change,
    completed,
    decision,
    failed,
    new_run,
    summary,
)
from resume_engine.core.run import RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.store import CheckpointStore


class GetRun:
    """A run with its records, and without."""

    @pytest.mark.parametrize(
        "unknown", ["none", "", "nul\x00", "half \ud800", "x" * 5_000, "' OR 1=1 --", "%"]
    )
    def test_an_unknown_id_is_none(self, store: CheckpointStore, unknown: str) -> None:
        new_run(store)
        assert store.get_run(unknown) is None
        assert store.load_summary(unknown) is None
        assert store.get_step_by_idempotency_key(unknown) is None

    @needs(Ability.WRITES_AS_GIVEN)
    def test_records_come_in_order_with_every_field(self, store: CheckpointStore) -> None:
        first = completed(
            0,
            input_data={"text": "a\x00b ✓ \ud83d", "deep": [{"x": None}], "n": 1e300},
            output={},
            attempt=2,
            started_at=NOON,
            duration_ms=17,
            worker="host:1:abc",
        )
        second = failed(1, error_traceback="Traceback ...", classified_by="raised as PermanentStepError")
        run = store.commit(change(new_run(store), first))
        store.commit(change(run, second))
        found = store.get_run("run-1")
        assert found is not None
        assert found.steps == [first, second]
        assert found.status is RunStatus.FAILED

    def test_an_empty_output_is_not_no_output(self, store: CheckpointStore) -> None:
        store.commit(change(new_run(store), completed(0, output={})))
        found = store.get_run("run-1")
        assert found is not None and found.steps[0].output_data == {}
        assert '"output_data":{}' in found.audit_trace()

    @needs(Ability.WRITES_AS_GIVEN)
    def test_decisions_are_seen_in_the_metadata(self, store: CheckpointStore) -> None:
        run = store.commit(change(new_run(store, metadata={"a": 1}), failed(0)))
        made = (decision(), decision(failure_key="0:9", note="n"))
        store.commit(RunChange(before=run, after=run.evolve(blocked_by=()), decisions=made))
        found = store.get_run("run-1")
        assert found is not None
        assert found.metadata["a"] == 1
        gates = found.metadata["gates"]
        assert set(gates["approvals"]) == {"0:0", "0:9"}
        assert gates["human_approval"]["approved_by"] == "olga@example.com"

    def test_gates_in_the_metadata_of_a_new_run_decide_nothing(self, store: CheckpointStore) -> None:
        forged = {"gates": {"human_approval": {"granted": True, "failure_key": "0:0", "approved_by": "me"}}}
        store.commit(change(new_run(store, metadata=forged), failed(0)))
        found = store.get_run("run-1")
        assert found is not None and "gates" not in found.metadata
        assert summary(store).blocked_by

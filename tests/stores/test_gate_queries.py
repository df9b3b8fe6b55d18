"""What the gate queue asks: one failure with its evidence, what came of it, what was decided lately."""

from __future__ import annotations

import pytest

from resume_engine.core.errors import InvalidValueError
from resume_engine.core.resume_gates import GateAction
from resume_engine.storage.gate_queries import GateQueries
from resume_engine.storage.run_filter import RunFilter
from resume_engine.storage.run_queries import RunQueries
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.factories import RunFactory, ago, at, steps


@pytest.fixture
def runs(store: SqlCheckpointStore) -> RunFactory:
    return RunFactory(store, worker="worker-1")


@pytest.fixture
def gates(store: SqlCheckpointStore) -> GateQueries:
    return GateQueries(store)


def test_the_oldest_comes_with_its_evidence(runs: RunFactory, gates: GateQueries) -> None:
    with at(ago(hours=2)):
        oldest = runs.blocked(message="Invalid API key", fail_at=2, initial_input={"claim": "c-7"})
    runs.blocked(message="newer")
    runs.failed()
    runs.cleared()
    case = gates.oldest_waiting()
    assert case is not None
    assert (case.run.run_id, case.failure_key) == (oldest.run_id, "2:2")
    assert case.failed is not None
    assert (case.failed.step_index, case.failed.attempt) == (2, 1)
    assert '"claim"' in case.failed.input_preview
    assert case.failed.error_message == "Invalid API key"
    assert case.last_output is not None
    assert "out_1" in case.last_output
    assert not case.decisions


def test_nothing_waits(runs: RunFactory, gates: GateQueries) -> None:
    runs.completed()
    assert gates.oldest_waiting() is None


def test_a_half_decided_failure_comes_with_its_decision(runs: RunFactory, gates: GateQueries) -> None:
    run = runs.blocked("partial", environment="prod", fail_at=1)
    runs.engine.record_compensation(run.run_id, result={"refund_id": "r-1"}, note="by hand")
    case = gates.oldest_waiting()
    assert case is not None
    assert case.run.blocked_by == (GateAction.PROD_RESUME_ACK,)
    (decision,) = case.decisions
    assert (decision.kind.value, decision.result, decision.note) == (
        "compensation",
        {"refund_id": "r-1"},
        "by hand",
    )


def test_decisions_about_earlier_failures_stay_with_them(runs: RunFactory, gates: GateQueries) -> None:
    run = runs.blocked(fail_at=1)
    runs.engine.grant_human_approval(run.run_id, "olga", note="first")
    with pytest.raises(ValueError, match="again"):
        runs.engine.resume(run.run_id, steps(3, fail_at=1, error=ValueError("again")))
    current = gates.load_case(run.run_id)
    assert current is not None
    assert (current.failure_key, list(current.decisions)) == ("1:2", [])
    oldest = gates.oldest_waiting()
    assert oldest is not None
    assert (oldest.failure_key, list(oldest.decisions)) == ("1:2", [])
    earlier = gates.load_case(run.run_id, "1:1")
    assert earlier is not None
    assert earlier.failed is not None
    assert earlier.failed.error_message == "Invalid API key"
    assert [decision.note for decision in earlier.decisions] == ["first"]


def test_a_case_of_a_run_that_never_failed_or_is_not_there(runs: RunFactory, gates: GateQueries) -> None:
    case = gates.load_case(runs.completed().run_id)
    assert case is not None
    assert (case.failure_key, case.failed) == (None, None)
    assert gates.load_case("nothing") is None
    assert gates.load_case("nothing", "1:1") is None


@pytest.mark.parametrize("key", ["", "1", "1:", "a:b", "-1:1", "1:1:1", "1:" + "9" * 30, "١:١"])
def test_a_key_that_no_failure_can_have_is_refused(gates: GateQueries, key: str) -> None:
    with pytest.raises(InvalidValueError, match="failure"):
        gates.load_case("r-1", key)


def test_what_came_of_a_decision(runs: RunFactory, gates: GateQueries) -> None:
    run = runs.blocked(fail_at=1)
    runs.engine.grant_human_approval(run.run_id, "olga")
    decided_at = runs.store.list_decisions(run.run_id)[0].decided_at
    before = gates.load_aftermath(run.run_id, 1, decided_at)
    assert (before.resumed, list(before.attempts)) == (None, [])
    runs.engine.resume(run.run_id, steps(3))
    after = gates.load_aftermath(run.run_id, 1, decided_at)
    assert after.resumed is not None
    assert after.resumed.actor == "worker-1"
    assert [attempt.step_index for attempt in after.attempts] == [1, 2]


def test_decided_lately_newest_first(runs: RunFactory, gates: GateQueries) -> None:
    with at(ago(hours=2)):
        runs.cleared()
    first, second = runs.cleared(environment="prod"), runs.cancelled()
    found = gates.decided_since(ago(hours=1))
    assert [entry.run.run_id for entry in found] == [second.run_id, first.run_id, first.run_id]
    assert [entry.decision.kind.value for entry in found] == ["reject", "prod_resume_ack", "human_approval"]
    assert len(gates.decided_since(ago(hours=1), limit=1)) == 1


def test_a_cause_counts_exactly_the_runs_it_selects(runs: RunFactory, store: SqlCheckpointStore) -> None:
    long = "x" * 119 + " then an id: "
    for message in ("boom", "boom", "boom again", long + "1", long + "2", "100% _of_ \\it", "half\nof it"):
        runs.blocked(message=message)
        runs.cancelled(message=message)
    taken_up = runs.blocked(message="boom")
    runs.engine.grant_human_approval(taken_up.run_id, "olga")
    runs.engine.resume(taken_up.run_id, steps(3))
    queries = RunQueries(store)
    causes = queries.failure_causes(ago(hours=1))
    assert sorted(cause.count for cause in causes) == [1, 1, 1, 2, 2]
    for cause in causes:
        wanted = RunFilter(error_type=cause.error_type, message_start=cause.message_start)
        assert len(queries.list_runs(wanted).items) == cause.count, cause
        waiting = queries.list_blocked(message_start=cause.message_start)
        assert len(waiting.items) == cause.count, cause

"""No gate is skipped: workflows made by chance, and everything that may be done between their resumes."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.crash.broken import taken_out
from tests.crash.gate_story import ENVIRONMENTS, MOVES, WRONG, Counts, Story, ground
from tests.crash.scale import LONG, schedule, tell, times

SHORT = {"sqlite": 60, "postgres": 15}
LONGEST = {"sqlite": 9_000, "postgres": 1_000}
MOST_FOR_A_BREAK = 400


@pytest.fixture(params=list(SHORT))
def store(request: pytest.FixtureRequest) -> Iterator[SqlCheckpointStore]:
    """An empty database: in memory, or on PostgreSQL."""
    is_postgres = request.param == "postgres"
    url = request.getfixturevalue("postgres_url") if is_postgres else "sqlite:///:memory:"
    with open_store(url) as opened:
        yield opened


def stories(store: SqlCheckpointStore, count: int, name: str) -> Counts:
    """Let so many stories happen; the first gate that is skipped ends it."""
    chance, counts = schedule(name), Counts()
    with ground(store) as shared:
        for number in range(count):
            Story(shared, random.Random(chance.getrandbits(64)), number, counts).happens()
    return counts


def test_no_gate_is_skipped(store: SqlCheckpointStore, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params["store"]
    counts = stories(store, times(short=SHORT[kind], long=LONGEST[kind]), f"gates {kind}")
    tell(
        f"gates {kind}: {counts.stories} workflows of {counts.steps} steps, {counts.effects} effects, "
        f"{sum(counts.moves.values())} moves, {counts.waited} failures passed once they were decided, "
        f"{counts.refusals['ResumeBlockedError']} times refused, {counts.events['gate.expired']} gates "
        f"closed again, {counts.outcomes['crash']} executors lost"
    )
    assert counts.waited > counts.stories / 10
    assert_all_happened(counts, kind)


def assert_all_happened(counts: Counts, kind: str) -> None:
    """Every move, failure and refusal was among the stories."""
    assert not {*WRONG} - {*counts.outcomes}
    if kind == "postgres" and not LONG:
        return
    assert not {*MOVES} - {*counts.moves}
    expected = {f"{wrong} in {env}" for wrong in WRONG[1:-1] for env in ENVIRONMENTS}
    assert not (expected | {"retried"}) - {*counts.failures}
    decided = {"gate.approved", "gate.compensated", "gate.prod_resume_ack", "gate.refused"}
    assert not (decided | {"run.interrupted", "run.resumed"}) - {*counts.events}
    if not LONG:
        return
    rare = {"gate.expired", "gate.rejected", "run.input_changed", "run.updated", "run.resume_validated"}
    assert not rare - {*counts.events}
    ends = {f"compensate: {how}" for how in ("complete", "transient", "permanent", "crash")}
    ends |= {f"reconcile: {how}" for how in ("found", "none", "fails", "crash")}
    assert not ends - {*counts.outcomes}
    refusals = {
        "AlreadyDecidedError",
        "AnotherPersonNeededError",
        "DecisionInputError",
        "DecisionNotAllowedError",
        "FailureMovedOnError",
        "PolicyRefusalError",
        "RunFinishedError",
        "StaleRunError",
        "HTTP 200",
        "HTTP 201",
        "HTTP 403",
        "HTTP 409",
        "HTTP 412",
    }
    assert not refusals - {*counts.refusals}


@pytest.mark.parametrize(
    "broken",
    [
        "no_gate_check",
        "outside_records_pass",
        "interruptions_pass",
        "forgotten_question",
        "one_decision_for_all",
        "old_decisions_count",
        "no_end_of_decisions",
        "everybody_decides",
        "one_person_is_several",
        "forgetful_plan",
    ],
)
def test_the_oracle_sees_a_gate_that_is_skipped(broken: str) -> None:
    with (
        open_store("sqlite:///:memory:") as store,
        taken_out(broken),
        pytest.raises(AssertionError, match=FOUND[broken]),
    ):
        stories(store, MOST_FOR_A_BREAK, broken)


FOUND = {
    "no_gate_check": "acts before",
    "outside_records_pass": r"\(append\).* acts before",
    "interruptions_pass": "after an interruption of step",
    "forgotten_question": "after an interruption of step",
    "one_decision_for_all": "acts before",
    "old_decisions_count": "a decision about",
    "no_end_of_decisions": "acts before",
    "everybody_decides": "decide",
    "one_person_is_several": "acts before",
    "forgetful_plan": "is completed and acts again|the key it was completed with",
}

"""No gate is skipped: workflows made by chance, and everything that may be done between their resumes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from resume_engine.storage.open_store import open_store
from resume_engine.storage.sql_store import SqlCheckpointStore
from tests.crash.broken import taken_out
from tests.crash.gate_case import Counts
from tests.crash.gate_ground import ground
from tests.crash.gate_story import MOVES, Story
from tests.crash.gate_workflow import ENVIRONMENTS, WRONG
from tests.crash.scale import LONG, schedule, tell, times

SHORT = {"sqlite": 60, "postgres": 15}
LONGEST = {"sqlite": 9_000, "postgres": 1_000}
MOST_FOR_A_BREAK = 100
MOST_MORE = 20


@pytest.fixture(params=list(SHORT))
def store(request: pytest.FixtureRequest) -> Iterator[SqlCheckpointStore]:
    """An empty database: in memory, or on PostgreSQL."""
    is_postgres = request.param == "postgres"
    url = request.getfixturevalue("postgres_url") if is_postgres else "sqlite:///:memory:"
    with open_store(url) as opened:
        yield opened


def stories(
    store: SqlCheckpointStore, count: int, name: str, lacks: Callable[[Counts], set[str]] | None = None
) -> Counts:
    """Let so many stories happen, and more while `lacks` names something; a skipped gate ends it."""
    chance, counts = schedule(name), Counts()
    with ground(store) as shared:
        for number in range(count * MOST_MORE):
            Story(shared, random.Random(chance.getrandbits(64)), number, counts).happens()
            if number + 1 >= count and not (lacks and lacks(counts)):
                break
    return counts


def test_no_gate_is_skipped(store: SqlCheckpointStore, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params["store"]
    lacks = rare_missing if LONG else few_missing if kind == "postgres" else missing
    counts = stories(store, times(short=SHORT[kind], long=LONGEST[kind]), f"gates {kind}", lacks)
    tell(
        f"gates {kind}: {counts.stories} workflows of {counts.steps} steps, {counts.effects} effects, "
        f"{sum(counts.moves.values())} moves, {counts.waited} failures passed once they were decided, "
        f"{counts.refusals['ResumeBlockedError']} times refused, {counts.events['gate.expired']} gates "
        f"closed again, {counts.outcomes['crash']} executors lost"
    )
    assert counts.waited > counts.stories / 10
    assert not lacks(counts), "it did not happen in any story"


def few_missing(counts: Counts) -> set[str]:
    """Return the failures that no story had."""
    return {*WRONG} - {*counts.outcomes}


def missing(counts: Counts) -> set[str]:
    """Return the failures, moves and decisions that no story had."""
    failures = {f"{wrong} in {env}" for wrong in WRONG[1:-1] for env in ENVIRONMENTS} | {"retried"}
    events = {"gate.approved", "gate.compensated", "gate.prod_resume_ack", "gate.refused"}
    events |= {"run.interrupted", "run.resumed"}
    return (
        few_missing(counts)
        | ({*MOVES} - {*counts.moves})
        | (failures - {*counts.failures})
        | (events - {*counts.events})
    )


def rare_missing(counts: Counts) -> set[str]:
    """Return what no story had of all that may happen."""
    events = {"gate.expired", "gate.rejected", "run.input_changed", "run.updated", "run.resume_validated"}
    ends = {f"compensate: {how}" for how in ("complete", "transient", "permanent", "crash")}
    ends |= {f"reconcile: {how}" for how in ("found", "none", "fails", "crash")}
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
    return (
        missing(counts)
        | (events - {*counts.events})
        | (ends - {*counts.outcomes})
        | (refusals - {*counts.refusals})
    )


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
        stories(store, MOST_FOR_A_BREAK, broken, lambda _: {"a gate that is skipped"})


FOUND = {
    "no_gate_check": "acts before",
    "outside_records_pass": r"\(append\).* (acts before|behind the end)",
    "interruptions_pass": "after an interruption of step",
    "forgotten_question": "after an interruption of step",
    "one_decision_for_all": "acts before",
    "old_decisions_count": "a decision about",
    "no_end_of_decisions": "acts before",
    "everybody_decides": "decide",
    "one_person_is_several": "acts before",
    "forgetful_plan": "is completed and acts again|the key it was completed with",
}

"""The later of two people is told who was first, and when, in words that fit the time between them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from resume_engine.core.decisions import Decision, DecisionKind
from resume_engine.core.errors import AlreadyDecidedError, FailureMovedOnError, NothingToDecideError
from webapp.pages.conflict_words import explain

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
ME = "ana@example.org"


def decided(by: str, ago: timedelta, kind: DecisionKind = DecisionKind.HUMAN_APPROVAL) -> AlreadyDecidedError:
    return AlreadyDecidedError(
        Decision(
            run_id="r-1",
            failure_key="1:1",
            kind=kind,
            actor=by,
            role="operator",
            channel="dashboard",
            decided_at=NOW - ago,
        )
    )


@pytest.mark.parametrize(
    ("by", "ago", "words"),
    [
        ("Oscar", timedelta(milliseconds=300), "Oscar approved this less than a second before you."),
        ("Oscar", timedelta(seconds=1), "Oscar approved this 1 second before you."),
        ("Oscar", timedelta(seconds=4), "Oscar approved this 4 seconds before you."),
        ("Oscar", timedelta(minutes=3), "Oscar approved this 3 min before you."),
        ("Oscar", timedelta(hours=3, minutes=12), "Oscar approved this 3 h 12 m ago."),
        (ME, timedelta(seconds=4), "You approved this 4 seconds ago."),
    ],
)
def test_who_and_when(by: str, ago: timedelta, words: str) -> None:
    assert explain(decided(by, ago), ME, NOW) == f"{words} Nothing was changed."


@pytest.mark.parametrize("kind", DecisionKind)
def test_every_act_has_words(kind: DecisionKind) -> None:
    assert explain(decided("Oscar", timedelta(seconds=2), kind), ME, NOW).startswith("Oscar ")


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (FailureMovedOnError("r-1", "1:1", None), "this failure is no longer open"),
        (FailureMovedOnError("r-1", "1:1", "2:5"), "it failed anew, at step 2"),
        (NothingToDecideError("r-1", "compensation", "it waits for an approval"), "it waits for an approval"),
    ],
)
def test_a_run_that_moved_on(refusal: Exception, words: str) -> None:
    told = explain(refusal, ME, NOW)  # type: ignore[arg-type]
    assert words in told
    assert "Nothing was changed." in told

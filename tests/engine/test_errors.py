"""Errors: one tree, and messages that say run, step, expected, found and what to do next."""

from __future__ import annotations

import inspect
import re
from datetime import UTC, datetime

import pytest

from resume_engine.core import errors
from resume_engine.core.errors import ResumeEngineError
from resume_engine.core.resume_gates import ResumeBlocker
from resume_engine.core.step_record import FailureClassification
from tests.stores.changes import decision

RUN = "d0000001-0000-4000-8000-000000000001"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
BLOCKER = ResumeBlocker(
    FailureClassification.PERMANENT, 3, "charge", "3:7", "invalid API key", "human_approval"
)

# Error -> the words its message must hold, the next thing to do among them.
MESSAGES: list[tuple[ResumeEngineError, tuple[str, ...]]] = [
    (errors.RunNotFoundError(RUN), (RUN, "Check the id")),
    (errors.RunExistsError(RUN), (RUN, "Resume it, or start a run with another id")),
    (errors.RunFinishedError(RUN, "cancelled"), (RUN, "is cancelled", "Start a new run")),
    (errors.RunBusyError(RUN, "host:1:abc", NOON), (RUN, "host:1:abc", "2026-03-01T12:00:00", "Wait")),
    (errors.RunBusyError(RUN, "host:1:abc", None), (RUN, "host:1:abc", "Wait")),
    (
        errors.StaleRunError(RUN, "version 3", "version 4"),
        (RUN, "version 3", "version 4", "read the run again"),
    ),
    (errors.ResumeBlockedError([BLOCKER]), ("human_approval", "invalid API key")),
    (errors.InvalidValueError("limit", "must be at least 1, found 0"), ("limit", "at least 1", "found 0")),
    (
        errors.UnknownEnvironmentError("qa", ["dev", "prod"]),
        ("environment", "'qa'", "use one of dev, prod"),
    ),
    (
        errors.InputNotSerializableError(RUN, "charge", 3, "why"),
        (RUN, "step 3", "'charge'", "why", "was not called", "Pass strings, numbers"),
    ),
    (
        errors.OutputNotDictError(RUN, "charge", 3, "list"),
        (
            RUN,
            "Step 3",
            "'charge'",
            "returned list",
            "expected a dict",
            "return a dict, compensate, then resume",
        ),
    ),
    (
        errors.OutputNotSerializableError(RUN, "charge", 3, "why"),
        (RUN, "Step 3", "'charge'", "why", "return plain JSON values, compensate, then resume"),
    ),
    (
        errors.OutputTooLargeError(RUN, "charge", 3, 12_000_000, "why"),
        (RUN, "Step 3", "'charge'", "12,000,000", "why", "return less", "compensate, then resume"),
    ),
    (
        errors.WorkflowMismatchError(RUN, 3, "'charge'", "'pay'"),
        (RUN, "step 3", "'charge'", "'pay'", "Resume with the workflow that started the run"),
    ),
    (
        errors.InputMismatchError(RUN, "a" * 64, "b" * 64),
        (RUN, "a" * 12, "b" * 12, "Leave initial_input out"),
    ),
    (errors.ReplayDivergenceError(RUN, 3, "charge", "why"), (RUN, "step 3", "'charge'", "why")),
    (
        errors.NothingToDecideError(RUN, "human_approval", "its failure is transient"),
        (RUN, "human_approval", "its failure is transient", "Nothing was changed"),
    ),
    (
        errors.AlreadyDecidedError(decision(RUN, "3:7")),
        (RUN, "3:7", "human_approval", "by olga@example.com", "2026-03-01T12:00:00", "Nothing was changed"),
    ),
    (errors.FailureMovedOnError(RUN, "3:7", "3:9"), (RUN, "3:7", "3:9", "Nothing was changed", "look again")),
    (errors.FailureMovedOnError(RUN, "3:7", None), (RUN, "3:7", "no open failure now", "look again")),
    (
        errors.DecisionNotAllowedError("rita", "runner", "human_approval"),
        ("rita", "runner", "human_approval", "needs the role operator", "Nothing was changed"),
    ),
    (errors.DecisionInputError("note", "is missing"), ("note", "is missing")),
    (
        errors.SchemaOutdatedError("0001", "0002"),
        ("0001", "0002", "Make a backup", "resume-engine db upgrade"),
    ),
    (errors.SchemaTooNewError("0003", "0002"), ("0003", "0002", "Install the newer release")),
]


@pytest.mark.parametrize(("error", "words"), MESSAGES, ids=[type(error).__name__ for error, _ in MESSAGES])
def test_messages_say_what_happened_and_what_to_do(error: ResumeEngineError, words: tuple[str, ...]) -> None:
    message = str(error)
    assert [word for word in words if word not in message] == []
    assert "\n" not in message


def classes() -> list[type[ResumeEngineError]]:
    return [
        found
        for _, found in inspect.getmembers(errors, inspect.isclass)
        if issubclass(found, ResumeEngineError)
    ]


def test_every_error_is_drawn_in_the_tree_under_its_base() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^([│ ]*)(├── |└── )?([A-Z]\w+Error)\b", line)
        if found:
            depth = (len(found.group(1)) + len(found.group(2) or "")) // 4
            path = [*path[:depth], found.group(3)]
            drawn[found.group(3)] = path[-2] if depth else ""
    bases = {found.__name__: {base.__name__ for base in found.__mro__} for found in classes()}
    assert set(drawn) == set(bases)
    wrong = {name: base for name, base in drawn.items() if base and base not in bases[name]}
    assert wrong == {}


def test_errors_that_0_2_0_raised_as_value_errors_still_are() -> None:
    for kind in (
        errors.RunNotFoundError,
        errors.RunExistsError,
        errors.NothingToDecideError,
        errors.AlreadyDecidedError,
    ):
        assert issubclass(kind, ValueError)


def test_what_carries_more_than_a_message() -> None:
    assert errors.ResumeBlockedError([BLOCKER]).blockers == [BLOCKER]
    assert errors.RunBusyError(RUN, "o", NOON).until == NOON
    moved = errors.FailureMovedOnError(RUN, "3:7", "3:9", decision())
    assert (moved.shown, moved.current, moved.last_decision) == ("3:7", "3:9", decision())
    assert errors.InvalidValueError("limit", "x").field == "limit"

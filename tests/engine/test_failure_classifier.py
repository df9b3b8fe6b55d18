"""Which exception asks for what."""

from __future__ import annotations

import json

import pytest

from resume_engine.core.errors import OutputNotDictError, OutputNotSerializableError
from resume_engine.core.failure_classifier import (
    PartialStepError,
    PermanentStepError,
    TransientStepError,
    can_auto_resume,
    classify,
    classify_failure,
    requires_compensation,
    requires_human_intervention,
)
from resume_engine.core.step_record import FailureClassification

TRANSIENT = FailureClassification.TRANSIENT
PERMANENT = FailureClassification.PERMANENT
PARTIAL = FailureClassification.PARTIAL


class GatewayTimeout(TransientStepError, ValueError):
    """A typed error counts before what it is beside it."""


class Unknown(Exception):
    """An exception no rule knows."""


TABLE: list[tuple[BaseException, FailureClassification, str]] = [
    (TransientStepError("x"), TRANSIENT, "raised as TransientStepError"),
    (PermanentStepError("x"), PERMANENT, "raised as PermanentStepError"),
    (PartialStepError("x"), PARTIAL, "raised as PartialStepError"),
    (GatewayTimeout("x"), TRANSIENT, "GatewayTimeout is a TransientStepError"),
    (ConnectionError("x"), TRANSIENT, "raised as ConnectionError"),
    (ConnectionResetError("x"), TRANSIENT, "ConnectionResetError is a ConnectionError"),
    (TimeoutError("x"), TRANSIENT, "raised as TimeoutError"),
    (OSError("x"), TRANSIENT, "raised as OSError"),
    (FileNotFoundError("x"), TRANSIENT, "FileNotFoundError is a OSError"),
    (BlockingIOError("x"), TRANSIENT, "BlockingIOError is a OSError"),
    # An OSError, but waiting does not grant a permission.
    (PermissionError("x"), PERMANENT, "raised as PermissionError"),
    (ValueError("x"), PERMANENT, "raised as ValueError"),
    (UnicodeDecodeError("utf-8", b"x", 0, 1, "x"), PERMANENT, "UnicodeDecodeError is a ValueError"),
    (json.JSONDecodeError("x", "x", 0), PERMANENT, "JSONDecodeError is a ValueError"),
    (TypeError("x"), PERMANENT, "raised as TypeError"),
    (KeyError("x"), PERMANENT, "raised as KeyError"),
    # The step ran: its effects may stand although its output cannot be kept.
    (OutputNotDictError("r", "s", 0, "list"), PARTIAL, "OutputNotDictError is a StepOutputError"),
    (
        OutputNotSerializableError("r", "s", 0, "x"),
        PARTIAL,
        "OutputNotSerializableError is a StepOutputError",
    ),
    (RuntimeError("x"), TRANSIENT, "no rule knows RuntimeError: taken as transient"),
    (IndexError("x"), TRANSIENT, "no rule knows IndexError: taken as transient"),
    (ZeroDivisionError("x"), TRANSIENT, "no rule knows ZeroDivisionError: taken as transient"),
    (Unknown("x"), TRANSIENT, "no rule knows Unknown: taken as transient"),
]


@pytest.mark.parametrize(
    ("error", "classification", "rule"), TABLE, ids=[type(error).__name__ for error, _, _ in TABLE]
)
def test_the_table(error: BaseException, classification: FailureClassification, rule: str) -> None:
    assert classify(error) == (classification, rule)
    assert classify_failure(error) == (classification, str(error))


def test_an_explicit_class_wins() -> None:
    assert classify_failure(ValueError("x"), classification=TRANSIENT) == (TRANSIENT, "x")
    assert classify_failure(classification=PARTIAL) == (PARTIAL, "partial")
    assert classify_failure(classification=PARTIAL, message="half done") == (PARTIAL, "half done")


def test_without_anything_known() -> None:
    assert classify_failure() == (TRANSIENT, "Unknown error")
    assert classify_failure(message="gone") == (TRANSIENT, "gone")
    assert classify_failure(ValueError("x"), message="better words") == (PERMANENT, "better words")


@pytest.mark.parametrize("classification", FailureClassification)
def test_each_class_asks_for_exactly_one_thing(classification: FailureClassification) -> None:
    asked = {
        TRANSIENT: can_auto_resume(classification),
        PARTIAL: requires_compensation(classification),
        PERMANENT: requires_human_intervention(classification),
    }
    assert asked == {known: known is classification for known in FailureClassification}

"""Classify failures: which exception asks for what before the step may run again."""

from __future__ import annotations

from typing import NamedTuple

from resume_engine.core.errors import StepOutputError
from resume_engine.core.step_record import FailureClassification

__all__ = [
    "Classified",
    "FailureClassification",
    "PartialStepError",
    "PermanentStepError",
    "TransientStepError",
    "can_auto_resume",
    "classify",
    "classify_failure",
    "requires_compensation",
    "requires_human_intervention",
]


class TransientStepError(Exception):
    """Say that the step may simply be tried again."""


class PermanentStepError(Exception):
    """Say that a person must look before the step is tried again."""


class PartialStepError(Exception):
    """Say that side effects happened and must be compensated before the step is tried again."""


class Classified(NamedTuple):
    """A classification and the rule that gave it, in words for the operator."""

    classification: FailureClassification
    rule: str


_RULES: tuple[tuple[type[BaseException], FailureClassification], ...] = (
    (TransientStepError, FailureClassification.TRANSIENT),
    (PermanentStepError, FailureClassification.PERMANENT),
    (PartialStepError, FailureClassification.PARTIAL),
    # The step ran to its end, so its effects may stand although nothing was recorded of them.
    (StepOutputError, FailureClassification.PARTIAL),
    # PermissionError is an OSError, but waiting does not grant a permission: it stands before OSError.
    (PermissionError, FailureClassification.PERMANENT),
    (ConnectionError, FailureClassification.TRANSIENT),
    (TimeoutError, FailureClassification.TRANSIENT),
    (OSError, FailureClassification.TRANSIENT),
    (ValueError, FailureClassification.PERMANENT),
    (TypeError, FailureClassification.PERMANENT),
    (KeyError, FailureClassification.PERMANENT),
)


def classify(exc: BaseException) -> Classified:
    """Return the class of a failure and the first rule that matched; anything unknown is transient."""
    for exc_type, classification in _RULES:
        if type(exc) is exc_type:
            return Classified(classification, f"raised as {exc_type.__name__}")
        if isinstance(exc, exc_type):
            return Classified(classification, f"{type(exc).__name__} is a {exc_type.__name__}")
    return Classified(
        FailureClassification.TRANSIENT, f"no rule knows {type(exc).__name__}: taken as transient"
    )


def classify_failure(
    exc: BaseException | None = None,
    *,
    classification: FailureClassification | None = None,
    message: str | None = None,
) -> tuple[FailureClassification, str]:
    """Return (classification, message) of a failure; an explicit classification wins."""
    if classification is not None:
        return classification, message or str(exc or classification.value)
    if exc is None:
        return FailureClassification.TRANSIENT, message or "Unknown error"
    return classify(exc).classification, message or str(exc)


def can_auto_resume(classification: FailureClassification) -> bool:
    """Return whether the failure needs no person outside prod."""
    return classification == FailureClassification.TRANSIENT


def requires_compensation(classification: FailureClassification) -> bool:
    """Return whether side effects must be compensated first."""
    return classification == FailureClassification.PARTIAL


def requires_human_intervention(classification: FailureClassification) -> bool:
    """Return whether a human approval is needed first."""
    return classification == FailureClassification.PERMANENT

"""Classify failures: which exception asks for what before the step may run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from resume_engine.core.errors import InvalidValueError, RemoteTooLargeError, StepOutputError
from resume_engine.core.step_record import FailureClassification

__all__ = [
    "Classified",
    "FailureClassification",
    "FailureRule",
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
    """Say that the step may simply be tried again, not before `retry_after` seconds if given."""

    def __init__(self, *args: object, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(*args)


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
    (RemoteTooLargeError, FailureClassification.PERMANENT),
    # PermissionError is an OSError, but waiting does not grant a permission: it stands before OSError.
    (PermissionError, FailureClassification.PERMANENT),
    (ConnectionError, FailureClassification.TRANSIENT),
    (TimeoutError, FailureClassification.TRANSIENT),
    (OSError, FailureClassification.TRANSIENT),
    (ValueError, FailureClassification.PERMANENT),
    (TypeError, FailureClassification.PERMANENT),
    (KeyError, FailureClassification.PERMANENT),
)


@dataclass(frozen=True, kw_only=True)
class FailureRule:
    """Classify what the built-in rules cannot know: by exception type, by HTTP status, or by both.

    The status is looked for as `status_code`, `status` or `code` on the exception or its `response`.
    """

    classification: FailureClassification
    exception: type[BaseException] | None = None
    http_status: int | range | None = None

    def __post_init__(self) -> None:
        if self.exception is None and self.http_status is None:
            raise InvalidValueError("rule", "name an exception type, an HTTP status, or both")

    def matches(self, exc: BaseException) -> bool:
        """Return whether the rule applies to `exc`."""
        if self.exception is not None and not isinstance(exc, self.exception):
            return False
        return self.http_status is None or _http_status(exc) in _as_range(self.http_status)

    def words(self) -> str:
        """Return the rule in words for the operator."""
        kind = self.exception.__name__ if self.exception else "any exception"
        return f"rule: {kind}" + (f" with HTTP status {self.http_status}" if self.http_status else "")


def _as_range(status: int | range) -> range:
    return status if isinstance(status, range) else range(status, status + 1)


def _http_status(exc: BaseException) -> int | None:
    for holder in (exc, getattr(exc, "response", None)):
        for name in ("status_code", "status", "code"):
            value = getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    return None


def classify(exc: BaseException, rules: Sequence[FailureRule] = ()) -> Classified:
    """Return the class of a failure and the first rule that matched; anything unknown is transient.

    The three typed errors always mean what they say; then `rules` in order, then the built-in ones.
    """
    for exc_type, classification in _RULES:
        if exc_type in _TYPED and isinstance(exc, exc_type):
            return _classified(exc, exc_type, classification)
    for rule in rules:
        if rule.matches(exc):
            return Classified(rule.classification, rule.words())
    for exc_type, classification in _RULES:
        if isinstance(exc, exc_type):
            return _classified(exc, exc_type, classification)
    return Classified(
        FailureClassification.TRANSIENT, f"no rule knows {type(exc).__name__}: taken as transient"
    )


_TYPED = (TransientStepError, PermanentStepError, PartialStepError)


def _classified(
    exc: BaseException, exc_type: type[BaseException], classification: FailureClassification
) -> Classified:
    if type(exc) is exc_type:
        return Classified(classification, f"raised as {exc_type.__name__}")
    return Classified(classification, f"{type(exc).__name__} is a {exc_type.__name__}")


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

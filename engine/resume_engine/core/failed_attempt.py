"""The record of an attempt that failed: how it is classified, and what is kept of its error."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import replace

from resume_engine.core.failure_classifier import FailureRule, classify
from resume_engine.core.payload import storable
from resume_engine.core.step_record import StepRecord, StepStatus

TRACEBACK_MAX_CHARACTERS = 16_000
MESSAGE_MAX_CHARACTERS = 8_000
_SHORT_CHARACTERS = 1_000


def failed_attempt(attempt: StepRecord, exc: Exception, rules: Sequence[FailureRule]) -> StepRecord:
    """Return the record of an attempt that ended with `exc`."""
    classified = classify(exc, rules)
    frames = "".join(traceback.format_exception(exc))
    return replace(
        attempt,
        status=StepStatus.FAILED,
        output_data=None,
        failure_classification=classified.classification,
        classified_by=classified.rule[:255],
        error_type=type(exc).__name__[:255],
        error_message=storable(_message(exc))[:MESSAGE_MAX_CHARACTERS],
        error_traceback=storable(frames)[-TRACEBACK_MAX_CHARACTERS:],
    )


def shortened(failed: StepRecord) -> StepRecord:
    """Return the record of a failure in few words, where there is no room for many beside the input."""
    return replace(
        failed,
        error_message=(failed.error_message or "")[:_SHORT_CHARACTERS],
        error_traceback=(failed.error_traceback or "")[-_SHORT_CHARACTERS:],
    )


def _message(exc: Exception) -> str:
    try:
        return str(exc) or type(exc).__name__
    except Exception:  # an exception whose own text fails must still be recorded
        return type(exc).__name__

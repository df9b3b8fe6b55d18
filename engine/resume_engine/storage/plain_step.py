"""A step record in the words of release 0.2.0."""

from __future__ import annotations

from typing import Any

from resume_engine.core import codec
from resume_engine.core.payload import storable
from resume_engine.core.step_record import StepRecord


def plain_step(step: StepRecord) -> dict[str, Any]:
    """Return a record in the words of release 0.2.0."""
    failure = step.failure_classification
    return {
        "step_name": step.step_name,
        "step_index": step.step_index,
        "status": step.status.value,
        "input_json": codec.as_json(step.input_data),
        "output_json": codec.as_json(step.output_data),
        "failure_classification": failure.value if failure else None,
        "error_message": storable(step.error_message) if step.error_message else step.error_message,
        "sequence": step.sequence,
        "idempotency_key": step.idempotency_key,
    }

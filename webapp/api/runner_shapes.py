"""What runners send, as strict pydantic models; the fields are those that release 0.2.0 sends."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from resume_engine.core.run import RunStatus
from resume_engine.core.step_record import FailureClassification, StepStatus
from webapp.api.shapes import RunId, Strict, Text255

Count = Annotated[int, Field(ge=0, lt=2**31)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def one_of(words: type[Any]) -> Any:
    """Return the type of a field that takes the values of an enumeration."""
    return Annotated[words, Field(strict=False)]


class KeyPath(Strict):
    """The idempotency key that an address names."""

    key: Annotated[str, Field(min_length=1)]


class UpdateRun(Strict):
    """The body of `PATCH /runs/{id}`."""

    status: one_of(RunStatus) | None = None  # type: ignore[valid-type]
    metadata: dict[str, Any] | None = None


class AppendStep(Strict):
    """The body of `POST /runs/{id}/steps`."""

    step_name: Text255
    step_index: Count
    status: one_of(StepStatus)  # type: ignore[valid-type]
    input_json: dict[str, Any]
    output_json: dict[str, Any] | None = None
    failure_classification: one_of(FailureClassification) | None = None  # type: ignore[valid-type]
    error_message: str | None = None
    sequence: Count
    idempotency_key: Sha256


class ResumeRun(Strict):
    """The body of `POST /resume`."""

    run_id: RunId

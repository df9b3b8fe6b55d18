"""What runners send, as strict pydantic models; the fields are those that release 0.2.0 sends."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from resume_engine.core.decision import DecisionKind
from resume_engine.core.decision_request import RESULT_MAX_CHARACTERS
from resume_engine.core.failed_attempt import MESSAGE_MAX_CHARACTERS, TRACEBACK_MAX_CHARACTERS
from resume_engine.core.lease import LEASE_SECONDS_MAX
from resume_engine.core.run import RunStatus
from resume_engine.core.step_record import FailureClassification, StepStatus
from webapp.api.shapes import FailureKey, Name, Note, RunId, Strict, Text255

Count = Annotated[int, Field(ge=0, lt=2**31)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
# As long as the engine keeps it of what it caught: each answer about the run repeats it.
ErrorMessage = Annotated[str, AfterValidator(lambda text: text[:MESSAGE_MAX_CHARACTERS])]


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


class SentStep(Strict):
    """A step as release 0.2.0 sends it."""

    step_name: Text255
    step_index: Count
    status: one_of(StepStatus)  # type: ignore[valid-type]
    input_json: dict[str, Any] | None
    output_json: dict[str, Any] | None = None
    failure_classification: one_of(FailureClassification) | None = None  # type: ignore[valid-type]
    error_message: ErrorMessage | None = None
    sequence: Count
    idempotency_key: Sha256


class ResumeRun(Strict):
    """The body of `POST /resume`."""

    run_id: RunId


# What the client of this release sends beside that


ChangeId = Annotated[str, Field(pattern="^[0-9a-f]{16,32}$")]
Seconds = Annotated[float, Field(ge=0, le=LEASE_SECONDS_MAX, strict=False)]
Moment = Annotated[str, Field(max_length=40)]


class Intent(Strict):
    """A step that is about to be called."""

    step_index: Count
    step_name: Text255
    idempotency_key: Sha256
    attempt: Count
    since: Moment
    asked: bool = False


class Hold(Strict):
    """An executor's hold on a run; without `seconds` its end stays as it is."""

    owner: Text255
    token: Count
    seconds: Seconds | None = None


class Change(Strict):
    """What a change is based on, and who executes the run afterwards (`lease` null: nobody)."""

    change_id: ChangeId
    version: Count
    lease: Hold | None = None
    in_flight: Annotated[list[Intent], Field(max_length=1_000)] = []
    retry_at: Moment | None = None


class StepChange(Change):
    """A step record as the client of this release makes it; payloads are the text that is stored of them."""

    held: Hold | None = None
    follows_failure: bool = False
    input_text: str
    output_text: str | None = None
    timestamp: Moment
    started_at: Moment | None = None
    attempt: Annotated[int, Field(ge=1, lt=2**31)]
    duration_ms: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    error_type: Text255 | None = None
    error_traceback: Annotated[str, Field(max_length=TRACEBACK_MAX_CHARACTERS)] | None = None
    classified_by: Text255 | None = None
    worker: Text255 | None = None


class AppendStep(SentStep):
    """The body of `POST /runs/{id}/steps`; with `change` the payloads stand in it."""

    input_json: dict[str, Any] | None = None
    change: StepChange | None = None


class ChangeLease(Strict):
    """The body of `POST /runs/{id}/lease`.

    claim: take the run, or go on under the lease; complete: the run is done; interrupt: a person must look at
    what its vanished executor left; renew and release need `lease` only.
    """

    action: Literal["claim", "complete", "interrupt", "renew", "release"]
    lease: Hold | None = None
    change: Change | None = None
    steps_total: Count | None = None
    workflow: Annotated[list[Text255], Field(max_length=100_000)] | None = None
    initial_input_text: str | None = None
    asked: bool = False


class RollBack(Strict):
    """The body of `POST /runs/{id}/roll_back`; `compensated` are the steps that can be undone, by index."""

    change: Change
    note: Note
    compensated: Annotated[list[Count], Field(max_length=100_000)]
    display_name: Name | None = None


class RefusedDecision(Strict):
    """The body of `POST /runs/{id}/refused_decisions`."""

    failure_key: FailureKey | None = None
    payload: Annotated[dict[Text255, Annotated[str, Field(max_length=2_000)]], Field(max_length=10)]


class Decide(Strict):
    """The body of `POST /runs/{id}/decisions`; an Idempotency-Key makes it safe to send again."""

    kind: one_of(DecisionKind)  # type: ignore[valid-type]
    failure_key: FailureKey | None = None
    note: Note | None = None
    result_text: Annotated[str, Field(max_length=RESULT_MAX_CHARACTERS)] | None = None
    step_sequence: Count | None = None
    display_name: Name | None = None

"""What the API takes and gives, as strict pydantic models: unknown fields are refused."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from resume_engine.core.decision_request import FAILURE_KEY_MAX_CHARACTERS, NOTE_MAX_CHARACTERS

Text255 = Annotated[str, Field(min_length=1, max_length=255)]
NOT_BLANK = r"\S"
Name = Annotated[str, Field(min_length=1, max_length=255, pattern=NOT_BLANK)]  # of somebody
RunId = Annotated[str, Field(min_length=1, max_length=36)]
Note = Annotated[str, Field(max_length=NOTE_MAX_CHARACTERS)]
FailureKey = Annotated[str, Field(min_length=1, max_length=FAILURE_KEY_MAX_CHARACTERS)]


class Shape(BaseModel):
    """A model that makes each of its JSON schemas once.

    flask-openapi3 asks for the schema of a query at every request, and for that of every error once for each
    view. It reads them only, so everybody is given the same one.
    """

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the JSON schema; the same to everybody who asks for it in the same words."""
        return _schema(cls, args, frozenset(kwargs.items()))


@cache
def _schema(shape: type[Shape], args: tuple[Any, ...], kwargs: frozenset[tuple[str, Any]]) -> dict[str, Any]:
    return super(Shape, shape).model_json_schema(*args, **dict(kwargs))


class Strict(Shape):
    """A shape that takes nothing it does not know and turns nothing into something else."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Query(Shape):
    """The parameters of a call."""

    model_config = ConfigDict(extra="forbid")


class RunPath(Strict):
    """The run that an address names."""

    run_id: Annotated[str, Field(min_length=1)]


# Bodies


class StartRun(Strict):
    """The body of `POST /start_run`."""

    workflow_name: Text255
    run_id: RunId | None = None
    metadata: dict[str, Any] | None = None
    environment: Literal["dev", "staging", "prod"] | None = None
    # Names the call, so that one whose answer got lost can be sent again.
    change_id: Annotated[str, Field(pattern="^[0-9a-f]{16,32}$")] | None = None


class Decide(Strict):
    """What every decision takes; without `failure_key` it is about the failure that is current."""

    note: Note | None = None
    failure_key: FailureKey | None = None


class Compensate(Decide):
    """The body of `POST /runs/{id}/compensate`."""

    result: dict[str, Any] | None = None


class Approve(Decide):
    """The body of `POST /runs/{id}/approve`; the audit log names the key as well."""

    approved_by: Name


class Acknowledge(Decide):
    """The body of `POST /runs/{id}/ack_prod_resume`; the audit log names the key as well."""

    acknowledged_by: Name


# Answers


class Problem(Shape):
    """The shape of every error."""

    detail: Any
    code: str
    request_id: str


class Message(Shape):
    """What the client of this release and its server tell each other; it may change with the release."""

    model_config = ConfigDict(extra="allow")


class RunStarted(Shape):
    """The answer to `POST /start_run`."""

    run_id: str
    status: str
    environment: str


class Blocker(Shape):
    """A decision that is missing before a run may go on."""

    classification: str
    step_index: int
    step_name: str
    failure_key: str
    message: str
    required_action: str
    approvals_needed: int
    approvals_given: int


class RunStatusAnswer(Shape):
    """How far a run is and what it waits for."""

    run_id: str
    workflow_name: str
    status: str
    environment: str
    steps_completed: int
    last_completed_step: int | None
    resume_from_index: int
    can_resume: bool
    resume_blockers: list[Blocker]


class ResumeBlockers(Shape):
    """The answer to `GET /runs/{id}/resume_blockers`."""

    run_id: str
    can_resume: bool
    blockers: list[Blocker]


class StepAnswer(Shape):
    """One recorded attempt."""

    step_name: str
    step_index: int
    input_data: Any
    input_hash: str
    output_data: Any
    status: str
    idempotency_key: str
    timestamp: str
    failure_classification: str | None
    error_message: str | None
    sequence: int
    attempt: int
    started_at: str | None
    duration_ms: int | None
    error_type: str | None
    classified_by: str | None
    worker: str | None


class RunAnswer(Shape):
    """A run with all its records; `metadata.gates` shows the decisions as release 0.2.0 kept them."""

    run_id: str
    workflow_name: str
    status: str
    environment: str
    created_at: str
    updated_at: str
    metadata: dict[str, Any]
    steps: list[StepAnswer]


class FailureItem(Shape):
    """The current failure of a run in a list."""

    failure_key: str
    step_index: int
    step_name: str
    classification: str
    error_type: str | None
    message: str
    failed_at: str
    attempts: int


class RunItem(Shape):
    """A run in a list."""

    run_id: str
    workflow_name: str
    status: str
    state: str
    environment: str
    created_at: str
    updated_at: str
    finished_at: str | None
    started_by: str | None
    steps_completed: int
    steps_total: int | None
    resume_from_index: int
    blocked_by: list[str]
    blocked_since: str | None
    failure: FailureItem | None


class RunPage(Shape):
    """A page of runs; `next_cursor` is null at the end."""

    runs: list[RunItem]
    next_cursor: str | None


class DemoRuns(Shape):
    """The runs of the demo."""

    runs: list[RunItem]


class DemoReset(DemoRuns):
    """The runs of the demo after a reset; `left` are the ids of those that were deleted since."""

    left: list[str]


class AuditLog(Shape):
    """The audit trace; `is_masked` says that secrets in it were replaced, so that it proves nothing."""

    run_id: str
    audit_trace: str
    is_masked: bool


class EventItem(Shape):
    """One audit event; `event_id` is null for those derived from step records."""

    event_id: int | None
    event_type: str
    actor: str
    role: str
    channel: str
    run_id: str | None
    failure_key: str | None
    note: str | None
    payload: dict[str, Any]
    created_at: str


class AuditEvents(Shape):
    """Every event of a run, oldest first."""

    run_id: str
    events: list[EventItem]


class ComplianceExport(Shape):
    """Everything about a run, with what proves it: docs/audit.md describes its parts."""

    format: str
    exported_at: str
    run: dict[str, Any]
    gates: dict[str, Any]
    decisions: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    audit_events: list[dict[str, Any]]
    control_events: list[dict[str, Any]]
    integrity: dict[str, Any]
    content: dict[str, str]


class Replay(Shape):
    """The completed steps of a run; a run that goes on begins at `replay_from_index`."""

    run_id: str
    workflow_name: str
    environment: str
    replay_from_index: int
    steps: list[StepAnswer]

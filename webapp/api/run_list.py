"""Lists of runs: what may be asked, in the words of the explorer's address, and what a line says."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from resume_engine.core.clock import as_utc
from resume_engine.core.errors import InvalidValueError
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment
from resume_engine.core.run_summary import RunState, RunSummary
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.run_filter import CAUSE_CHARACTERS, RunFilter
from webapp.api.shapes import Query

DEFAULT_LIMIT = 50
MOST_RUNS = 200
OF_A_CAUSE = (
    "The message of a failure that still stands, as the overview lists causes: the whole of it, of a longer "
    f"one the first {CAUSE_CHARACTERS} characters. Less of it finds nothing, nor does what would be masked."
)
SINCE = {
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}


def _utc(moment: datetime) -> datetime:
    try:
        return as_utc(moment)
    except OverflowError:
        raise ValueError("lies outside of what can be kept") from None


Text = Annotated[str, Field(max_length=255)]
Moment = Annotated[datetime, AfterValidator(_utc)]


class RunListQuery(Query):
    """The parameters of `GET /runs`; the explorer's address takes the same."""

    q: Text | None = Field(None, description="The beginning of a run id or a part of a workflow name.")
    status: RunState | None = Field(None, description="As people are shown it; answers call it `state`.")
    workflow: Text | None = None
    environment: Environment | None = None
    failure: FailureClassification | None = None
    blocked_by: GateAction | None = None
    since: Literal["1h", "24h", "7d", "30d"] | None = Field(None, description="How long ago at most.")
    begin: Moment | None = Field(None, alias="from", description="Created then or later; UTC by default.")
    end: Moment | None = Field(None, alias="to", description="Created before.")
    error_type: Text | None = Field(None, description="Of a failure that still stands.")
    message: Text | None = Field(None, description=OF_A_CAUSE)
    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MOST_RUNS)
    cursor: Annotated[str, Field(max_length=400)] | None = Field(
        None, description="The `next_cursor` of the page before."
    )

    def filter(self, now: datetime, environments: tuple[Environment, ...] | None) -> RunFilter:
        """Return the runs that are meant, of those in `environments` (None: any)."""
        begin = self.begin
        if self.since is not None:
            begun = now - SINCE[self.since]
            begin = begun if begin is None else max(begin, begun)
        if begin is not None and self.end is not None and begin >= self.end:
            raise InvalidValueError("from", "begins after `to`; exchange the two")
        return RunFilter(
            state=self.status,
            workflow=self.workflow or None,
            environment=self.environment,
            classification=self.failure,
            blocked_by=self.blocked_by,
            since=begin,
            until=self.end,
            search=self.q,
            error_type=self.error_type or None,
            message_start=self.message or None,
            environments=environments,
        )


def run_item(run: RunSummary, now: datetime) -> dict[str, Any]:
    """Return one line of a list; the message in it is masked for everybody."""
    failure = run.failure
    return {
        "run_id": run.run_id,
        "workflow_name": run.workflow_name,
        "status": run.status.value,
        "state": run.state(now).value,
        "environment": run.environment.value,
        "created_at": run.created_at.isoformat(),
        "updated_at": run.updated_at.isoformat(),
        "finished_at": run.finished_at.isoformat() if run.finished_at else None,
        "started_by": run.started_by,
        "steps_completed": run.steps_completed,
        "steps_total": run.steps_total,
        "resume_from_index": run.resume_from_index,
        "blocked_by": [action.value for action in run.blocked_by],
        "blocked_since": run.blocked_since.isoformat() if run.blocked_since else None,
        "failure": None
        if failure is None
        else {
            "failure_key": failure.key,
            "step_index": failure.step_index,
            "step_name": failure.step_name,
            "classification": failure.classification.value,
            "error_type": failure.error_type,
            "message": failure.message,
            "failed_at": failure.failed_at.isoformat(),
            "attempts": failure.attempts,
        },
    }

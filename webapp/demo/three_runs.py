"""The three runs of demo mode: each stopped by a failure of its own kind, brought back there by a reset.

A reset only appends: the step that failed fails once more in the same way, which is a new failure event with
new gates; a run that was finished is opened again first. Nothing is deleted, so the chain of the audit goes
on as for every other run.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from resume_engine.core import clock
from resume_engine.core.actor import Actor
from resume_engine.core.audit import AuditEvent, EventType
from resume_engine.core.engine import ResumeEngine
from resume_engine.core.errors import ResumeBlockedError, RunBusyError, RunExistsError, StaleRunError
from resume_engine.core.failure_classifier import (
    FailureClassification,
    PartialStepError,
    PermanentStepError,
    TransientStepError,
)
from resume_engine.core.run import FINISHED_STATUSES, Run, RunStatus
from resume_engine.core.run_change import RunChange
from resume_engine.core.run_summary import RunSummary
from resume_engine.core.step import StepCallable
from webapp.demo.run_ids import DEMO_RUN_IDS

_ERRORS: dict[FailureClassification, type[Exception]] = {
    FailureClassification.TRANSIENT: TransientStepError,
    FailureClassification.PARTIAL: PartialStepError,
    FailureClassification.PERMANENT: PermanentStepError,
}


@dataclass(frozen=True, kw_only=True)
class _DemoRun:
    """A run whose first step gives `output` and whose second step fails."""

    run_id: str
    workflow: str
    environment: str
    first_step: str
    failing_step: str
    failure: FailureClassification
    message: str
    given: dict[str, Any]
    output: dict[str, Any] = field(default_factory=dict)

    def steps(self) -> list[tuple[str, StepCallable]]:
        return [
            (self.first_step, lambda _state, _key: dict(self.output)),
            (self.failing_step, _failing(self.failure, self.message)),
        ]


_DEMO_RUNS = (
    _DemoRun(
        run_id=DEMO_RUN_IDS[0],
        workflow="invoice_collection",
        environment="prod",
        first_step="load_invoice",
        failing_step="charge_card",
        failure=FailureClassification.TRANSIENT,
        message="The payment provider did not answer within 30 s.",
        given={"invoice": "inv-1001"},
        output={"amount": 4_900, "currency": "EUR"},
    ),
    _DemoRun(
        run_id=DEMO_RUN_IDS[1],
        workflow="order_fulfilment",
        environment="staging",
        first_step="reserve_stock",
        failing_step="book_courier",
        failure=FailureClassification.PARTIAL,
        message="The courier was booked, but its label could not be printed.",
        given={"order": "ord-2002"},
        output={"reservation": "res-17"},
    ),
    _DemoRun(
        run_id=DEMO_RUN_IDS[2],
        workflow="customer_onboarding",
        environment="staging",
        first_step="read_documents",
        failing_step="open_account",
        failure=FailureClassification.PERMANENT,
        message="The identity document has expired.",
        given={"applicant": "app-3003"},
        output={"documents": 2},
    ),
)


def make_missing(engine: ResumeEngine) -> None:
    """Make those of the three runs that are not there, and go on with one that a crash left half made."""
    for demo in _DEMO_RUNS:
        with suppress(RunExistsError):
            engine.start_run(demo.workflow, run_id=demo.run_id, environment=demo.environment)
        run = engine.store.load_summary(demo.run_id)
        is_ours = run is not None and run.workflow_name == demo.workflow
        if run is not None and is_ours and run.failure is None and run.status not in FINISHED_STATUSES:
            # Somebody else who makes the same run at this moment makes it just as well.
            with suppress(RunBusyError, ResumeBlockedError, _ERRORS[demo.failure]):
                engine.execute_workflow(demo.run_id, demo.steps(), initial_input=demo.given)


def reset(engine: ResumeEngine, actor: Actor) -> Sequence[str]:
    """Bring each run back to its failure; return the ids of those that are not there any more."""
    make_missing(engine)
    return [demo.run_id for demo in _DEMO_RUNS if not _brought_back(engine, demo, actor)]


def _brought_back(engine: ResumeEngine, demo: _DemoRun, actor: Actor) -> bool:
    summary, run = engine.store.load_summary(demo.run_id), engine.store.load_run(demo.run_id)
    if summary is None or run is None:  # deleted after it was finished: its id is used up
        return False
    # A failure whose gate is closed is the state that was asked for; so is one that is made meanwhile.
    with suppress(RunBusyError, ResumeBlockedError, StaleRunError):
        if summary.status in FINISHED_STATUSES:
            _open_again(engine, summary, actor)
        _fail_again(engine, demo, run, actor)
    return True


def _open_again(engine: ResumeEngine, run: RunSummary, actor: Actor) -> None:
    """Take back the end of a run. No other run is ever opened again: this one is there to be tried."""
    now = clock.utc_now()
    after = run.evolve(status=RunStatus.PAUSED, finished_at=None, updated_at=now)
    message = f"Was {run.status}; opened again by a reset of the demo."
    event = _event(actor, run.run_id, message, status=after.status.value)
    engine.store.commit(RunChange(before=run, after=after, events=(event,)))


def _fail_again(engine: ResumeEngine, demo: _DemoRun, run: Run, actor: Actor) -> None:
    """Let the step that failed fail once more; where it was completed since, another one behind the last."""
    failed = run.open_failure()
    index = failed.step_index if failed else 1 + max((s.step_index for s in run.steps), default=-1)
    given = failed.input_data if failed else {**demo.given, **demo.output}
    name, error = (failed.step_name if failed else demo.failing_step), _ERRORS[demo.failure]
    with suppress(error):
        engine.execute_step(run.run_id, name, index, given, _failing(demo.failure, demo.message))
    engine.store.append_event(
        _event(actor, run.run_id, "Brought back to its failure by a reset of the demo.")
    )


def _event(actor: Actor, run_id: str, message: str, **more: str) -> AuditEvent:
    return AuditEvent.by(
        actor, EventType.RUN_UPDATED, clock.utc_now(), run_id=run_id, payload={"message": message, **more}
    )


def _failing(failure: FailureClassification, message: str) -> StepCallable:
    def fail(_state: dict[str, Any], _key: str) -> dict[str, Any]:
        raise _ERRORS[failure](message)

    return fail

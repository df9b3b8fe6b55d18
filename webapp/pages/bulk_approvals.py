"""Approving failures of one cause together: one note, every run decided on its own.

Compensations and prod acknowledgements are never made in bulk: each of them is about one run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flask import Blueprint, Response, render_template, request
from flask.typing import ResponseReturnValue

from resume_engine.core import clock
from resume_engine.core.decisions import DecisionKind, DecisionRequest, decide, origin_of
from resume_engine.core.errors import (
    DecisionError,
    DecisionInputError,
    ResumeEngineError,
    RunNotFoundError,
    StaleRunError,
)
from resume_engine.core.gate_standing import standing_of
from resume_engine.core.permissions import Permission
from resume_engine.core.policy import Requirement
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run_summary import RunSummary
from resume_engine.storage.keyset import Page
from resume_engine.storage.payload_codec import LockedText
from webapp.extensions import current_policy, current_store, run_queries
from webapp.pages import gate_list
from webapp.pages.conflict_words import explain
from webapp.pages.decision_forms import BULK_LIMIT, BulkApprovalForm
from webapp.pages.gate_list import GateListAddress
from webapp.pages.gates import progress_words
from webapp.pages.policy_words import sentence, stopped_by
from webapp.permissions import current_actor, requires

blueprint = Blueprint("bulk_approvals", __name__)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one of the chosen runs; `problem` is None when it was approved."""

    run_id: str
    failure_key: str
    run: RunSummary | None
    problem: str | None = None
    progress: str = ""  # how far it is where more people are needed

    @property
    def href(self) -> str:
        """Return the address of the failure in the queue."""
        return gate_list.href(run=self.run_id, failure=self.failure_key)


@dataclass(frozen=True, kw_only=True)
class Cause:
    """The runs of a page whose step failed with one type of error and one beginning of its message."""

    error_type: str | None
    message: str
    href: str | None  # of the page that shows these alone
    runs: list[RunSummary] = field(default_factory=list)


@blueprint.get("/gates/approvals")
@requires(Permission.GATES_DECIDE)
def choose() -> ResponseReturnValue:
    """Show the runs that wait for an approval, all of them chosen if one error stopped them all."""
    address = gate_list.read(request.args)
    page = _waiting(address)
    stopped, causes = _stopped(page.items), _causes(page.items, address)
    alike = _are_alike(causes)
    chosen = [_choice(run) for run in page.items if alike and run.run_id not in stopped]
    form = BulkApprovalForm(formdata=None, data={"item": chosen}).about(page.items)
    return Response(_page(address, page, causes, stopped, form))


@blueprint.post("/gates/approvals")
@requires(Permission.GATES_DECIDE)
def approve() -> ResponseReturnValue:
    """Approve what was chosen, one by one; say of each what became of it."""
    address = gate_list.read(request.args)
    form = BulkApprovalForm()
    marked = _marked(form)
    if not form.about(marked).validate():
        page = _waiting(address)
        shown = form if marked else form.about(page.items)
        body = _page(address, page, _causes(page.items, address), _stopped(page.items), shown)
        return Response(body, 422)
    results = [_approve_one(run_id, key, form.note.data or None) for run_id, key in form.chosen()]
    approved = [result for result in results if result.problem is None]
    body = render_template(
        "gates/approved.html",
        approved=approved,
        refused=[result for result in results if result.problem is not None],
        back=address.href(),
    )
    return Response(body, 200 if approved else 409)


def _marked(form: BulkApprovalForm) -> Sequence[RunSummary]:
    """Return the runs that the form names, no more than may be approved at once."""
    return run_queries().load_runs([run_id for run_id, _ in form.chosen()][:BULK_LIMIT])


def _approve_one(run_id: str, key: str, note: str | None) -> Result:
    actor = current_actor()
    wanted = DecisionRequest(
        run_id=run_id, kind=DecisionKind.HUMAN_APPROVAL, actor=actor, failure_key=key, note=note
    )
    try:
        run, _ = decide(current_store(), wanted, current_policy())
        more = GateAction.HUMAN_APPROVAL in run.blocked_by
        progress = progress_words([run]).get(run_id, "") if more else ""
        return Result(run_id=run_id, failure_key=key, run=run, progress=progress)
    except RunNotFoundError:
        problem = "There is no such run. Nothing was changed."
    except DecisionInputError as mistake:
        problem = f"{sentence(str(mistake))} Nothing was changed."
    except DecisionError as refusal:
        problem = explain(refusal, actor.name, clock.utc_now())
    except StaleRunError as refusal:
        problem = str(refusal)
    return Result(run_id=run_id, failure_key=key, run=_run_or_none(run_id), problem=problem)


def _run_or_none(run_id: str) -> RunSummary | None:
    try:
        return current_store().load_summary(run_id)
    except ResumeEngineError:
        return None


def _waiting(address: GateListAddress) -> Page[RunSummary]:
    return run_queries().list_blocked(
        action=GateAction.HUMAN_APPROVAL,
        environment=address.environment,
        workflow=address.workflow,
        message_start=address.cause,
        limit=BULK_LIMIT,
    )


def _causes(runs: Sequence[RunSummary], address: GateListAddress) -> list[Cause]:
    """Return the runs by what stopped them, the cause that waits longest first."""
    found: dict[tuple[str | None, str], Cause] = {}
    for run in runs:
        error_type, message = run.failure.error_type if run.failure else None, gate_list.cause_of(run)
        if (error_type, message) not in found:
            href = gate_list.bulk_href(message, address) if message else None  # else it would show every run
            found[error_type, message] = Cause(error_type=error_type, message=message, href=href)
        found[error_type, message].runs.append(run)
    return list(found.values())


def _are_alike(causes: Sequence[Cause]) -> bool:
    """Return whether one error stopped all of them; what cannot be read here may be anything."""
    runs = [run for cause in causes for run in cause.runs]
    unread = any(run.failure and isinstance(run.failure.message, LockedText) for run in runs)
    return len(causes) == 1 and (len(runs) == 1 or not unread)


def _choice(run: RunSummary) -> str:
    return f"{run.run_id}@{run.failure.key if run.failure else ''}"


def _page(
    address: GateListAddress,
    page: Page[RunSummary],
    causes: Sequence[Cause],
    stopped: Mapping[str, str],
    form: BulkApprovalForm,
) -> str:
    form.note.flags.required = any(_requirement(run).note_required for run in page.items)
    return render_template(
        "gates/approvals.html",
        stopped=stopped,
        cause=address.cause,
        action=gate_list.bulk_href(address.cause or "", address),
        runs=page.items,
        causes=causes,
        alike=_are_alike(causes),
        more=page.next_cursor is not None,
        limit=BULK_LIMIT,
        in_prod=_in_prod(page.items),
        form=form,
        choice=_choice,
        chosen=frozenset(form.item.data or ()),
        back=address.href(kind=GateAction.HUMAN_APPROVAL.value),
    )


def _stopped(runs: Sequence[RunSummary]) -> dict[str, str]:
    """Return why this person may not approve some of the runs, by run id."""
    actor, found = current_actor(), {}
    for run in runs:
        needed = _requirement(run)
        if needed.rule is None:
            continue
        decided = current_store().list_decisions(
            run.run_id, failure_key=run.failure.key if run.failure else ""
        )
        origin = origin_of(current_store(), run, needed, [actor.name, *(d.actor for d in decided)])
        gate = standing_of(GateAction.HUMAN_APPROVAL, needed, decided, origin, clock.utc_now())
        reason = stopped_by(gate, actor)
        if reason is not None:
            found[run.run_id] = reason
    return found


def _requirement(run: RunSummary) -> Requirement:
    return current_policy().requirement(DecisionKind.HUMAN_APPROVAL, run.environment, run.workflow_name)


def _in_prod(runs: Sequence[RunSummary]) -> int:
    """Return how many of the runs will still wait for an acknowledgement of their own."""
    return sum(GateAction.PROD_RESUME_ACK in run.blocked_by for run in runs)

"""One failure of a run as a person decides it: evidence, forms, receipts and the story since.

Overview, queue and run page show it through `templates/gates/_item.html`, whose whole context is `item`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from flask_login import current_user

from resume_engine.core import clock
from resume_engine.core.decision_end import as_of, is_over
from resume_engine.core.decisions import Decision, DecisionKind
from resume_engine.core.gate_progress import standings
from resume_engine.core.gate_standing import GateStanding, has_ended
from resume_engine.core.permissions import Permission
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import RunStatus
from resume_engine.core.run_summary import RunState, RunSummary
from resume_engine.core.step_record import FailureClassification
from resume_engine.storage.gate_queries import Aftermath, Case, GateQueries
from resume_engine.storage.step_queries import StepView
from webapp.extensions import current_policy, current_store
from webapp.forms import errors_of
from webapp.pages.decision_forms import DecisionForm, RejectionForm, form_for
from webapp.pages.gate_story import Story, seconds_between_looks, tell
from webapp.pages.policy_words import may_not, stopped_by
from webapp.permissions import can, current_actor


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known about the failure; from the attempt's record, else from the run row."""

    step_index: int
    step_name: str
    attempt: int
    classification: FailureClassification | None
    error_type: str | None
    message: str
    failed_at: datetime


@dataclass(kw_only=True)
class GateItem:
    """Everything that `gates/_item.html` shows about one failure of one run."""

    run: RunSummary
    failure_key: str | None
    evidence: Evidence | None
    failed: StepView | None
    last_output: str | None
    last_output_size: int | None
    decisions: Sequence[Decision]
    waiting: tuple[GateAction, ...]  # gates of this failure that are still closed, in the order to work them
    moved_to: str | None  # key of another failure that waits for a person by now
    story: Story
    state: RunState
    every_seconds: int | None  # how often the page asks for news; None: never
    may_decide: bool
    me: str
    next: str  # the page that a plain form leads back to
    gates: Sequence[GateStanding] = ()  # how far each gate in `waiting` is
    form: DecisionForm | None = None  # for the first closed gate
    rejection: DecisionForm | None = None
    stopped: str | None = None  # why the policy gives this person no form, a sentence
    rejection_stopped: str | None = None
    notice: str | None = None  # why a decision was not recorded

    def show_again(self, form: DecisionForm) -> None:
        """Put a form with mistakes back in its place, unless nothing can be decided with it any more."""
        if form.kind is DecisionKind.REJECT and self.rejection is not None:
            self.rejection = form
        elif form.kind.value in self.waiting and self.form is not None:
            self.form = form
        else:
            self.notice = " ".join(["Nothing was changed.", *errors_of(form)])

    def has_ended(self, decision: Decision) -> bool:
        """Return whether a decision counts no more, and is needed again."""
        waiting = {action.value for action in self.waiting}
        return decision.kind.value in waiting and has_ended(decision, clock.utc_now())

    @property
    def place(self) -> tuple[int, int]:
        """Return which of how many gates of this failure is the one to decide now."""
        opened = {d.kind.value for d in self.decisions if d.opened} - {a.value for a in self.waiting}
        return len(opened) + 1, len(opened) + len(self.waiting)

    @property
    def onward(self) -> str:
        """Return the queue that the item was found in, without it."""
        parts = urlsplit(self.next)
        kept = [(n, t) for n, t in parse_qsl(parts.query) if n not in ("run", "failure", "cursor")]
        if parts.path != "/gates" or not kept:
            return "/gates"
        return f"/gates?{urlencode(kept)}"

    @property
    def version(self) -> str:
        """Return what changes whenever the page would show something else."""
        return version_of(self.run, clock.utc_now())

    @property
    def mark(self) -> str:
        """Return what says how far the page is while somebody works in a form: version, decisions shown."""
        return f"{self.version}/{len(self.decisions)}"

    @property
    def refresh(self) -> str:
        """Return the address that renews forms, receipts and story."""
        words = {"failure": self.failure_key or "", "next": self.next, "v": self.version}
        return f"/gates/{quote(self.run.run_id, safe='')}/decision?{urlencode(words)}"


def version_of(run: RunSummary, now: datetime) -> str:
    """Return what changes whenever forms, receipts or story of a run would; from the run row alone."""
    over = ".over" if is_over(run, now) else ""
    return f"{run.version}.{run.state(now)}.{seconds_between_looks(run, now)}{over}"


def load_item(
    run_id: str, failure_key: str | None = None, *, next_page: str | None = None
) -> GateItem | None:
    """Return one failure of a run (the current one by default), or None without such a run.

    Two statements while nobody has decided, four afterwards; a policy that asks who is behind adds some.
    """
    found = GateQueries(current_store()).load_case(run_id, failure_key)
    return item_of(found, next_page=next_page) if found is not None else None


def item_of(case: Case, *, next_page: str | None = None, aftermath: Aftermath | None = None) -> GateItem:
    """Return what the page shows of a case, with blank forms for those who may decide.

    What happened since a decision is read, two statements, unless it is given.
    """
    now = clock.utc_now()
    run, key = case.run, case.failure_key
    current = run.failure is not None and run.failure.key == key
    if current:
        run = as_of(run, case.decisions, now)
    waiting = run.blocked_by if current else ()
    story = tell(run, key or "", case.decisions, aftermath or _aftermath(case, waiting), now)
    moved = run.failure.key if run.blocked_by and run.failure is not None and not current else None
    item = GateItem(
        run=run,
        failure_key=key,
        evidence=_evidence(case),
        failed=case.failed,
        last_output=case.last_output,
        last_output_size=case.last_output_size,
        decisions=case.decisions,
        waiting=waiting,
        moved_to=moved,
        story=story,
        state=run.state(now),
        every_seconds=None if story.ended or not key else seconds_between_looks(run, now),
        may_decide=can(Permission.GATES_DECIDE),
        me=current_user.email,
        next=next_page or address(run.run_id, key),
    )
    if current and key:
        _add_gates(item, now)
        _add_forms(item, key)
    return item


def _add_gates(item: GateItem, now: datetime) -> None:
    names = [current_actor().name]
    item.gates = standings(current_store(), item.run, item.decisions, current_policy(), now, names)


def _add_forms(item: GateItem, key: str) -> None:
    """Add the forms that this person may send, or why there is none."""
    if not item.may_decide:
        return
    actor = current_actor()
    if item.gates:
        first = item.gates[0]
        item.stopped = stopped_by(first, actor, briefly=True)
        if item.stopped is None:
            item.form = form_for(first.action).blank(item.run, key, item.next)
    if not (item.waiting or item.run.status is RunStatus.FAILED):
        return
    reason = may_not(DecisionKind.REJECT, item.run, actor)
    if reason is None:
        item.rejection = RejectionForm.blank(item.run, key, item.next)
    else:
        item.rejection_stopped = reason


def address(run_id: str, failure_key: str | None = None) -> str:
    """Return the address of a failure in the queue; it stays good after the decision."""
    words = {"run": run_id} | ({"failure": failure_key} if failure_key else {})
    return f"/gates?{urlencode(words)}"


def _aftermath(case: Case, waiting: Sequence[GateAction]) -> Aftermath | None:
    if not case.decisions or waiting or not case.failure_key:
        return None
    sequence = int(case.failure_key.partition(":")[2])
    return GateQueries(current_store()).load_aftermath(
        case.run.run_id, sequence, case.decisions[-1].decided_at
    )


def _evidence(case: Case) -> Evidence | None:
    step, failure = case.failed, case.run.failure
    if failure is not None and failure.key == case.failure_key:
        return Evidence(
            step_index=failure.step_index,
            step_name=failure.step_name,
            attempt=step.attempt if step else failure.attempts,
            classification=failure.classification,
            error_type=failure.error_type,
            message=failure.message,
            failed_at=failure.failed_at,
        )
    if step is None or step.classification is None:
        return None
    return Evidence(
        step_index=step.step_index,
        step_name=step.step_name,
        attempt=step.attempt,
        classification=step.classification,
        error_type=step.error_type,
        message=step.error_message or "",
        failed_at=step.recorded_at,
    )

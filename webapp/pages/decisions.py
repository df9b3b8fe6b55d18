"""Decisions about gates: one address each, all recorded by `resume_engine.core.decisions.decide`."""

from __future__ import annotations

from flask import Blueprint, Response, abort, redirect, render_template, request
from flask.typing import ResponseReturnValue

from resume_engine.core import clock
from resume_engine.core.decisions import DecisionKind, decide
from resume_engine.core.errors import (
    AlreadyDecidedError,
    DecisionInputError,
    FailureMovedOnError,
    InvalidValueError,
    NothingToDecideError,
    PolicyRefusalError,
    RunNotFoundError,
)
from resume_engine.core.permissions import Permission
from webapp.extensions import current_policy, current_store
from webapp.htmx import is_htmx
from webapp.pages.conflict_words import explain
from webapp.pages.decision_forms import FORM_OF_KIND, DecisionForm
from webapp.pages.gate_item import GateItem, address, load_item
from webapp.permissions import current_actor, requires
from webapp.redirects import HOME, own_path

DECIDED = "gates-changed"
"""The event that makes other parts of a page look again."""

blueprint = Blueprint("decisions", __name__)


@blueprint.post("/runs/<path:run_id>/decisions/<kind>")
@requires(Permission.GATES_DECIDE)
def record(run_id: str, kind: str) -> ResponseReturnValue:
    """Record one decision about the failure that was shown."""
    form = _form(run_id, kind)
    if not form.validate():
        return _refused(form, 422)
    try:
        decide(current_store(), form.request(current_actor()), current_policy())
    except DecisionInputError as mistake:
        form.blame(mistake)
        return _refused(form, 422)
    except (AlreadyDecidedError, FailureMovedOnError, NothingToDecideError) as late:
        return _refused(form, 409, explain(late, current_actor().name, clock.utc_now()))
    except PolicyRefusalError as refusal:
        return _refused(form, 403, explain(refusal, current_actor().name, clock.utc_now()))
    return _recorded(form)


def _form(run_id: str, kind: str) -> DecisionForm:
    known = {form.kind.value: form for form in FORM_OF_KIND.values()}
    if kind not in known:
        abort(404, f"There is no decision {kind[:40]!r}: {', '.join(word.value for word in DecisionKind)}.")
    run = current_store().load_summary(run_id)
    if run is None:
        raise RunNotFoundError(run_id)
    return known[kind].sent(run)


def _recorded(form: DecisionForm) -> ResponseReturnValue:
    """Answer with the receipt: in place, or on the page the form came from."""
    key = form.failure_key.data
    if not is_htmx():
        return redirect(_next(form), 303)
    item = _item(form, key)
    return Response(render_template("gates/_decision.html", item=item), 200, headers={"HX-Trigger": DECIDED})


def _refused(form: DecisionForm, status: int, notice: str | None = None) -> ResponseReturnValue:
    """Answer with what was typed and what is wrong with it, or with who was faster."""
    item = _item(form, form.failure_key.data)
    if notice is None:
        item.show_again(form)
    item.notice = notice or item.notice
    template = "gates/_decision.html" if is_htmx() else "gates/refused.html"
    headers = {"HX-Trigger": DECIDED} if status in (403, 409) else None
    return Response(render_template(template, item=item, status=status), status, headers=headers)


def _item(form: DecisionForm, key: str | None) -> GateItem:
    try:
        item = load_item(form.run.run_id, key or None, next_page=_next(form))
    except InvalidValueError:  # a failure key that no page of ours wrote: show what is current
        item = load_item(form.run.run_id, next_page=_next(form))
    if item is None:
        raise RunNotFoundError(form.run.run_id)
    return item


def _next(form: DecisionForm) -> str:
    wanted = own_path(request.form.get("next"))
    return wanted if wanted != HOME else address(form.run.run_id, form.failure_key.data)

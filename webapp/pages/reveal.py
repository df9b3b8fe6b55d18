"""Masked values, shown to those who may see them; every look is an audit event of its own.

Those of a run in prod take the password too, by the rule for decisions about such a run.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, abort, render_template, request
from flask.typing import ResponseReturnValue

from resume_engine.core.permissions import Permission
from resume_engine.core.run_summary import RunSummary
from resume_engine.storage.revealed import Field, load_revealed
from webapp.accounts.step_up import ConfirmedForm
from webapp.extensions import current_store
from webapp.htmx import is_htmx
from webapp.json_view import Revealed
from webapp.pages.decision_forms import needs_proof
from webapp.pages.downloads import attachment, look
from webapp.pages.run_detail import summary_or_404
from webapp.permissions import requires

blueprint = Blueprint("reveal", __name__)


@blueprint.post("/runs/<path:run_id>/reveal")
@requires(Permission.PAYLOADS_REVEAL)
def reveal(run_id: str) -> ResponseReturnValue:
    """Show one value with its secrets, or send it as a file, and record who looked."""
    run = summary_or_404(run_id)
    field, sequence = _asked()
    text = load_revealed(current_store(), run_id, field, sequence)
    if text is None:
        abort(404, f"Nothing is recorded there: no {field} of record {sequence} of this run.")
    form = _password_form(run)
    if not form.validate():
        return Response(_page("reveal_asks", run, field, sequence, form=form), 422)
    current_store().append_event(look(run_id, field.value, sequence))
    if request.form.get("download"):
        return _file(run_id, field, sequence, text)
    return _page("revealed", run, field, sequence, value=Revealed(text))


def _password_form(run: RunSummary) -> ConfirmedForm:
    form = ConfirmedForm()
    form.is_sensitive = needs_proof(run)
    return form


def _page(name: str, run: RunSummary, field: Field, sequence: int | None, **context: Any) -> str:
    """Return the part that takes the place of the button, or the same as a page of its own."""
    template = f"runs/_{name}.html" if is_htmx() else f"runs/{name}.html"
    return render_template(template, run=run, field=field, sequence=sequence, **context)


def _asked() -> tuple[Field, int | None]:
    """Return what the form asks for; answers 400 with the field's name when it makes no sense."""
    word, number = request.form.get("field", ""), request.form.get("sequence", "")
    if word not in list(Field):
        abort(400, f"field: found {word[:40]!r}. There are: {', '.join(Field)}.")
    field = Field(word)
    if field is Field.METADATA:
        return field, None
    if not (number.isascii() and number.isdigit() and len(number) <= 9):
        abort(400, f"sequence: found {number[:40]!r}. It is the number of a record, from 0.")
    return field, int(number)


def _file(run_id: str, field: Field, sequence: int | None, text: str) -> Response:
    stem = f"{field}-{run_id}" if sequence is None else f"{field}-{sequence}-{run_id}"
    if field.is_json:
        return attachment([text], "application/json", f"{stem}.json")
    return attachment([text], "text/plain; charset=utf-8", f"{stem}.txt")

"""One form for each decision; a form judges what was typed and decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from wtforms import HiddenField, SelectMultipleField, StringField, TextAreaField
from wtforms.validators import InputRequired, Length, Optional, ValidationError

from resume_engine.core.actor import Actor
from resume_engine.core.decision import DecisionKind
from resume_engine.core.decision_request import (
    NOTE_MAX_CHARACTERS,
    RESULT_MAX_CHARACTERS,
    DecisionRequest,
)
from resume_engine.core.errors import DecisionInputError
from resume_engine.core.payload import is_storable
from resume_engine.core.resume_gates import GateAction
from resume_engine.core.run import Environment
from resume_engine.core.run_summary import RunSummary
from webapp.accounts.step_up import ConfirmedForm
from webapp.extensions import current_policy
from webapp.forms import Form, stripped
from webapp.json_input import JsonInputError, read_object

BULK_LIMIT = 50
"""Most approvals in one go. Each is decided on its own, which takes some milliseconds, so that the answer
comes within a second; and fifty lines are what a person can still look through before pressing."""

FAILURE_KEY_MAX_CHARACTERS = 32
NAME_MAX_CHARACTERS = 255
ADDRESS_MAX_CHARACTERS = 2_000

NOTE_TOO_LONG = f"At most {NOTE_MAX_CHARACTERS:,} characters are kept."
SAY_WHICH_FAILURE = "The form does not say which failure it is about. Reload the page and try again."


def needs_proof(run: RunSummary) -> bool:
    """Return whether deciding about `run`, or seeing its secrets, takes more than a session left open."""
    return run.environment is Environment.PROD


def storable(_form: Form, field: Any) -> None:
    """Refuse characters that a database cannot keep."""
    if not is_storable(field.data or ""):
        raise ValidationError("This holds a character that cannot be stored. Type it again.")


class DecisionForm(ConfirmedForm):
    """What every decision sends: the failure that was shown, a note, and the page to go back to.

    Of a run in prod it asks for the password too, unless it was given a moment ago.
    """

    kind: ClassVar[DecisionKind]
    run: RunSummary

    failure_key = HiddenField(
        validators=[InputRequired(SAY_WHICH_FAILURE), Length(max=FAILURE_KEY_MAX_CHARACTERS)]
    )
    next = HiddenField(validators=[Length(max=ADDRESS_MAX_CHARACTERS)])
    note = TextAreaField(
        "Note",
        filters=[stripped],
        validators=[Optional(), Length(max=NOTE_MAX_CHARACTERS, message=NOTE_TOO_LONG), storable],
    )

    @classmethod
    def blank(cls, run: RunSummary, failure_key: str, next_page: str) -> DecisionForm:
        """Return an empty form about one failure of `run`, whatever the request holds."""
        return cls(formdata=None, data={"failure_key": failure_key, "next": next_page})._about(run)

    @classmethod
    def sent(cls, run: RunSummary) -> DecisionForm:
        """Return the form as the request sent it, about `run`."""
        return cls()._about(run)

    def _about(self, run: RunSummary) -> Self:
        self.run = run
        self.is_sensitive = needs_proof(run)
        needed = current_policy().requirement(self.kind, run.environment, run.workflow_name)
        if needed.note_required:  # `decide` judges; the field says it beforehand
            self.note.flags.required = True
        return self

    def request(self, actor: Actor) -> DecisionRequest:
        """Return the decision that a valid form asks for."""
        return DecisionRequest(
            run_id=self.run.run_id,
            kind=self.kind,
            actor=actor,
            failure_key=self.failure_key.data,
            note=self.note.data or None,
            result=self.parsed_result(),
        )

    def blame(self, mistake: DecisionInputError) -> None:
        """Show what the engine found wrong at the field it names."""
        found = self._fields.get(mistake.field, self.note)
        found.errors = [*found.errors, f"{mistake}."]

    def parsed_result(self) -> dict[str, Any] | None:
        """Return the result that was typed, for the form that has one."""
        return None


class ApprovalForm(DecisionForm):
    """Let the step of a permanent failure run again."""

    kind = DecisionKind.HUMAN_APPROVAL


class CompensationForm(DecisionForm):
    """Record that the side effects of a partial failure were undone."""

    kind = DecisionKind.COMPENSATION

    result = TextAreaField(
        "Result of the compensation",
        description='What was done, as a JSON object, for example {"refund_id": "r-1"}',
        filters=[stripped],
        validators=[
            Optional(),
            Length(
                max=RESULT_MAX_CHARACTERS, message=f"At most {RESULT_MAX_CHARACTERS:,} characters are kept."
            ),
        ],
    )

    def validate_result(self, field: TextAreaField) -> None:
        """Refuse what is no JSON object, naming the place of the mistake."""
        try:
            read_object(field.data)
        except JsonInputError as mistake:
            raise ValidationError(str(mistake)) from None

    def parsed_result(self) -> dict[str, Any] | None:
        """Return the JSON object, or None when nothing was typed."""
        return read_object(self.result.data) if self.result.data else None


class AcknowledgementForm(DecisionForm):
    """Acknowledge a resume in prod by typing the name of what goes on."""

    kind = DecisionKind.PROD_RESUME_ACK

    typed_name = StringField(
        "Workflow name",
        filters=[stripped],
        validators=[InputRequired("Type the name of the workflow."), Length(max=NAME_MAX_CHARACTERS)],
    )

    def validate_typed_name(self, field: StringField) -> None:
        """Refuse every other name than that of the run's workflow."""
        expected = self.run.workflow_name.strip()
        if field.data != expected:
            raise ValidationError(f"Expected {expected}, found {field.data}. Nothing was acknowledged.")


class RejectionForm(DecisionForm):
    """Cancel the run for good."""

    kind = DecisionKind.REJECT

    note = TextAreaField(
        "Reason",
        filters=[stripped],
        validators=[
            InputRequired("Give the reason: rejecting cancels the run for good."),
            Length(max=NOTE_MAX_CHARACTERS, message=NOTE_TOO_LONG),
            storable,
        ],
    )


FORM_OF_KIND: dict[DecisionKind, type[DecisionForm]] = {
    form.kind: form for form in (ApprovalForm, CompensationForm, AcknowledgementForm, RejectionForm)
}


def form_for(action: GateAction | DecisionKind) -> type[DecisionForm]:
    """Return the form that makes the decision a gate waits for."""
    return FORM_OF_KIND[DecisionKind(action.value)]


class BulkApprovalForm(ConfirmedForm):
    """Approve several failures of one cause with one note; never compensate or acknowledge prod that way."""

    item = SelectMultipleField(validators=[InputRequired("Choose at least one run.")], validate_choice=False)
    note = TextAreaField(
        "Note",
        filters=[stripped],
        validators=[Optional(), Length(max=NOTE_MAX_CHARACTERS, message=NOTE_TOO_LONG), storable],
    )

    def validate_item(self, field: SelectMultipleField) -> None:
        """Refuse too many at once, and what does not name a failure of a run."""
        if len(set(field.data)) > BULK_LIMIT:
            raise ValidationError(f"At most {BULK_LIMIT} at once; {len(set(field.data))} were chosen.")
        for text in field.data:
            run_id, found, key = text.rpartition("@")
            if not found or not run_id or len(text) > 100 or not key:
                raise ValidationError("A chosen run cannot be read. Reload the page and choose again.")

    def about(self, runs: Sequence[RunSummary]) -> Self:
        """Ask for the password as soon as one of the runs that may be chosen needs it."""
        guarded = [run for run in runs if needs_proof(run)]
        self.is_sensitive = bool(guarded)
        self.password.flags.required = len(guarded) == len(runs)  # else it depends on what is marked
        return self

    def chosen(self) -> list[tuple[str, str]]:
        """Return run id and failure key of everything that was chosen, each once, in order."""
        pairs = (text.rpartition("@") for text in dict.fromkeys(self.item.data or ()))
        return [(run_id, key) for run_id, _, key in pairs]

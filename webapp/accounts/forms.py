"""The forms of this package: each judges what was typed and does nothing else."""

from __future__ import annotations

from typing import Any

from wtforms import EmailField, PasswordField, SelectField, StringField, ValidationError
from wtforms.validators import InputRequired, Length

from resume_engine.core.permissions import PEOPLE_ROLES, Role
from webapp.accounts.passwords import MAX_CHARACTERS, MIN_CHARACTERS, weakness
from webapp.accounts.records import AccountError
from webapp.accounts.store import checked_email
from webapp.forms import Form, stripped

ROLE_WORDS = {
    Role.AUDITOR.value: "auditor: reads everything, changes nothing",
    Role.OPERATOR.value: "operator: decides gates too",
    Role.ADMIN.value: "admin: manages people too",
}
# Nobody types more; hashing megabytes would cost the server, not the sender.
_TYPED_AT_MOST = 1_024


class SignInForm(Form):
    """Email and password."""

    email = EmailField("Email", [InputRequired("Type your email."), Length(max=255)], filters=[stripped])
    password = PasswordField("Password", [InputRequired("Type your password."), Length(max=_TYPED_AT_MOST)])


class PasswordForm(Form):
    """A new password, and the present one if there is one."""

    current = PasswordField("Current password", [Length(max=_TYPED_AT_MOST)])
    new = PasswordField(
        "New password",
        [
            InputRequired("Type a new password."),
            Length(max=MAX_CHARACTERS, message=f"Use at most {MAX_CHARACTERS} characters."),
        ],
        description=f"At least {MIN_CHARACTERS} characters; a few words in a row are easy to remember.",
    )

    def __init__(
        self, *args: Any, personal: tuple[str, ...] = (), needs_current: bool, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._personal = personal
        self._needs_current = needs_current

    def validate_current(self, field: PasswordField) -> None:
        """Require the present password from people who have one."""
        if self._needs_current and not field.data:
            raise ValidationError("Type your current password.")

    def validate_new(self, field: PasswordField) -> None:
        """Refuse what is easy to guess."""
        problem = weakness(field.data or "", personal=self._personal)
        if problem:
            raise ValidationError(problem)


def _role_field() -> SelectField:
    return SelectField("Role", choices=[role.value for role in PEOPLE_ROLES])


class AddPersonForm(Form):
    """Somebody new."""

    email = EmailField("Email", [InputRequired("Type an email."), Length(max=255)], filters=[stripped])
    display_name = StringField("Name", [Length(max=100)], filters=[stripped])
    role = _role_field()

    def validate_email(self, field: EmailField) -> None:
        """Refuse what cannot be an email."""
        try:
            checked_email(field.data or "")
        except AccountError as problem:
            raise ValidationError(str(problem)) from problem


class RoleForm(Form):
    """Another role for somebody."""

    role = _role_field()

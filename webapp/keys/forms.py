"""The forms of this package: each judges what was typed and does nothing else."""

from __future__ import annotations

from datetime import timedelta

from wtforms import SelectField, SelectMultipleField, StringField
from wtforms.validators import InputRequired, Length

from resume_engine.core.permissions import Role
from resume_engine.core.run import Environment
from webapp.accounts.step_up import ConfirmedForm
from webapp.forms import stripped
from webapp.keys.store import NAME_MAX_CHARACTERS

ROLE_WORDS = {
    Role.AUDITOR.value: "auditor: reads everything, changes nothing",
    Role.RUNNER.value: "runner: starts runs and records their steps",
    Role.OPERATOR.value: "operator: decides gates too",
    Role.ADMIN.value: "admin: everything a key can do",
}
LIFETIMES: dict[str, tuple[str, timedelta | None]] = {
    "7": ("7 days", timedelta(days=7)),
    "30": ("30 days", timedelta(days=30)),
    "90": ("90 days", timedelta(days=90)),
    "365": ("a year", timedelta(days=365)),
    "never": ("until it is revoked", None),
}
GRACES: dict[str, tuple[str, timedelta]] = {
    "0": ("not at all: it ends now", timedelta()),
    "1": ("an hour", timedelta(hours=1)),
    "24": ("a day", timedelta(hours=24)),
    "168": ("a week", timedelta(days=7)),
}


class CreateKeyForm(ConfirmedForm):
    """A new key."""

    name = StringField(
        "Name",
        [InputRequired("Give the key a name."), Length(max=NAME_MAX_CHARACTERS)],
        filters=[stripped],
        description="Where it is used, for example claims-runner. It stands in the audit log.",
    )
    role = SelectField("Role", choices=list(ROLE_WORDS), default=Role.RUNNER.value)
    environments = SelectMultipleField("Environments", choices=[e.value for e in Environment])
    lifetime = SelectField("Works for", choices=list(LIFETIMES), default="90")


class RotateKeyForm(ConfirmedForm):
    """A successor for a key."""

    grace = SelectField(
        "The old key goes on working for",
        choices=list(GRACES),
        default="24",
    )


class RevokeKeyForm(ConfirmedForm):
    """The end of a key."""

"""Asking for the password once more before an act that a session left open must not be enough for."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

from flask import flash, redirect, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user
from wtforms import PasswordField
from wtforms.validators import Length

from resume_engine.core import clock
from webapp.accounts import sessions
from webapp.accounts.throttle import address_scope, email_scope
from webapp.extensions import services
from webapp.forms import Form

RECENT = timedelta(minutes=5)
_CONFIRMED = "confirmed_at"
_TYPED_AT_MOST = 1_024


class ConfirmedForm(Form):
    """A form that asks for the password unless the person gave it a moment ago.

    Somebody who signs in by links has none; the link stands for it.
    """

    password = PasswordField(
        "Your password",
        [Length(max=_TYPED_AT_MOST)],
        description="You signed in a while ago: type your password to go on.",
    )

    @property
    def asks_password(self) -> bool:
        """Return whether the password has to be given; templates ask this."""
        return not is_recent()

    def validate(self, extra_validators: Any = None) -> bool:
        """Judge the fields, and the password last: one that was typed for nothing is not looked at."""
        if not super().validate(extra_validators):
            return False
        if not self.asks_password:
            return True
        problem = password_problem(self.password.data or "")
        if problem is not None:
            self.password.errors = [problem]
            return False
        session[_CONFIRMED] = clock.utc_now().isoformat()
        return True


def challenge(back_to: str) -> ResponseReturnValue | None:
    """Return the way to the page that asks for the password, None when it was given a moment ago.

    For acts whose form has no room for it: nothing is done, and the person does it again afterwards.
    """
    if is_recent():
        return None
    flash("You signed in a while ago. Nothing was changed: type your password, then do it again.", "info")
    return redirect(url_for("account.ask_confirm", next=back_to), 303)


def is_recent() -> bool:
    """Return whether the person signed in or gave the password a moment ago, or has none to give."""
    if not current_user.has_password:
        return True
    record = sessions.current_record()
    moments = [record.created_at] if record is not None else []
    if _CONFIRMED in session:
        moments.append(datetime.fromisoformat(session[_CONFIRMED]))
    return any(clock.utc_now() - moment < RECENT for moment in moments)


def password_problem(password: str) -> str | None:
    """Return what is wrong with the password of the signed-in person, None if it is theirs.

    Throttled and recorded as at the door.
    """
    if not password:
        return "Type your password."
    scopes = (email_scope(current_user.email), address_scope(request.remote_addr))
    wait = services().sessions.reserve_attempt(scopes)
    if wait is not None:
        return f"Too many attempts. Try again in {math.ceil(wait.total_seconds())} seconds."
    _, stored = services().accounts.credentials(current_user.email) or (None, None)
    if not services().passwords.matches(stored, password):
        services().sessions.record_failure(
            current_user.email, request.remote_addr, "current password is wrong"
        )
        return "This is not your current password."
    services().sessions.forget_attempts(*scopes)
    return None

"""Asking for the password once more before an act that a session left open must not be enough for."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any, TypeVar, cast

from flask import flash, redirect, request, url_for
from flask_login import current_user
from werkzeug import Response
from wtforms import PasswordField
from wtforms.validators import Length

from resume_engine.core import clock
from resume_engine.core.audit import AuditEvent, EventType
from webapp.accounts import sessions
from webapp.accounts.records import AccountError
from webapp.accounts.throttle import address_scope, confirm_scope
from webapp.extensions import services
from webapp.forms import Form
from webapp.permissions import current_actor

View = TypeVar("View", bound=Callable[..., Any])

RECENT = timedelta(minutes=5)
_TYPED_AT_MOST = 1_024


class ConfirmedForm(Form):
    """A form that asks for the password unless the person gave it a moment ago.

    Somebody who signs in by links has none; the link stands for it, and the form says so. A form that only
    sometimes does what a session left open must not be enough for says when, by `is_sensitive`.
    """

    is_sensitive = True

    password = PasswordField(
        "Your password",
        [Length(max=_TYPED_AT_MOST)],
        description="You signed in a while ago: type your password to go on.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.password.flags.required = True  # wherever it is shown

    @property
    def asks_password(self) -> bool:
        """Return whether the password has to be given; templates ask this."""
        return self.is_sensitive and not is_recent()

    @property
    def lacks_password(self) -> bool:
        """Return whether it would have to be given if the person had one."""
        return self.is_sensitive and not current_user.has_password

    @property
    def email(self) -> str:
        """Return whose password it is, for what fills passwords in."""
        found: str = current_user.email
        return found

    def validate(self, extra_validators: Any = None) -> bool:
        """Judge the fields and the password: a mistake elsewhere must not make anybody type it twice."""
        fine = super().validate(extra_validators)
        if not self.asks_password:
            return fine
        problem = None if self.password.errors else _confirm(self.password.data or "")
        if problem is not None:
            self.password.errors = [problem]
        return fine and not self.password.errors


def confirmed_first(back_to: str) -> Callable[[View], View]:
    """Let a view act only if the password was given a moment ago; `back_to` names the view of its page.

    For acts whose form has no room for it: nothing is done, and the person does it again afterwards.
    """

    def guard(view: View) -> View:
        @wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if is_recent():
                return view(*args, **kwargs)
            return confirm_first(
                "You signed in a while ago. Nothing was changed: type your password, then do it again.",
                url_for(back_to),
            )

        return cast(View, guarded)

    return guard


def confirm_first(why: str, back_to: str) -> Response:
    """Return the way to the page that asks for the password, says `why`, and leads back to an address."""
    flash(why, "info")
    return redirect(url_for("account.ask_confirm", next=back_to), 303)


def is_recent() -> bool:
    """Return whether the person signed in or gave the password a moment ago, or has none to give."""
    record = sessions.current_record()
    if not current_user.has_password:
        return True
    return record is not None and clock.utc_now() - record.created_at < RECENT


def password_problem(password: str) -> str | None:
    """Return what is wrong with the password of the signed-in person, None if it is theirs.

    Throttled as at the door, and recorded. Attempts at the door do not count here: a stranger who knows an
    email must not keep its owner from deciding.
    """
    if not password:
        return "Type your password."
    scopes = (confirm_scope(current_user.email), address_scope(request.remote_addr))
    wait = services().sessions.reserve_attempt(scopes)
    if wait is not None:
        return f"Too many attempts. Try again in {math.ceil(wait.total_seconds())} seconds."
    _, stored = services().accounts.credentials(current_user.email) or (None, None)
    if not services().passwords.matches(stored, password):
        payload = {"address": request.remote_addr, "reason": "current password is wrong"}
        services().store.append_event(
            AuditEvent.by(current_actor(), EventType.AUTH_CONFIRM_FAILED, clock.utc_now(), payload=payload)
        )
        return "This is not your current password."
    services().sessions.forget_attempts(*scopes)
    return None


def _confirm(password: str) -> str | None:
    """Return what is wrong with the password; if nothing is, the session counts as a new one."""
    problem = password_problem(password)
    if problem is None:
        try:
            sessions.confirm()
        except AccountError as closed:
            return str(closed)
    return problem

"""Signing in, by password or by link, and signing out."""

from __future__ import annotations

import logging
import math

from flask import Blueprint, Response, flash, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user

from resume_engine.core.permissions import Permission
from webapp import errors
from webapp.accounts import sessions
from webapp.accounts.forms import SignInForm
from webapp.accounts.records import AccountError, Person, Purpose, token_hash
from webapp.accounts.store import normal_email
from webapp.accounts.throttle import address_scope, email_scope
from webapp.extensions import services
from webapp.permissions import public, requires
from webapp.redirects import own_path

logger = logging.getLogger(__name__)
blueprint = Blueprint("sign_in", __name__)

WRONG = "Email or password is wrong."
LINK_IS_OVER = (
    "This sign-in link has been used, was replaced by a newer one or is too old. "
    "Ask an administrator for a new one, or run: resume-engine users link EMAIL"
)


@blueprint.get("/login")
@public
def show() -> ResponseReturnValue:
    """Show the sign-in form; who is signed in already goes on."""
    if current_user.is_authenticated:
        return redirect(own_path(request.args.get("next")), 303)
    return _page(SignInForm(formdata=None))


@blueprint.post("/login")
@public
def submit() -> ResponseReturnValue:
    """Sign in by password: same words and same work whether or not the account exists."""
    form = SignInForm()
    if not form.validate():
        return _page(form, status=422)
    email = normal_email(form.email.data or "")
    scopes = (email_scope(email), address_scope(request.remote_addr))
    wait = services().sessions.reserve_attempt(scopes)
    if wait is not None:
        logger.warning(
            "sign-in attempt refused for %.0f s, from %s", wait.total_seconds(), request.remote_addr
        )
        return _too_many(form, math.ceil(wait.total_seconds()))
    person = _verify(email, form.password.data or "")
    if person is None:
        services().sessions.record_failure(email, request.remote_addr, "email or password is wrong")
        return _page(form, problem=WRONG, status=422)
    services().sessions.forget_attempts(*scopes)
    return redirect(own_path(request.form.get("next")), 303)


@blueprint.get("/login/link/<token>")
@public
def show_link(token: str) -> ResponseReturnValue:
    """Show whom a link signs in; only the button uses it up, so that a preview or a prefetch does not."""
    found = services().accounts.find_link(token)
    if found is None:
        return errors.render(410, LINK_IS_OVER, title="This link does not work any more")
    return render_template("login_link.html", person=found[0], purpose=found[1], token=token)


@blueprint.post("/login/link/<token>")
@public
def use_link(token: str) -> ResponseReturnValue:
    """Sign in by a link, once."""
    found = services().accounts.find_link(token)
    if found is None:
        return errors.render(410, LINK_IS_OVER, title="This link does not work any more")
    person, purpose = found
    try:
        sessions.sign_in(person, how="link", link_hash=token_hash(token))
    except AccountError:
        return errors.render(410, LINK_IS_OVER, title="This link does not work any more")
    if purpose is Purpose.INVITE:
        flash("Welcome. Choose a password, so that you can sign in without a link.", "info")
        return redirect(url_for("account.show"), 303)
    return redirect(url_for("sign_in.show"), 303)  # which sends a signed-in person home


@blueprint.post("/logout")
@requires(Permission.ACCOUNT_MANAGE)
def sign_out() -> ResponseReturnValue:
    """End this browser's session."""
    sessions.sign_out()
    flash("You are signed out.", "success")
    return redirect(url_for("sign_in.show"), 303)


def _verify(email: str, password: str) -> Person | None:
    """Return the person whom email and password sign in, signed in, or None."""
    passwords = services().passwords
    person, stored = services().accounts.credentials(email) or (None, None)
    matches = passwords.matches(stored, password)
    if person is None or stored is None or not matches or not person.is_active:
        return None
    rehashed = passwords.hash(password) if passwords.is_outdated(stored) else None
    try:
        sessions.sign_in(person, how="password", rehashed=rehashed)
    except AccountError:
        return None  # closed at this very moment
    return person


def _too_many(form: SignInForm, seconds: int) -> Response:
    unit = "second" if seconds == 1 else "seconds"
    response = _page(form, problem=f"Too many attempts. Try again in {seconds} {unit}.", status=429)
    response.headers["Retry-After"] = str(seconds)
    return response


def _page(form: SignInForm, *, problem: str | None = None, status: int = 200) -> Response:
    lost = session.pop("signed_out", None) is not None
    if lost:
        problem = problem or "You were signed out in the meantime. Nothing was changed; please do it again."
    asked_for = own_path(request.values.get("next"))
    body = render_template(
        "login.html",
        form=form,
        problem=problem,
        lost=lost,
        next=asked_for,
        nobody_yet=not services().accounts.can_anybody_sign_in(),
    )
    return Response(body, status, content_type="text/html; charset=utf-8")

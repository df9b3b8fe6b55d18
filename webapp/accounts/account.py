"""One's own account: the password, and the browsers one is signed in on."""

from __future__ import annotations

from flask import Blueprint, Response, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user

from resume_engine.core.permissions import Permission
from webapp.accounts import sessions, step_up
from webapp.accounts.forms import PasswordForm
from webapp.accounts.session_store import RENEWED
from webapp.extensions import services
from webapp.permissions import current_actor, requires
from webapp.redirects import own_path

blueprint = Blueprint("account", __name__, url_prefix="/account")


@blueprint.get("")
@requires(Permission.ACCOUNT_MANAGE)
def show() -> ResponseReturnValue:
    """Show the account of the signed-in person."""
    return _page(_password_form())


@blueprint.post("/password")
@requires(Permission.ACCOUNT_MANAGE)
def change_password() -> ResponseReturnValue:
    """Change one's password; every other browser is signed out and this one gets a new id."""
    form = _password_form()
    if not form.validate() or not _knows_password(form):
        return _page(form, 422)
    person = current_user._get_current_object()
    services().accounts.set_password(
        person.user_id, services().passwords.hash(form.new.data or ""), actor=current_actor()
    )
    sessions.sign_in(person, how=RENEWED)
    flash("Your password is changed. Every other browser is signed out.", "success")
    return redirect(url_for("account.show"), 303)


@blueprint.get("/confirm")
@requires(Permission.ACCOUNT_MANAGE)
def ask_confirm() -> ResponseReturnValue:
    """Ask for the password once more; who gave it a moment ago goes on."""
    if step_up.is_recent():
        return redirect(own_path(request.args.get("next")), 303)
    return _confirm_page(step_up.ConfirmedForm(formdata=None))


@blueprint.post("/confirm")
@requires(Permission.ACCOUNT_MANAGE)
def confirm() -> ResponseReturnValue:
    """Take the password, and go back to where it was asked for."""
    form = step_up.ConfirmedForm()
    if not form.validate():
        return _confirm_page(form, 422)
    return redirect(own_path(request.form.get("next")), 303)


@blueprint.post("/sessions/<reference>/end")
@requires(Permission.ACCOUNT_MANAGE)
def end_session(reference: str) -> ResponseReturnValue:
    """Sign one of one's own browsers out."""
    own = sessions.current_record()
    if own is not None and own.reference == reference:
        sessions.sign_out()
        return redirect(url_for("sign_in.show"), 303)
    if services().sessions.end_one(current_user.user_id, reference, actor=current_actor()):
        flash("That browser is signed out.", "success")
    else:
        flash("That browser was signed out already. Nothing was changed.", "info")
    return redirect(url_for("account.show"), 303)


@blueprint.post("/sessions/end-all")
@requires(Permission.ACCOUNT_MANAGE)
def end_all_sessions() -> ResponseReturnValue:
    """Sign out everywhere, here too."""
    services().sessions.end_all(current_user._get_current_object(), actor=current_actor())
    sessions.forget_browser()
    flash("You are signed out everywhere.", "success")
    return redirect(url_for("sign_in.show"), 303)


def _confirm_page(form: step_up.ConfirmedForm, status: int = 200) -> Response:
    body = render_template("confirm.html", form=form, next=own_path(request.values.get("next")))
    return Response(body, status, content_type="text/html; charset=utf-8")


def _password_form() -> PasswordForm:
    return PasswordForm(
        personal=(current_user.email, *current_user.email.split("@"), current_user.display_name),
        needs_current=current_user.has_password,
    )


def _knows_password(form: PasswordForm) -> bool:
    """Check the present password; a session left open is not enough."""
    if not current_user.has_password:
        return True
    problem = step_up.password_problem(form.current.data or "")
    if problem is not None:
        form.current.errors = [problem]
    return problem is None


def _page(form: PasswordForm, status: int = 200) -> Response:
    body = render_template(
        "account.html",
        form=form,
        person=current_user,
        sessions=services().sessions.list_open(current_user.user_id),
        this=sessions.current_record(),
    )
    return Response(body, status, content_type="text/html; charset=utf-8")

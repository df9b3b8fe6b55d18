"""People and their roles, for administrators."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from resume_engine.core.permissions import Permission, Role
from webapp.accounts import step_up
from webapp.accounts.forms import ROLE_WORDS, AddPersonForm, RoleForm
from webapp.accounts.records import AccountError, Person, Purpose
from webapp.accounts.store import LoginLink
from webapp.extensions import services
from webapp.permissions import current_actor, requires

blueprint = Blueprint("users", __name__, url_prefix="/admin/users")


@blueprint.get("")
@requires(Permission.USERS_MANAGE)
def show() -> ResponseReturnValue:
    """List people, with a form to add one."""
    return _page(AddPersonForm(formdata=None, role=Role.OPERATOR.value))


@blueprint.post("")
@requires(Permission.USERS_MANAGE)
@step_up.confirmed_first("users.show")
def add() -> ResponseReturnValue:
    """Add a person and show the link that lets them in."""
    form = AddPersonForm()
    if not form.validate():
        return _page(form, status=422)
    accounts, actor = services().accounts, current_actor()
    try:
        person = accounts.add(
            form.email.data or "",
            role=Role(form.role.data),
            display_name=form.display_name.data or "",
            actor=actor,
        )
    except AccountError as problem:
        form.email.errors = [str(problem)]
        return _page(form, status=422)
    return _link_page(accounts.create_link(person.user_id, Purpose.INVITE, actor=actor))


@blueprint.post("/<int(max=2147483647):user_id>/role")
@requires(Permission.USERS_MANAGE)
@step_up.confirmed_first("users.show")
def change_role(user_id: int) -> ResponseReturnValue:
    """Give somebody another role; their sessions end at once."""
    person, form = _load(user_id), RoleForm()
    if not form.validate():
        abort(422, "Choose a role from the list. Nothing was changed.")
    role = Role(form.role.data)
    return _act(
        lambda: services().accounts.set_role(user_id, role, actor=current_actor()),
        done=f"{person.display_name} is {role} now and has to sign in again.",
        repeated=f"{person.display_name} is {role} already. Nothing was changed.",
    )


@blueprint.post("/<int(max=2147483647):user_id>/disable")
@requires(Permission.USERS_MANAGE)
@step_up.confirmed_first("users.show")
def disable(user_id: int) -> ResponseReturnValue:
    """Close an account; its sessions and links end at once."""
    person = _load(user_id)
    return _act(
        lambda: services().accounts.disable(user_id, actor=current_actor()),
        done=f"{person.display_name} is disabled and signed out everywhere.",
        repeated=f"{person.display_name} is disabled already. Nothing was changed.",
    )


@blueprint.post("/<int(max=2147483647):user_id>/enable")
@requires(Permission.USERS_MANAGE)
@step_up.confirmed_first("users.show")
def enable(user_id: int) -> ResponseReturnValue:
    """Open an account again."""
    person = _load(user_id)
    return _act(
        lambda: services().accounts.enable(user_id, actor=current_actor()),
        done=f"{person.display_name} may sign in again.",
        repeated=f"{person.display_name} is enabled already. Nothing was changed.",
    )


@blueprint.post("/<int(max=2147483647):user_id>/sign-out")
@requires(Permission.USERS_MANAGE)
def sign_out(user_id: int) -> ResponseReturnValue:
    """End somebody's sessions."""
    person = _load(user_id)
    return _act(
        lambda: services().sessions.end_all(person, actor=current_actor()) > 0,
        done=f"{person.display_name} is signed out everywhere.",
        repeated=f"{person.display_name} was not signed in. Nothing was changed.",
    )


@blueprint.post("/<int(max=2147483647):user_id>/link")
@requires(Permission.USERS_MANAGE)
@step_up.confirmed_first("users.show")
def create_link(user_id: int) -> ResponseReturnValue:
    """Make a new sign-in link and show it, once."""
    person = _load(user_id)
    purpose = Purpose.SIGN_IN if person.has_password else Purpose.INVITE
    try:
        return _link_page(services().accounts.create_link(user_id, purpose, actor=current_actor()))
    except AccountError as problem:
        flash(str(problem), "error")
        return redirect(url_for("users.show"), 303)


def _load(user_id: int) -> Person:
    person = services().accounts.get(user_id)
    if person is None:
        abort(404, "There is no such person.")
    return person


def _act(act: Callable[[], bool], *, done: str, repeated: str) -> ResponseReturnValue:
    try:
        changed = act()
    except AccountError as problem:
        flash(str(problem), "error")
    else:
        flash(done, "success") if changed else flash(repeated, "info")
    return redirect(url_for("users.show"), 303)


def _link_page(link: LoginLink) -> str:
    """Show a link in the answer itself: it is kept nowhere, so it cannot be shown again."""
    address = request.host_url.rstrip("/") + link.path
    return render_template("admin/link.html", link=link, address=address)


def _page(form: AddPersonForm, *, status: int = 200) -> Response:
    body = render_template(
        "admin/users.html",
        people=services().accounts.list_people(),
        form=form,
        roles=ROLE_WORDS,
    )
    return Response(body, status, content_type="text/html; charset=utf-8")

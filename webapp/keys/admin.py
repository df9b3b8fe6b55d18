"""API keys, for administrators."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Blueprint, Response, abort, flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from resume_engine.core import clock
from resume_engine.core.permissions import Permission, Role
from resume_engine.core.run import Environment
from webapp.accounts.step_up import ConfirmedForm
from webapp.extensions import services
from webapp.keys.forms import GRACES, LIFETIMES, ROLE_WORDS, CreateKeyForm, RevokeKeyForm, RotateKeyForm
from webapp.keys.records import ApiKey, KeyChangeError, KeyState
from webapp.keys.store import NewKey
from webapp.permissions import current_actor, requires

blueprint = Blueprint("keys", __name__, url_prefix="/admin/keys")


@blueprint.get("")
@requires(Permission.KEYS_MANAGE)
def show() -> ResponseReturnValue:
    """List keys, with a form to make one."""
    return _page(CreateKeyForm(formdata=None))


@blueprint.post("")
@requires(Permission.KEYS_MANAGE)
def create() -> ResponseReturnValue:
    """Make a key and show it, once."""
    form = CreateKeyForm()
    if not form.validate():
        return _page(form, status=422)
    lifetime = LIFETIMES[form.lifetime.data][1]
    try:
        made = services().keys.create(
            form.name.data or "",
            Role(form.role.data),
            actor=current_actor(),
            expires_at=clock.utc_now() + lifetime if lifetime is not None else None,
            environments=[Environment(word) for word in form.environments.data or ()],
        )
    except KeyChangeError as problem:
        form.name.errors = [str(problem)]
        return _page(form, status=422)
    return _receipt(made)


@blueprint.get("/<key_id>/rotate")
@requires(Permission.KEYS_MANAGE)
def ask_rotate(key_id: str) -> ResponseReturnValue:
    """Ask how long the old key goes on working."""
    return _ask("rotate", _load(key_id), RotateKeyForm(formdata=None))


@blueprint.post("/<key_id>/rotate")
@requires(Permission.KEYS_MANAGE)
def rotate(key_id: str) -> ResponseReturnValue:
    """Make a successor and show it, once."""
    key, form = _load(key_id), RotateKeyForm()
    if not form.validate():
        return _ask("rotate", key, form, status=422)
    try:
        made = services().keys.rotate(key_id, actor=current_actor(), grace=GRACES[form.grace.data][1])
    except KeyChangeError as problem:
        flash(str(problem), "error")
        return redirect(url_for("keys.show"), 303)
    return _receipt(made)


@blueprint.get("/<key_id>/revoke")
@requires(Permission.KEYS_MANAGE)
def ask_revoke(key_id: str) -> ResponseReturnValue:
    """Ask whether the key is to end."""
    return _ask("revoke", _load(key_id), RevokeKeyForm(formdata=None))


@blueprint.post("/<key_id>/revoke")
@requires(Permission.KEYS_MANAGE)
def revoke(key_id: str) -> ResponseReturnValue:
    """End a key at once."""
    key, form = _load(key_id), RevokeKeyForm()
    if not form.validate():
        return _ask("revoke", key, form, status=422)
    if services().keys.revoke(key_id, actor=current_actor()):
        flash(f"The key {key.label} is revoked: its next request is refused.", "success")
    else:
        flash(f"The key {key.label} was revoked already. Nothing was changed.", "info")
    return redirect(url_for("keys.show"), 303)


def _load(key_id: str) -> ApiKey:
    key = services().keys.get(key_id)
    if key is None:
        abort(404, "There is no such key.")
    return key


def _receipt(made: NewKey) -> str:
    """Show a key in the answer itself: it is kept nowhere, so it cannot be shown again."""
    return render_template("admin/key_receipt.html", made=made)


def _ask(act: str, key: ApiKey, form: ConfirmedForm, *, status: int = 200) -> Response:
    body = render_template(f"admin/key_{act}.html", key=key, form=form, graces=_offered(GRACES))
    return Response(body, status, content_type="text/html; charset=utf-8")


def _offered(table: Mapping[str, tuple[str, object]]) -> list[tuple[str, str]]:
    return [(value, words) for value, (words, _) in table.items()]


def _page(form: CreateKeyForm, *, status: int = 200) -> Response:
    now = clock.utc_now()
    keys = [(key, key.state(now)) for key in services().keys.list_keys()]
    over = (KeyState.REVOKED, KeyState.EXPIRED)
    body = render_template(
        "admin/keys.html",
        keys=[*(k for k in keys if k[1] not in over), *(k for k in keys if k[1] in over)],
        form=form,
        roles=ROLE_WORDS,
        lifetimes=_offered(LIFETIMES),
        from_settings=len(services().settings.api_keys),
    )
    return Response(body, status, content_type="text/html; charset=utf-8")

"""Who may see and do what: one mark on every view, enforced in one place, denied when it is missing.

@blueprint.get("/runs")
@requires(Permission.RUNS_READ)
def list_runs() -> str: ...
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask, Response, current_app, redirect, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user

from resume_engine.core.actor import Actor, Channel
from resume_engine.core.permissions import Permission, Role, role_allows
from webapp import csrf
from webapp.errors import AccessDeniedError, SignedOutError
from webapp.extensions import current_settings
from webapp.htmx import is_background, is_htmx, page_address
from webapp.keys.caller import count_request, current_caller
from webapp.redirects import own_path
from webapp.refusals import tell_denied
from webapp.settings import METRICS

View = TypeVar("View", bound=Callable[..., Any])

_MARK = "permission"
PUBLIC = "public"
NOTHING_GRANTS_IT = "nothing grants it"


class RouteMarkError(RuntimeError):
    """A route that does not say, or says twice, who may use it: the application does not start."""


def requires(permission: Permission) -> Callable[[View], View]:
    """Mark a view as open to roles that hold `permission`."""
    return lambda view: _marked(view, permission)


def public(view: View) -> View:
    """Mark a view as open to everybody, signed in or not."""
    return _marked(view, PUBLIC)


def _marked(view: View, mark: Permission | str) -> View:
    if hasattr(view, _MARK):
        raise RouteMarkError(f"{view.__module__}.{view.__name__} is marked twice: keep exactly one")
    setattr(view, _MARK, mark)
    return view


def permission_of(view: Callable[..., Any] | None) -> Permission | str | None:
    """Return the permission a view needs, `PUBLIC`, or None when it carries no mark."""
    return getattr(view, _MARK, None)


def can(permission: Permission | str) -> bool:
    """Return whether the signed-in person holds `permission`, by name or value; templates ask this."""
    if not current_user.is_authenticated:
        return False
    return role_allows(current_user.role, Permission(permission))


def current_actor() -> Actor:
    """Return the signed-in person, or the key of an API request, as the actor of what this request does."""
    if current_settings().is_api_path(request.path):
        return current_caller().actor
    if not current_user.is_authenticated:
        raise SignedOutError
    return Actor(name=current_user.email, role=Role(current_user.role), channel=Channel.DASHBOARD)


def register(app: Flask) -> None:
    """Enforce the marks before every request."""
    app.before_request(enforce)
    app.jinja_env.globals["can"] = can


def check_routes(app: Flask) -> None:
    """Raise `RouteMarkError` for a route without a mark."""
    for rule in app.url_map.iter_rules():
        if permission_of(app.view_functions[rule.endpoint]) is None:
            raise RouteMarkError(
                f"{rule.rule} ({rule.endpoint}): mark the view with @requires(...) or @public"
            )


def enforce() -> ResponseReturnValue | None:
    """Let a request pass only if the view is public or the signed-in person may use it."""
    if request.routing_exception is not None:
        return None  # no such page or method: the dispatcher says so
    needed = permission_of(current_app.view_functions.get(request.endpoint or ""))
    if current_settings().is_api_path(request.path):
        _enforce_key(needed)
        return None
    if needed == PUBLIC:
        csrf.check()
        return None
    if not current_user.is_authenticated:
        return ask_to_sign_in()
    csrf.check()
    if needed is None or not can(needed):
        tell_denied(current_actor(), str(needed or NOTHING_GRANTS_IT))
        raise AccessDeniedError
    return None


def _enforce_key(needed: Permission | str | None) -> None:
    """Let a request to the API pass only if its key may use the view; cookies mean nothing here."""
    if needed == PUBLIC or (request.path == METRICS and current_settings().metrics_public):
        return
    caller = current_caller()
    count_request()
    if not isinstance(needed, Permission) or not caller.may(needed):
        tell_denied(caller.actor, str(needed or NOTHING_GRANTS_IT))
        raise AccessDeniedError


def ask_to_sign_in() -> ResponseReturnValue:
    """Send a person to the sign-in page and back afterwards; a part of a page gets a 401 that says so."""
    if not is_htmx():
        came_for = request.full_path.rstrip("?")
        if request.method not in ("GET", "HEAD"):
            session["signed_out"] = True
            came_for = own_path(request.form.get("next"))  # the page of the form, nothing that was typed
        return redirect(url_for("sign_in.show", next=came_for), 303)
    if request.method == "GET" and not is_background():
        target = url_for("sign_in.show", next=page_address())
        return Response(status=401, headers={"HX-Redirect": target})
    raise SignedOutError  # what was typed stays on the page

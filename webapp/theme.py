"""The colour scheme a person chose: kept in a cookie that the server reads, so that no page flashes."""

from __future__ import annotations

from flask import Blueprint, Response, abort, redirect, request

from webapp.permissions import public
from webapp.presentation import THEME_COOKIE, THEMES
from webapp.redirects import own_path

ONE_YEAR_S = 365 * 86_400

blueprint = Blueprint("theme", __name__)


@blueprint.post("/theme")
@public
def choose() -> Response:
    """Keep the chosen theme and go back to the page it was chosen on."""
    theme = request.form.get("theme", "")
    if theme not in THEMES:
        abort(400, f"theme: expected one of {', '.join(THEMES)}")
    response = redirect(own_path(request.form.get("next", "/")), 303)
    if theme == "system":
        response.delete_cookie(THEME_COOKIE, samesite="Lax", httponly=True, secure=request.is_secure)
    else:
        response.set_cookie(
            THEME_COOKIE, theme, max_age=ONE_YEAR_S, samesite="Lax", httponly=True, secure=request.is_secure
        )
    return response  # type: ignore[return-value]

"""Requests that change something come from our own pages: a token per session says so."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Flask, current_app, request
from flask_wtf.csrf import CSRFError, CSRFProtect

from webapp.extensions import current_settings
from webapp.refusals import tell_foreign

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
TOO_OLD = "This page is too old to be used. Nothing was changed: reload it and try again."
NO_COOKIE = (
    "Your browser keeps this dashboard's cookies for HTTPS only, and this address is plain HTTP. "
    "Use its https:// address, or start it with SECURE_COOKIES=false in a network you trust."
)
OWN_FETCH_SITES = frozenset({"same-origin", "none"})


def register(app: Flask) -> None:
    """Prepare the tokens; `webapp.permissions` calls `check` for every view, none can forget it."""
    app.config["WTF_CSRF_CHECK_DEFAULT"] = False
    app.config["WTF_CSRF_TIME_LIMIT"] = None  # a token lives as long as its session
    app.config["WTF_CSRF_SSL_STRICT"] = (
        False  # wants a Referer; our pages send none, `is_own_site` asks better
    )
    CSRFProtect(app)


def check() -> None:
    """Raise `CSRFError` unless the request changes nothing or comes from one of our pages; that is told."""
    if request.method in SAFE_METHODS:
        return
    if not is_own_site():
        tell_foreign("it comes from another site")
        raise CSRFError("This request came from another site. Nothing was changed.")
    protect: CSRFProtect = current_app.extensions["csrf"]
    try:
        protect.protect()
    except CSRFError as problem:
        tell_foreign(problem.description or "its token is wrong")
        raise CSRFError(NO_COOKIE if _cookies_were_dropped() else TOO_OLD) from None


def _cookies_were_dropped() -> bool:
    """Return whether the browser could not keep a cookie, which reads like an old page otherwise."""
    return current_settings().secure_cookies and not request.is_secure and not request.cookies


def is_own_site() -> bool:
    """Return whether the request was not sent by a page of another site."""
    fetch_site = request.headers.get("Sec-Fetch-Site")
    if fetch_site is not None:
        return fetch_site in OWN_FETCH_SITES
    origin = request.headers.get("Origin")
    if origin is None or origin == "null":
        return True  # our own forms say "null", since our pages send no referrer: the token decides
    parts = urlsplit(origin)
    return parts.netloc == request.host

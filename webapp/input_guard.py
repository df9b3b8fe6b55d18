"""Refuse what no page of ours can send, before a view or the database stumbles over it."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Flask, abort, request

from webapp.extensions import current_settings

PROBES = ("/health", "/ready")
"""Asked by the address of a container, whatever the server is called; they tell nothing worth a trick."""


def register(app: Flask) -> None:
    """Look at every request first."""
    app.before_request(refuse_other_hosts)
    app.before_request(refuse_nul)


def refuse_other_hosts() -> None:
    """Refuse a Host header that names somebody else: a page reached that way is not ours to show.

    Flask's own check cannot be told of IPv6 addresses and leaves nothing to draw an error page with.
    """
    if request.path in PROBES:
        return
    trusted = current_settings().trusted_hosts
    if trusted is not None and not any(_is_named(request.host, name) for name in trusted):
        abort(400, "This dashboard is not known by that name. Use its own address, or set TRUSTED_HOSTS.")


def _is_named(host: str, name: str) -> bool:
    try:
        found = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    wanted = name.strip("[]").lower()
    return found.endswith(wanted) if wanted.startswith(".") else found == wanted


def refuse_nul() -> None:
    """Refuse NUL characters: PostgreSQL cannot store them, SQLite can, and nobody types them."""
    values = [request.path, *_texts(request.args)]
    if request.method not in ("GET", "HEAD", "OPTIONS") and not current_settings().is_api_path(request.path):
        values += _texts(request.form)
    if any("\0" in value for value in values):
        abort(400, "The request holds a character that cannot be stored. Nothing was changed.")


def _texts(values: object) -> list[str]:
    return [text for key, text in values.items(multi=True) for text in (key, text)]  # type: ignore[attr-defined]
